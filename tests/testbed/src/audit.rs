//! The API server's audit log: in goes the file, out come the requests since a moment, so that a test can prove
//! what was written to the API and what was not.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// A moment in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor(pub(crate) u64);

/// A request to the API server that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`, `get`, `list` or `watch`.
    pub verb: String,
    /// The user's name, such as `system:node:worker1`.
    pub user: String,
    /// What the client calls itself.
    pub user_agent: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural, such as `pods`.
    pub resource: String,
    /// Such as `status`; empty if the object itself was meant.
    pub subresource: String,
    /// The object's name; empty if the server chose it or none was given.
    pub name: String,
    /// The object's namespace; empty if it has none.
    pub namespace: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// The path and query of the request.
    pub uri: String,
}

impl AuditEvent {
    /// Whether the request could change something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }
}

/// All requests, once each, without their content. Only what Kubernetes' own parts read is left out: it is most of
/// the volume, and proves nothing.
pub(crate) fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "omitManagedFields": true,
        "rules": [
            {
                "level": "None",
                "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"],
                "verbs": ["get", "list", "watch"],
            },
            {
                "level": "None",
                "userGroups": ["system:serviceaccounts:kube-system", "system:nodes"],
                "verbs": ["get", "list", "watch"],
            },
            {"level": "Metadata"},
        ],
    })
}

/// The log's end.
pub(crate) fn end(log: &Path) -> Result<AuditCursor> {
    let length = std::fs::metadata(log).with_context(|| format!("no audit log at {}", log.display()))?.len();
    Ok(AuditCursor(length))
}

/// What was written since, up to the last whole line.
pub(crate) fn since(log: &Path, cursor: AuditCursor) -> Result<Vec<AuditEvent>> {
    let mut file = std::fs::File::open(log).with_context(|| format!("no audit log at {}", log.display()))?;
    let mut text = String::new();
    file.seek(SeekFrom::Start(cursor.0))
        .and_then(|_| file.read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", log.display()))?;
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(parse).collect()
}

fn parse(line: &str) -> Result<AuditEvent> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Line {
        verb: String,
        user: User,
        #[serde(default)]
        user_agent: String,
        #[serde(default)]
        object_ref: Object,
        response_status: Option<Status>,
        #[serde(default, rename = "requestURI")]
        request_uri: String,
    }
    #[derive(Deserialize)]
    struct User {
        #[serde(default)]
        username: String,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Object {
        api_group: String,
        resource: String,
        subresource: String,
        name: String,
        namespace: String,
    }
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        code: u16,
    }
    let line: Line =
        serde_json::from_str(line).with_context(|| format!("not a line of an audit log: {line:?}"))?;
    Ok(AuditEvent {
        verb: line.verb,
        user: line.user.username,
        user_agent: line.user_agent,
        group: line.object_ref.api_group,
        resource: line.object_ref.resource,
        subresource: line.object_ref.subresource,
        name: line.object_ref.name,
        namespace: line.object_ref.namespace,
        code: line.response_status.map_or(0, |status| status.code),
        uri: line.request_uri,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x","stage":"ResponseComplete","requestURI":"/api/v1/nodes/a/status?timeout=10s","verb":"patch","user":{"username":"system:node:a","groups":["system:nodes"]},"sourceIPs":["10.99.0.11"],"userAgent":"kubelet/v1.36.3","objectRef":{"resource":"nodes","name":"a","apiVersion":"v1","subresource":"status"},"responseStatus":{"metadata":{},"code":200}}"#;

    #[test]
    fn a_line_becomes_an_event_and_half_a_line_waits() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("audit.log");
        std::fs::write(&log, format!("{LINE}\n")).expect("written");
        let cursor = end(&log).expect("there");
        std::fs::write(&log, format!("{LINE}\n{LINE}\n{}", &LINE[..40])).expect("written");
        let events = since(&log, cursor).expect("read");
        assert_eq!(events.len(), 1, "{events:?}");
        let event = &events[0];
        assert!(event.is_write());
        assert_eq!(
            (event.resource.as_str(), event.subresource.as_str(), event.code),
            ("nodes", "status", 200)
        );
        assert_eq!((event.user.as_str(), event.name.as_str()), ("system:node:a", "a"));
    }

    #[test]
    fn requests_without_an_object_or_a_status_are_read_too() {
        let line = r#"{"verb":"get","user":{"username":"u"},"requestURI":"/version"}"#;
        let event = parse(line).expect("read");
        assert!(!event.is_write() && event.resource.is_empty() && event.code == 0);
    }
}
