//! The programs under test: in goes the source, out come static programs and the images made of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testbed::{Testbed, image};
use tokio::process::Command;

/// The version that `deploy/` names.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

/// Where this program was built, and so the others are.
pub(crate) fn folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot see this program's own path")?;
    Ok(own.parent().context("this program lies in no folder")?.to_owned())
}

/// Builds operator, agent and testbed as `make programs` does.
pub(crate) async fn build() -> Result<()> {
    let status = Command::new("make")
        .args(["--no-print-directory", "programs"])
        .current_dir(workspace())
        .status()
        .await
        .context("cannot run make")?;
    ensure!(status.success(), "the programs did not build");
    Ok(())
}

/// Makes the images of what was built and puts them onto machines: all, or those named.
pub(crate) async fn import(testbed: &Testbed, machines: &[&str]) -> Result<()> {
    for part in ["operator", "agent"] {
        let program = format!("nodebootstrap-{part}");
        let inside = format!("/{program}");
        let archive = testbed.dir().join(format!("{part}.tar"));
        image::build(
            &format!("nodebootstrap/{part}:{VERSION}"),
            &archive,
            &inside,
            &[(&inside, &folder()?.join(&program))],
        )?;
        testbed.import_image(&archive, machines).await?;
    }
    Ok(())
}
