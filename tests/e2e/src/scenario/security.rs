//! What an agent's own token may do, and where secrets appear.

use anyhow::{Context, Result, ensure};
use crds::names::NAMESPACE;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;

use crate::lab::Lab;

/// Two NodeBootstraps with a secret each, so that there is somebody else's to reach for.
async fn two_with_secrets(lab: &Lab) -> Result<()> {
    for name in ["mine", "theirs"] {
        lab.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{nodebootstrap-e2e: \"true\"}}}}\n\
             stringData: {{k: very-secret-{name}}}\n---\n\
             apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {name}}}\nspec:\n  allNodes: true\n  \
             files: [{{path: /etc/secret-{name}, secretRef: {{name: {name}, key: k}}}}]\n"
        ))
        .await?;
        lab.ready(name).await?;
    }
    Ok(())
}

/// Name of the payload that a NodeBootstrap's revision has.
async fn payload(lab: &Lab, name: &str) -> Result<String> {
    let status = lab.node_bootstrap(name).await?.status.context("a status")?;
    status.current_revision.context("a revision")
}

pub(crate) async fn an_agent_may_write_its_own_status_and_nothing_else(lab: &Lab) -> Result<()> {
    two_with_secrets(lab).await?;
    // A token as the kubelet gets it for the agent's pod on worker1.
    let pod = lab.agent_pod("mine", "worker1").await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).context("an account")?;
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let made = accounts.create_token_request(&account, &PostParams::default(), &request).await?;
    let token = made.status.and_then(|status| status.token).context("a token")?;
    let token = format!("--token={token}");
    // Without the administrator's certificate, which would win over the token.
    let config = lab.testbed.dir().join("agent.kubeconfig");
    let admin = std::fs::read_to_string(lab.testbed.kubeconfig())?;
    let mut parsed: serde_json::Value = serde_saphyr::from_str(&admin)?;
    parsed["users"][0]["user"] = serde_json::json!({});
    std::fs::write(&config, parsed.to_string())?;
    let config = format!("--kubeconfig={}", config.display());
    let agent = async |words: &[&str]| {
        lab.testbed.kubectl(&[&[config.as_str(), token.as_str()], words].concat()).await
    };
    let refused = async |what: &str, words: &[&str], told: &str| {
        let output = agent(words).await?;
        ensure!(!output.success(), "{what}: was allowed");
        ensure!(output.stderr.contains(told), "{what}: refused, but not as it should be: {}", output.stderr);
        Ok(())
    };
    let patch = r#"--patch={"status":{"reason":"Tried"}}"#;
    let status =
        |report: &'static str| ["patch", "nbr", report, "--subresource=status", "--type=merge", patch];

    // It is the right token: its own Report's status it may write.
    agent(&status("mine.worker1")).await?.ok().context("its own Report's status")?;
    refused("another node's Report", &status("mine.worker2"), "may not write the Report of node worker2")
        .await?;
    refused("another NodeBootstrap's Report", &status("theirs.worker1"), "of another NodeBootstrap").await?;
    let spec = r#"--patch={"spec":{"permit":{"id":9,"disruption":"Restart"}}}"#;
    refused("its own Report's spec", &["patch", "nbr", "mine.worker1", "--type=merge", spec], "forbidden")
        .await?;
    // Through the status subresource a spec goes nowhere.
    let sly = [&status("mine.worker1")[..5], &[spec]].concat();
    agent(&sly).await?;
    ensure!(lab.report("mine", "worker1").await?.spec.permit.id != 9, "wrote its spec through the status");
    refused("a NodeBootstrap", &["patch", "nb", "mine", "--type=merge", spec], "forbidden").await?;
    refused(
        "a NodeBootstrap's status",
        &["patch", "nb", "mine", "--subresource=status", "--type=merge", patch],
        "forbidden",
    )
    .await?;
    refused("a Report of its own making", &["delete", "nbr", "mine.worker2"], "forbidden").await?;
    let namespace = ["-n", NAMESPACE];
    let secret = async |name: &str| agent(&[&["get", "secret", name], &namespace[..]].concat()).await;
    secret(&payload(lab, "mine").await?).await?.ok().context("its own payload")?;
    for other in [payload(lab, "theirs").await?, "mine".to_owned(), "nodebootstrap-hmac-key".to_owned()] {
        let output = secret(&other).await?;
        ensure!(
            !output.success() && output.stderr.contains("forbidden"),
            "read the Secret {other}: {output:?}"
        );
    }
    refused("all Secrets", &["get", "secrets", "-n", NAMESPACE], "forbidden").await?;
    refused("a Node", &["get", "node", "worker1"], "forbidden").await?;
    refused("a pod", &["get", "pods", "-n", NAMESPACE], "forbidden").await
}

pub(crate) async fn a_secret_reaches_the_file_and_nothing_else(lab: &Lab) -> Result<()> {
    two_with_secrets(lab).await?;
    for node in lab.nodes()? {
        ensure!(lab.host(&node, &["cat", "/etc/secret-mine"]).await? == "very-secret-mine");
        ensure!(lab.stat(&node, "/etc/secret-mine").await? == "root:root 600 regular file");
    }
    // A new value is a new revision, though it shows nowhere.
    let before = payload(lab, "mine").await?;
    let new = r#"--patch={"stringData":{"k":"very-secret-other"}}"#;
    lab.kubectl(&["patch", "secret", "-n", NAMESPACE, "mine", new]).await?;
    for node in lab.nodes()? {
        lab.wait_host(&node, &["cat", "/etc/secret-mine"], "very-secret-other").await?;
    }
    lab.ready("mine").await?;
    ensure!(payload(lab, "mine").await? != before, "the same revision");
    let digest = |text: &str| {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(text))
    };
    let mut words = vec!["very-secret".to_owned(), "dmVyeS1zZWNyZXQ".to_owned()];
    words.extend(["very-secret-mine", "very-secret-other", "very-secret-theirs"].map(digest));
    let place = ["-n", NAMESPACE];
    for (what, query) in [
        ("objects", "get nb,nbr,controllerrevisions,daemonsets,pods,configmaps -o yaml"),
        ("events", "get events -A -o yaml"),
        ("the operator's log", "logs deployment/nodebootstrap-operator --tail=-1"),
        ("the agents' log", "logs -l nodebootstrap.io/component=agent --tail=-1"),
    ] {
        let mut query: Vec<_> = query.split(' ').collect();
        if !query.contains(&"-A") {
            query.extend(place);
        }
        let text = lab.kubectl(&query).await?;
        // What kubectl itself wrote of the Secret's last applied form is in the Secret only.
        for word in &words {
            ensure!(!text.contains(word.as_str()), "{word} is in {what}");
        }
    }
    for node in lab.nodes()? {
        for word in &words {
            let found = ["grep", "-rl", word.as_str(), "/var/lib/nodebootstrap"];
            ensure!(!lab.host_succeeds(&node, &found).await?, "{word} is in the agent's state on {node}");
        }
    }
    Ok(())
}
