//! What is served over HTTP: `/healthz` (a restart would not help), `/readyz` (all is known) and `/metrics`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::controller::Shared;

/// The three paths.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.health.trouble(&shared.queue) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.world.unsynced().as_slice() {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("not listed yet: {}\n", missing.join(", "))),
    }
}

async fn metrics(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.metrics.text() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_alive_before_it_is_ready() {
        let shared = Shared::default();
        assert_eq!(healthz(State(shared.clone())).await.0, StatusCode::OK);
        let (code, text) = readyz(State(shared.clone())).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("NodeBootstraps"));
        for_all_synced(&shared);
        assert_eq!(readyz(State(shared)).await.0, StatusCode::OK);
    }

    fn for_all_synced(shared: &Shared) {
        let world = &shared.world;
        world.node_bootstraps.replace(Vec::new());
        world.nodes.replace(Vec::new());
        world.reports.replace(Vec::new());
        world.pods.replace(Vec::new());
        for owned in [&world.daemon_sets, &world.service_accounts, &world.roles, &world.role_bindings] {
            owned.replace(Vec::new());
        }
        for meta in [&world.revisions, &world.secrets, &world.config_maps] {
            meta.replace(Vec::new());
        }
    }
}
