//! Brings a spec together with what it refers to. In: a NodeBootstrap. Out: the revision that its nodes shall have, and
//! what it claims; or why there is none, and then the last good one.
//!
//! A spec is rendered anew when it, or the version of anything that it refers to, has changed. Values are fetched for
//! that and not kept. The key that hides secret values in revisions lies in a Secret that only the operator reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crds::NodeBootstrapSpec;
use crds::names::{self, HMAC_KEY_SECRET};
use crds::revision::{self, Identity, RenderError, Rendered, Revision, Source, Values};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::OnceCell;

use crate::cluster::Cluster;
use crate::conflict::Claims;
use crate::error::Error;
use crate::observed::NodeBootstrap;
use crate::skew::{self, VERSION_SKEW};
use crate::status::Problem;
use crate::world::World;

/// The key's key in its Secret.
const HMAC_KEY: &str = "key";

/// The revision that nodes shall have.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Whether secret values belong to it.
    pub has_payload: bool,
    /// What it claims.
    pub claims: Arc<Claims>,
}

/// What came of rendering.
#[derive(Debug, Clone, Default)]
pub struct Rendering {
    /// The revision that nodes shall have; the last good one if there is a problem, and none if there never was one.
    pub target: Option<Target>,
    /// Why the spec as it stands cannot be rendered.
    pub problem: Option<Problem>,
    /// The revision with all its values, if it has just been rendered.
    pub fresh: Option<Arc<Rendered>>,
}

/// What a rendering depends on: uid and generation of the NodeBootstrap, the version of each object that its spec refers to,
/// and what keeps its kubelets from going with the API server.
type Inputs = (String, i64, Vec<(Source, String, Option<String>)>, Option<String>);

/// See the module.
#[derive(Default)]
pub struct Renderer {
    cluster_id: OnceCell<String>,
    hmac_key: OnceCell<Vec<u8>>,
    known: Mutex<HashMap<String, (Inputs, Rendering)>>,
    claims: Mutex<HashMap<String, Arc<Claims>>>,
}

impl Renderer {
    /// Renders, or remembers.
    ///
    /// # Errors
    /// If what the spec refers to cannot be fetched for now.
    pub async fn render(
        &self,
        cluster: &Cluster,
        world: &World,
        node_bootstrap: &NodeBootstrap,
        spec: &NodeBootstrapSpec,
    ) -> Result<Rendering, Error> {
        let version = spec.kubelet.as_ref().and_then(|kubelet| kubelet.version.as_deref());
        let skew = match version {
            Some(version) => {
                let server = cluster.server_version().await?;
                server.and_then(|server| skew::problem(version, &server))
            }
            None => None,
        };
        let inputs = inputs(world, node_bootstrap, spec, skew.clone());
        if let Some((known, rendering)) = lock(&self.known).get(&node_bootstrap.name)
            && *known == inputs
        {
            return Ok(rendering.clone());
        }
        let mut rendering = self.render_anew(cluster, world, node_bootstrap, spec).await?;
        if let (None, Some(message)) = (&rendering.problem, skew) {
            let target = self.last_good(cluster, world, node_bootstrap).await?;
            let problem = Problem { reason: VERSION_SKEW.to_owned(), message, is_stalled: true };
            rendering = Rendering { target, problem: Some(problem), fresh: None };
        }
        let remembered = Rendering { fresh: None, ..rendering.clone() };
        lock(&self.known).insert(node_bootstrap.name.clone(), (inputs, remembered));
        Ok(rendering)
    }

    /// Takes that a NodeBootstrap must be rendered anew.
    pub fn forget(&self, node_bootstrap: &str) {
        lock(&self.known).remove(node_bootstrap);
    }

    async fn render_anew(
        &self,
        cluster: &Cluster,
        world: &World,
        node_bootstrap: &NodeBootstrap,
        spec: &NodeBootstrapSpec,
    ) -> Result<Rendering, Error> {
        let references = revision::references(spec);
        let values = fetch(cluster, &references).await?;
        // Without a secret the key hides nothing, and is not made.
        let has_secrets = references.iter().any(|reference| reference.source == Source::Secret);
        let no_key = Vec::new();
        let key = if has_secrets {
            self.hmac_key.get_or_try_init(|| hmac_key(cluster, world)).await?
        } else {
            &no_key
        };
        let identity = Identity {
            node_bootstrap: node_bootstrap.name.clone(),
            uid: node_bootstrap.uid.clone(),
            cluster: self.cluster_id.get_or_try_init(|| cluster.id()).await?.clone(),
        };
        match revision::render(&identity, spec, &values, key) {
            Ok(rendered) => {
                let claims = Arc::new(Claims::of_revision(&rendered.revision));
                lock(&self.claims).insert(rendered.name.clone(), Arc::clone(&claims));
                let target =
                    Target { name: rendered.name.clone(), has_payload: !rendered.payload.is_empty(), claims };
                Ok(Rendering { target: Some(target), problem: None, fresh: Some(Arc::new(rendered)) })
            }
            Err(error) => {
                let target = self.last_good(cluster, world, node_bootstrap).await?;
                Ok(Rendering { target, problem: Some(problem(&error)), fresh: None })
            }
        }
    }

