//! Whether the agent is alive, for the kubelet's exec probe. No TCP port: two agents on one node share its network.
//!
//! In: the [`Pulse`] of the agent's loop. Out: one line on a unix socket in the pod to whoever connects. The runtime has
//! one thread, so an answer alone proves that nothing blocks it.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

/// Where the agent listens, in its pod.
pub const SOCKET: &str = "/tmp/nodebootstrap-agent.sock";
/// How long one step may take: a service may be slow to start, but a download tells of each piece.
const STUCK: Duration = Duration::from_secs(15 * 60);
const ANSWER: Duration = Duration::from_secs(4);

/// What the agent's loop tells about itself.
#[derive(Debug)]
pub struct Pulse {
    busy: Cell<bool>,
    progressed: Cell<Instant>,
    ready: Cell<bool>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { busy: Cell::new(false), progressed: Cell::new(Instant::now()), ready: Cell::new(false) }
    }
}

impl Pulse {
    /// Something was got on with.
    pub fn beat(&self) {
        self.progressed.set(Instant::now());
    }

    /// A pass begins or ends.
    pub fn set_busy(&self, busy: bool) {
        self.busy.set(busy);
        self.beat();
    }

    /// The Report was read: from now on the agent does what it is for, also while the API is away.
    pub fn set_ready(&self) {
        self.ready.set(true);
    }

    fn word(&self) -> &'static str {
        if self.busy.get() && self.progressed.get().elapsed() > STUCK {
            "stuck"
        } else if self.ready.get() {
            "ready"
        } else {
            "alive"
        }
    }
}

/// Answers for ever.
///
/// # Errors
/// If the socket cannot be made.
pub async fn answer(socket: &str, pulse: &Pulse) -> Result<(), String> {
    // Left by the container before this one; the folder is the pod's.
    let _ = rustix::fs::unlink(socket);
    let listener = UnixListener::bind(socket).map_err(|error| format!("{socket}: {error}"))?;
    loop {
        let (mut stream, _) = listener.accept().await.map_err(|error| format!("{socket}: {error}"))?;
        // Whoever has gone needs no answer; a line fits into the socket's buffer.
        let _ = stream.write_all(pulse.word().as_bytes()).await;
    }
}

/// Asks the agent of this pod.
///
/// # Errors
/// If it does not answer, or not what is wanted.
pub async fn ask(socket: &str, ready: bool) -> Result<(), String> {
    let mut word = String::new();
    let asked = timeout(ANSWER, async { UnixStream::connect(socket).await?.read_to_string(&mut word).await });
    match asked.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("the agent does not answer on {socket}: {error}")),
        Err(_) => return Err(format!("the agent does not answer on {socket} within {} s", ANSWER.as_secs())),
    }
    match word.as_str() {
        "ready" => Ok(()),
        "alive" if !ready => Ok(()),
        "alive" => Err("the agent has not read its Report yet: is the API server there?".to_owned()),
        _ => Err(format!("the agent has been at one step for more than {} minutes", STUCK.as_secs() / 60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_probe_sees_alive_ready_and_gone() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s").to_string_lossy().into_owned();
        assert!(ask(&socket, false).await.unwrap_err().contains("does not answer"));
        let pulse = Pulse::default();
        let asking = async {
            while ask(&socket, false).await.is_err() {
                tokio::task::yield_now().await;
            }
            assert!(ask(&socket, true).await.unwrap_err().contains("Report"));
            pulse.set_ready();
            assert_eq!(ask(&socket, true).await, Ok(()));
            pulse.set_busy(true);
            pulse.progressed.set(Instant::now() - STUCK - Duration::from_secs(1));
            assert!(ask(&socket, false).await.unwrap_err().contains("one step"));
            pulse.beat();
            assert_eq!(ask(&socket, false).await, Ok(()));
        };
        tokio::select! {
            ended = answer(&socket, &pulse) => panic!("{ended:?}"),
            () = asking => {}
        }
    }
}
