//! What an agent's own token may do, and where secrets appear.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use crds::names::NAMESPACE;
use crds::{NodeBootstrap, NodeBootstrapReport};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};

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

/// A client with the token of a ServiceAccount of the operator's namespace, and its kubeconfig.
async fn client_of(
    lab: &Lab,
    account: &str,
    bound_to: Option<BoundObjectReference>,
) -> Result<(kube::Client, PathBuf)> {
    let accounts: Api<ServiceAccount> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { bound_object_ref: bound_to, ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    let token = made.status.and_then(|status| status.token).context("a token")?;
    // The administrator's kubeconfig with the token in place of the certificate.
    let file = lab.testbed.dir().join(format!("{account}.kubeconfig"));
    let mut config: serde_json::Value =
        serde_saphyr::from_str(&std::fs::read_to_string(lab.testbed.kubeconfig())?)?;
    config["users"][0]["user"] = serde_json::json!({"token": token});
    std::fs::write(&file, config.to_string())?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(&file)?, &options).await?;
    Ok((kube::Client::try_from(config)?, file))
}

pub(crate) async fn an_agent_may_write_its_own_status_and_nothing_else(lab: &Lab) -> Result<()> {
    two_with_secrets(lab).await?;
    // A token as the kubelet gets it for the agent's pod on worker1.
    let pod = lab.agent_pod("mine", "worker1").await?;
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).context("an account")?;
    let bound_to = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let (client, file) = client_of(lab, &account, Some(bound_to)).await?;
    let (reports, node_bootstraps) =
        (Api::<NodeBootstrapReport>::all(client.clone()), Api::<NodeBootstrap>::all(client));
    let tried = Patch::Merge(serde_json::json!({"status": {"reason": "Tried"}}));
    let spec = Patch::Merge(serde_json::json!({"spec": {"permit": {"id": 9, "disruption": "Restart"}}}));
    let params = PatchParams::default();

    // It is the right token: its own Report's status it may write.
    reports.patch_status("mine.worker1", &params, &tried).await.context("its own Report's status")?;
    let refused = |what: &str, answer: Result<(), kube::Error>, told: &str| match answer {
        Ok(()) => anyhow::bail!("{what}: was allowed"),
        Err(error) if error.to_string().contains(told) => Ok(()),
        Err(error) => anyhow::bail!("{what}: refused, but not as it should be: {error}"),
    };
    let others_node = reports.patch_status("mine.worker2", &params, &tried).await.map(drop);
    refused("another node's Report", others_node, "may not write the Report of node worker2")?;
    let others = reports.patch_status("theirs.worker1", &params, &tried).await.map(drop);
    refused("another NodeBootstrap's Report", others, "of another NodeBootstrap")?;
    refused(
        "its own Report's spec",
        reports.patch("mine.worker1", &params, &spec).await.map(drop),
        "forbidden",
    )?;
    // Through the status subresource a spec goes nowhere.
    let _ = reports.patch_status("mine.worker1", &params, &spec).await;
    ensure!(lab.report("mine", "worker1").await?.spec.permit.id != 9, "wrote its spec through the status");
    let everything = serde_json::json!({"spec": {"allNodes": true}});
    let patch = node_bootstraps.patch("mine", &params, &Patch::Merge(everything)).await.map(drop);
    refused("a NodeBootstrap", patch, "forbidden")?;
    let patch = node_bootstraps.patch_status("mine", &params, &tried).await.map(drop);
    refused("a NodeBootstrap's status", patch, "forbidden")?;
    let deleted = reports.delete("mine.worker1", &DeleteParams::default()).await.map(drop);
    refused("its own Report's end", deleted, "forbidden")?;

    // The right to patch is that of all ServiceAccounts of the namespace; none but the agents may use it.
    let (client, _) = client_of(lab, "default", None).await?;
    let by_default =
        Api::<NodeBootstrapReport>::all(client).patch_status("mine.worker1", &params, &tried).await;
    let told = "only agents may write here";
    refused("a Report's status, by the ServiceAccount default", by_default.map(drop), told)?;

    let config = format!("--kubeconfig={}", file.display());
    let agent = async |words: &[&str]| lab.testbed.kubectl(&[&[config.as_str()], words].concat()).await;
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
    for words in [
        "get secrets -n nodebootstrap-system",
        "get node worker1",
        "get pods -n nodebootstrap-system",
        "get nb",
    ] {
        let output = agent(&words.split(' ').collect::<Vec<_>>()).await?;
        ensure!(!output.success() && output.stderr.contains("forbidden"), "{words}: {output:?}");
    }
    Ok(())
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
            // The ledger, root's alone as the file itself, has the digest by which it knows that nobody changed the file.
            let excluded =
                if word.starts_with("very-secret") { "--exclude=" } else { "--exclude=ledger.json" };
            let found = ["grep", "-rl", excluded, word.as_str(), "/var/lib/nodebootstrap"];
            ensure!(!lab.host_succeeds(&node, &found).await?, "{word} is in the agent's state on {node}");
        }
    }
    Ok(())
}
