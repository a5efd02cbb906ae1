//! The network: in go a slot and machines, out come a bridge on the host and a network namespace for each machine.
//!
//! ```text
//! host: nbtX 10.99.X.1 ──┬── veth ── nbt.ID.cp1     eth0 10.99.X.11   pods 10.(144+X).11.0/24
//!                        └── veth ── nbt.ID.worker1 eth0 10.99.X.12   pods 10.(144+X).12.0/24
//! ```
//!
//! Pods reach each other by routes between the machines, and the host (API server to webhooks) by routes of its own.
//! The host does not forward, so no setting of its kernel is touched; machines do not reach the internet.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::paths::Id;
use crate::process;
use crate::state::{FIRST_SUFFIX, LAST_SUFFIX, Slot};

/// What every interface of an id bears as its alias, by which a later run finds what a killed one left.
fn alias(id: &Id) -> String {
    format!("nodebootstrap testbed {id}")
}

/// All addresses and routes of this host, to keep away from.
pub(crate) async fn taken() -> Result<String> {
    let routes = process::run_args("ip", &["-4", "-o", "route", "show", "table", "all"]).await?;
    let addresses = process::run_args("ip", &["-4", "-o", "address"]).await?;
    Ok(routes + &addresses)
}

/// Makes the bridge.
pub(crate) async fn create_bridge(id: &Id, slot: Slot) -> Result<()> {
    let (bridge, gateway, alias) = (slot.bridge(), slot.gateway(), alias(id));
    batch(
        None,
        &format!(
            "link add {bridge} type bridge\n\
             link set {bridge} alias \"{alias}\"\n\
             address add {gateway}/24 dev {bridge}\n\
             link set {bridge} up\n"
        ),
    )
    .await
    .context("cannot make the testbed's bridge")
}

/// Makes the network namespace of a machine and joins it to the bridge.
pub(crate) async fn create_namespace(id: &Id, slot: Slot, machine: &str, suffix: u8) -> Result<()> {
    let namespace = id.namespace(machine);
    let (bridge, veth, gateway, address) =
        (slot.bridge(), slot.veth(suffix), slot.gateway(), slot.address(suffix));
    batch(
        None,
        &format!(
            "netns add {namespace}\n\
             link add {veth} type veth peer name eth0 netns {namespace}\n\
             link set {veth} alias \"{}\"\n\
             link set {veth} master {bridge} up\n\
             route replace {} via {address}\n",
            alias(id),
            slot.pod_subnet(suffix),
        ),
    )
    .await
    .with_context(|| format!("cannot join machine {machine} to the network"))?;
    let mut inside = format!(
        "link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
    );
    // To every machine that there could be, so that a new one changes nothing on the others.
    for other in (FIRST_SUFFIX..=LAST_SUFFIX).filter(|other| *other != suffix) {
        let _ = writeln!(inside, "route add {} via {}", slot.pod_subnet(other), slot.address(other));
    }
    batch(Some(&namespace), &inside).await.with_context(|| format!("cannot set up the network of {machine}"))
}

/// Removes the network namespace of a machine, and with it its veth pair.
pub(crate) async fn remove_namespace(id: &Id, slot: Slot, machine: &str, suffix: u8) -> Result<()> {
    delete_link(&slot.veth(suffix)).await?;
    delete_namespace(&id.namespace(machine)).await
}

/// Removes all interfaces and namespaces of an id.
pub(crate) async fn clear(id: &Id) -> Result<()> {
    let alias = alias(id);
    for interface in names("/sys/class/net") {
        let file = format!("/sys/class/net/{interface}/ifalias");
        if std::fs::read_to_string(file).is_ok_and(|text| text.trim() == alias) {
            delete_link(&interface).await?;
        }
    }
    let prefix = id.namespace("");
    for namespace in names("/run/netns").into_iter().filter(|name| name.starts_with(&prefix)) {
        delete_namespace(&namespace).await?;
    }
    Ok(())
}

async fn delete_link(name: &str) -> Result<()> {
    // A veth is gone as soon as the namespace of its other end is.
    let gone = || !std::path::Path::new("/sys/class/net").join(name).exists();
    if gone() {
        return Ok(());
    }
    match process::run_args("ip", &["link", "delete", name]).await {
        Err(error) if !gone() => Err(error),
        _ => Ok(()),
    }
}

async fn delete_namespace(name: &str) -> Result<()> {
    if !std::path::Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    process::run_args("ip", &["netns", "delete", name]).await.map(drop)
}

fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Many `ip` commands in one process.
async fn batch(namespace: Option<&str>, commands: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    process::run_with_input(command.args(["-batch", "-"]), commands.as_bytes()).await.map(drop)
}
