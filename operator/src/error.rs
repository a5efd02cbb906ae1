//! What can go wrong on the way to the API server. Each error says what was being done; its category is one of a few
//! words, so that it can label a metric.

use thiserror::Error;

/// Why a pass could not do its part.
#[derive(Debug, Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("{what}: {}", answer(.source))]
    Api {
        /// What was being done.
        what: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// Nothing came back in time.
    #[error("{what}: no answer from the API server in time; tried again by itself")]
    Timeout {
        /// What was being done.
        what: String,
    },
    /// No random bytes.
    #[error("no random bytes for the key that hides secret values: {0}")]
    Random(getrandom::Error),
    /// Something of ours is not what it must be.
    #[error("{what} is damaged: {why}: delete it, it is made anew")]
    Damaged {
        /// The object.
        what: String,
        /// Why.
        why: String,
    },
    /// Something cannot be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// What kind of error it is, in one of a few words.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match status.code {
                    403 => "forbidden",
                    404 => "not_found",
                    409 => "conflict",
                    422 | 400 => "invalid",
                    429 => "throttled",
                    500.. => "unavailable",
                    _ => "other",
                },
                _ => "unavailable",
            },
            Self::Timeout { .. } => "timeout",
            Self::Random(_) | Self::Damaged { .. } | Self::Json(_) => "internal",
        }
    }

    /// Whether the API server is there and says no; a person may have to help, and the status should say so. What is
    /// over by itself (a conflict, a server that restarts) is not worth a word.
    pub fn is_refusal(&self) -> bool {
        matches!(self.category(), "forbidden" | "not_found" | "invalid" | "internal")
    }

    /// Whether the API server could not be reached at all.
    pub fn is_outage(&self) -> bool {
        matches!(self.category(), "unavailable" | "timeout")
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.category() == "not_found"
    }

    /// Whether the object is there already.
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.is_already_exists()))
    }

    /// Whether a precondition did not hold.
    pub fn is_conflict(&self) -> bool {
        self.category() == "conflict"
    }
}

/// The API server's own words without what is around them.
fn answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}
