//! The programs under test: they lie beside this one, built with it. Out come the images made of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testbed::{Testbed, image};

/// The version that `deploy/` names.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

/// Where operator and agent lie: where `E2E_PROGRAMS` says, or where this program was built, and with it all others.
pub(crate) fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("E2E_PROGRAMS") {
        return Ok(PathBuf::from(folder));
    }
    let own = std::env::current_exe().context("cannot see this program's own path")?;
    Ok(own.parent().context("this program lies in no folder")?.to_owned())
}

/// Makes the images and puts them onto machines: all, or those named.
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
