//! The container runtime of this host, by its own word: by the question that the kubelet asks it, too (`Status` of
//! runtime.v1 in k8s.io/cri-api), and may tell the API server of much later.
//!
//! In: the runtime's socket. Out: why it cannot run pods, or nothing. A question without parameters and an answer of a few
//! fields: they are written and read here, without what makes programs of interfaces.

use std::time::Duration;

/// How long it may take.
const ANSWER: Duration = Duration::from_secs(3);
/// Its path, as gRPC has it; the name of the host means nothing.
const STATUS: &str = "http://localhost/runtime.v1.RuntimeService/Status";
/// A message of no fields: whether it is compressed, its length in four bytes, and nothing.
const NOTHING: [u8; 5] = [0; 5];
/// The conditions without which the kubelet takes no pods.
const NEEDED: [&str; 2] = ["RuntimeReady", "NetworkReady"];

/// Asks the runtime that listens on a socket.
///
/// # Errors
/// In words, why it cannot run pods.
pub async fn ready(socket: &str) -> Result<(), String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(ANSWER)
        .tls_certs_only([])
        .http2_prior_knowledge()
        .unix_socket(socket)
        .build();
    let client = client.map_err(|error| format!("it cannot be asked: {error}"))?;
    let question = client
        .post(STATUS)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(NOTHING.to_vec());
    let words = |error: reqwest::Error| match error.is_timeout() {
        true => format!("no answer within {} s", ANSWER.as_secs()),
        false => format!("nothing answers on {socket}"),
    };
    let answer = question.send().await.map_err(words)?;
    let refusal = answer.headers().get("grpc-message").and_then(|message| message.to_str().ok());
    if let Some(refusal) = refusal.filter(|refusal| !refusal.is_empty()) {
        return Err(refusal.to_owned());
    }
    let answer = answer.bytes().await.map_err(words)?;
    not_ready(answer.get(NOTHING.len()..).unwrap_or_default()).map_or(Ok(()), Err)
}

/// Why a runtime cannot run pods, by its `StatusResponse`; `None`: it can.
pub fn not_ready(response: &[u8]) -> Option<String> {
    // StatusResponse.status, RuntimeStatus.conditions
    let conditions = texts(response, 1).flat_map(|status| texts(status, 1)).map(Condition::of);
    let conditions: Vec<Condition> = conditions.collect();
    NEEDED.iter().find_map(|name| match conditions.iter().find(|condition| condition.name == *name) {
        Some(condition) if condition.is_true => None,
        Some(condition) if condition.message.is_empty() => Some(format!("it is not {name}")),
        Some(condition) => Some(format!("it is not {name}: {}", condition.message)),
        None => Some(format!("it does not say that it is {name}")),
    })
}

/// `RuntimeCondition`.
struct Condition {
    name: String,
    is_true: bool,
    message: String,
}

impl Condition {
    fn of(message: &[u8]) -> Self {
        let text =
            |number| String::from_utf8_lossy(texts(message, number).last().unwrap_or_default()).into_owned();
        let is_true = Fields(message).any(|field| matches!(field, (2, Field::Number(1..))));
        Self { name: text(1), is_true, message: text(4) }
    }
}

/// The texts and messages that stand in a message as the field of this number.
fn texts(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    Fields(message).filter_map(move |field| match field {
        (of, Field::Text(text)) if of == number => Some(text),
        _ => None,
    })
}

/// The value of a field.
enum Field<'a> {
    Number(u64),
    Text(&'a [u8]),
    Other,
}

/// The fields of a message, with their numbers, as protocol buffers encode them: up to what is none.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.number()?;
        let field = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => self.bytes(8).map(|_| Field::Other)?,
            2 => {
                let length = self.number()?;
                Field::Text(self.bytes(usize::try_from(length).ok()?)?)
            }
            5 => self.bytes(4).map(|_| Field::Other)?,
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

impl<'a> Fields<'a> {
    /// Seven bits in each byte, the lowest first; the eighth says that there are more.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = *self.bytes(1)?.first()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that is a text or a message.
    fn field(number: u8, text: &[u8]) -> Vec<u8> {
        let length = u8::try_from(text.len()).expect("a short one");
        [&[number << 3 | 2, length], text].concat()
    }

    fn condition(name: &str, is_true: bool, message: &str) -> Vec<u8> {
        // What is false, or an empty text, is left out.
        let is_true: &[u8] = if is_true { &[2 << 3, 1] } else { &[] };
        let message = if message.is_empty() { Vec::new() } else { field(4, message.as_bytes()) };
        field(1, &[&field(1, name.as_bytes()), is_true, &message].concat())
    }

    fn told(conditions: &[Vec<u8>]) -> Option<String> {
        // Behind the status stand the words of `info`.
        not_ready(&[field(1, &conditions.concat()), field(2, b"\x0a\x01a\x12\x01b")].concat())
    }

    #[test]
    fn a_runtime_can_run_pods_when_it_and_its_network_are_ready() {
        let runtime = condition("RuntimeReady", true, "");
        let no_network = condition("NetworkReady", false, "cni plugin not initialized");
        assert_eq!(told(&[runtime.clone(), condition("NetworkReady", true, "")]), None);
        assert_eq!(
            told(&[runtime, no_network]).as_deref(),
            Some("it is not NetworkReady: cni plugin not initialized")
        );
        assert_eq!(told(&[]).as_deref(), Some("it does not say that it is RuntimeReady"));
        assert!(not_ready(b"\xff\xff").is_some(), "an answer of something else");
    }
}
