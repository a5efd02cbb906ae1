//! The container runtime of this host, by its own word: by the question that the kubelet asks it, too (`Status` of
//! runtime.v1 in k8s.io/cri-api), and may tell the API server of much later.
//!
//! In: the runtime's socket. Out: why it cannot run pods, or nothing. One question without parameters takes no client of
//! gRPC: it is a POST over HTTP/2, and the answer a message with five bytes before it.

use std::time::Duration;

use prost::Message;

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
    let Ok(response) = StatusResponse::decode(response) else {
        return Some("its answer is none to this question".to_owned());
    };
    let conditions = response.status.unwrap_or_default().conditions;
    NEEDED.iter().find_map(|name| match conditions.iter().find(|condition| condition.name == *name) {
        Some(condition) if condition.is_true => None,
        Some(condition) if condition.message.is_empty() => Some(format!("it is not {name}")),
        Some(condition) => Some(format!("it is not {name}: {}", condition.message)),
        None => Some(format!("it does not say that it is {name}")),
    })
}

// What is read of the messages of k8s.io/cri-api, pkg/apis/runtime/v1/api.proto, with its numbers.

#[derive(Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, Message)]
struct RuntimeCondition {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    is_true: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(name: &str, is_true: bool, message: &str) -> RuntimeCondition {
        RuntimeCondition { name: name.to_owned(), is_true, message: message.to_owned() }
    }

    fn told(conditions: &[RuntimeCondition]) -> Option<String> {
        let status = Some(RuntimeStatus { conditions: conditions.to_vec() });
        // Behind the status stand the words of `info`, which nobody reads.
        let info = b"\x12\x06\x0a\x01a\x12\x01b";
        not_ready(&[&StatusResponse { status }.encode_to_vec()[..], info].concat())
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