    /// The revision that was in force before the spec broke.
    async fn last_good(
        &self,
        cluster: &Cluster,
        world: &World,
        node_bootstrap: &NodeBootstrap,
    ) -> Result<Option<Target>, Error> {
        let Some(name) = &node_bootstrap.status.update_revision else { return Ok(None) };
        if world.revisions.get(name).is_none() {
            return Ok(None);
        }
        let claims = self.claims_of(cluster, name).await?;
        Ok(Some(Target { name: name.clone(), has_payload: world.secrets.get(name).is_some(), claims }))
    }

    /// What a revision claims, by its name. One that is gone or of another format claims nothing that we know of.
    ///
    /// # Errors
    /// If it cannot be fetched for now.
    pub async fn claims_of(&self, cluster: &Cluster, name: &str) -> Result<Arc<Claims>, Error> {
        if let Some(claims) = lock(&self.claims).get(name) {
            return Ok(Arc::clone(claims));
        }
        let found: Option<ControllerRevision> = cluster.get("ControllerRevision", name).await?;
        let claims = match found.map(|revision| Revision::read(&revision.data.0)) {
            Some(Ok(revision)) => Claims::of_revision(&revision),
            Some(Err(error)) => {
                tracing::warn!(revision = name, %error, "what it claims is not known");
                Claims::default()
            }
            None => Claims::default(),
        };
        let claims = Arc::new(claims);
        lock(&self.claims).insert(name.to_owned(), Arc::clone(&claims));
        Ok(claims)
    }

    /// Forgets what revisions claim that nothing names any more.
    pub fn keep_claims(&self, is_named: impl Fn(&str) -> bool) {
        lock(&self.claims).retain(|name, _| is_named(name));
    }
}

fn problem(error: &RenderError) -> Problem {
    Problem { reason: error.reason().to_owned(), message: error.to_string(), is_stalled: true }
}

fn inputs(
    world: &World,
    node_bootstrap: &NodeBootstrap,
    spec: &NodeBootstrapSpec,
    skew: Option<String>,
) -> Inputs {
    let objects: BTreeSet<_> =
        revision::references(spec).into_iter().map(|reference| (reference.source, reference.name)).collect();
    let versions = objects
        .into_iter()
        .map(|(source, name)| {
            let store = match source {
                Source::ConfigMap => &world.config_maps,
                Source::Secret => &world.secrets,
            };
            let version = store.get(&name).map(|meta| meta.resource_version.clone());
            (source, name, version)
        })
        .collect();
    (node_bootstrap.uid.clone(), node_bootstrap.generation, versions, skew)
}

/// The values behind references; what is not there is left out.
async fn fetch(cluster: &Cluster, references: &[revision::Reference]) -> Result<Values, Error> {
    let objects: BTreeSet<_> =
        references.iter().map(|reference| (reference.source, reference.name.as_str())).collect();
    let mut found: BTreeMap<(Source, &str), BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for (source, name) in objects {
        let values = match source {
            Source::ConfigMap => {
                let object: Option<ConfigMap> = cluster.get("ConfigMap", name).await?;
                object.map(|object| {
                    let text = object.data.unwrap_or_default().into_iter();
                    let bytes = object.binary_data.unwrap_or_default().into_iter();
                    text.map(|(key, text)| (key, text.into_bytes()))
                        .chain(bytes.map(|(key, bytes)| (key, bytes.0)))
                        .collect()
                })
            }
            Source::Secret => {
                let object: Option<Secret> = cluster.get("Secret", name).await?;
                object.map(|object| {
                    object.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
                })
            }
        };
        found.insert((source, name), values.unwrap_or_default());
    }
    Ok(references
        .iter()
        .filter_map(|reference| {
            let value = found.get(&(reference.source, reference.name.as_str()))?.get(&reference.key)?;
            Some((reference.clone(), value.clone()))
        })
        .collect())
}

/// The key that hides secret values: made on first need. If two make it at once, one create is refused, and both use
/// what is there.
async fn hmac_key(cluster: &Cluster, world: &World) -> Result<Vec<u8>, Error> {
    for _ in 0..2 {
        let found: Option<Secret> = cluster.get("Secret", HMAC_KEY_SECRET).await?;
        if let Some(secret) = found {
            let key = secret.data.and_then(|mut data| data.remove(HMAC_KEY)).map(|bytes| bytes.0);
            return key.filter(|key| key.len() >= 32).ok_or_else(|| Error::Damaged {
                what: format!("Secret {HMAC_KEY_SECRET}"),
                why: format!("it has no {HMAC_KEY} of at least 32 bytes"),
            });
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(Error::Random)?;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(HMAC_KEY_SECRET.to_owned()),
                namespace: Some(names::NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            immutable: Some(true),
            data: Some(BTreeMap::from([(HMAC_KEY.to_owned(), ByteString(key.to_vec()))])),
            ..Secret::default()
        };
        cluster.create(&world.secrets, "Secret", &secret).await?;
    }
    Err(Error::Damaged {
        what: format!("Secret {HMAC_KEY_SECRET}"),
        why: "it is gone as soon as it is made".to_owned(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map is whole after each of these few lines, whoever panicked elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
