//! The units of an attempt: the process that carries it out, the one that rolls it back, the timer that starts that if the
//! first dies or hangs, and the guard that does it at a boot, with what goes on after it. All but the last two lie in /run and
//! are gone at a boot.

use crate::host::state::PROGRAM;
use crate::host::write::Ids;
use crate::host::{Host, HostError, Kind, Place};

use super::NODE_UNITS;

const RUNTIME: &str = "/run/systemd/system";
const GUARD: &str = "/etc/systemd/system/nodebootstrap-guard.service";
/// What goes on where the guard could not put everything back: the kubelet runs by then.
const AFTER_GUARD: &str = "/etc/systemd/system/nodebootstrap-after-guard.service";
const GUARD_LINK: &str = "/etc/systemd/system/multi-user.target.wants/nodebootstrap-guard.service";

/// The unit that carries an attempt out.
pub(super) fn switch(node_bootstrap: &str) -> String {
    format!("nodebootstrap-switch-{node_bootstrap}.service")
}

/// The unit that rolls it back.
pub(super) fn rollback(node_bootstrap: &str) -> String {
    format!("nodebootstrap-rollback-{node_bootstrap}.service")
}

/// The dead-man.
pub(super) fn dead_man(node_bootstrap: &str) -> String {
    format!("nodebootstrap-rollback-{node_bootstrap}.timer")
}

/// Writes the unit that carries an attempt out.
pub(super) async fn prepare(host: &Host, node_bootstrap: &str) -> Result<(), HostError> {
    let text = format!(
        "[Unit]\nDescription=nodebootstrap: bring the NodeBootstrap {node_bootstrap} to this node\n\
         [Service]\nType=exec\nRemainAfterExit=yes\nExecStart={PROGRAM} switch {node_bootstrap}\n"
    );
    write(host, &format!("{RUNTIME}/{}", switch(node_bootstrap)), &text)?;
    host.systemd.reload().await
}

/// Writes the unit that puts back at a boot what is not confirmed by then.
pub(super) fn guard(host: &Host) -> Result<(), HostError> {
    let before: Vec<String> = NODE_UNITS.iter().map(|name| format!("{name}.service")).collect();
    let guard = format!(
        "[Unit]\nDescription=nodebootstrap: put back what a restart of the machine interrupted\n\
         RequiresMountsFor=/var/lib/nodebootstrap\nAfter=dbus.service\nBefore={}\n\
         OnFailure=nodebootstrap-after-guard.service\n\
         [Service]\nType=oneshot\nExecStart={PROGRAM} guard\n[Install]\nWantedBy=multi-user.target\n",
        before.join(" ")
    );
    let after = format!(
        "[Unit]\nDescription=nodebootstrap: put back what could not be put back before the kubelet started\n\
         StartLimitIntervalSec=0\n\
         [Service]\nType=exec\nExecStart={PROGRAM} rollback\nRestart=on-failure\nRestartSec=10\n"
    );
    write(host, AFTER_GUARD, &after)?;
    write(host, GUARD, &guard)?;
    host.root.replace_link(&place_of(host, GUARD_LINK)?, GUARD, (0, 0), Kind::Link)
}

/// How much later than the process itself the dead-man rolls back, in seconds: who sees what is wrong can tell it.
pub(super) const GRACE: u64 = 5;

/// Arms the dead-man: soon after `seconds` what is not confirmed is rolled back.
pub(super) async fn arm(host: &Host, node_bootstrap: &str, seconds: u64) -> Result<(), HostError> {
    let (switch, rollback) = (switch(node_bootstrap), rollback(node_bootstrap));
    // The first that is started stops the other: only one of them works at a time.
    let rolls_back = format!(
        "[Unit]\nDescription=nodebootstrap: put back what the NodeBootstrap {node_bootstrap} had before\n\
         Conflicts={switch}\nAfter={switch}\nStartLimitIntervalSec=0\n\
         [Service]\nType=exec\nExecStart={PROGRAM} rollback {node_bootstrap}\nRestart=on-failure\nRestartSec=2\n"
    );
    // From a fixed time: OnActiveSec= begins anew each time that somebody has systemd read its units again (v252). systemd's
    // own accuracy would have it a minute late.
    let at = host.systemd.age().await?.as_secs().saturating_add(seconds).saturating_add(GRACE);
    let timer = format!(
        "[Unit]\nDescription=nodebootstrap: the NodeBootstrap {node_bootstrap} is confirmed by then, or rolled back\n\
         [Timer]\nOnStartupSec={at}\nAccuracySec=100ms\nRemainAfterElapse=no\n"
    );
    write(host, &format!("{RUNTIME}/{rollback}"), &rolls_back)?;
    write(host, &format!("{RUNTIME}/{}", dead_man(node_bootstrap)), &timer)?;
    host.systemd.reload().await?;
    host.systemd.start(&dead_man(node_bootstrap)).await?.await
}

/// Takes all of it away again, but what runs now.
pub(super) async fn disarm(host: &Host, node_bootstrap: &str, is_last: bool) -> Result<(), HostError> {
    let timer = dead_man(node_bootstrap);
    // At a boot there is none.
    if let Ok(stopped) = host.systemd.stop(&timer).await {
        let _ = stopped.await;
    }
    let units = [switch(node_bootstrap), rollback(node_bootstrap), timer];
    for unit in &units {
        remove(host, &format!("{RUNTIME}/{unit}"))?;
    }
    let mut ended = units.to_vec();
    if is_last {
        remove(host, GUARD_LINK)?;
        remove(host, GUARD)?;
        remove(host, AFTER_GUARD)?;
        ended.extend([GUARD, AFTER_GUARD].map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()));
    }
    host.systemd.reload().await?;
    // What was killed, or could not do all, counts as failed, and is over.
    for unit in &ended {
        host.systemd.forget(unit).await;
    }
    Ok(())
}

/// A place, with all directories above it.
fn place_of(host: &Host, path: &str) -> Result<Place, HostError> {
    for parent in host.root.locate(path)?.missing_paths() {
        host.root.make_directory(&host.root.locate(&parent)?, Ids::root(0o755))?;
    }
    host.root.locate(path)
}

fn write(host: &Host, path: &str, text: &str) -> Result<(), HostError> {
    host.root.write(&place_of(host, path)?, text.as_bytes(), Ids::root(0o644)).map(drop)
}

fn remove(host: &Host, path: &str) -> Result<(), HostError> {
    let place = host.root.locate(path)?;
    if place.look()?.is_some() { host.root.remove_file(&place) } else { Ok(()) }
}
