//! What a testbed remembers between commands: `state.json` in its folder. In go an id and what is taken on this
//! machine, out come the numbers (subnet, ports) that are its own.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths::{self, Id};

/// How many testbeds can be up side by side.
const SLOTS: u8 = 64;
/// The host parts that machines may have: 10.99.SLOT.11 to .50.
pub(crate) const FIRST_SUFFIX: u8 = 11;
/// See [`FIRST_SUFFIX`].
pub(crate) const LAST_SUFFIX: u8 = 50;

/// All that later commands need to find a testbed again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) id: String,
    /// The numbers of its networks.
    pub(crate) slot: Slot,
    pub(crate) ports: Ports,
    pub(crate) machines: Vec<MachineState>,
    /// Whether `up` came to its end; without it the next `up` clears and begins anew.
    pub(crate) complete: bool,
}

/// One machine as remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MachineState {
    pub(crate) name: String,
    pub(crate) suffix: u8,
    /// Bare until it joins.
    pub(crate) bare: bool,
    /// Its own /etc/machine-id, by which a node is told from an earlier one of the same name.
    pub(crate) machine_id: String,
}

/// The TCP ports on the machine that runs the testbed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) apiserver: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    pub(crate) artifacts: u16,
}

/// A number that one testbed has for itself, from which its addresses and interface names follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot(u8);

impl Slot {
    /// The bridge's address, where the API server and the artifact server are reached from the machines.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, 1)
    }

    /// The address of a machine.
    pub(crate) fn address(self, suffix: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, suffix)
    }

    /// The range of the pods of all machines; its own for each testbed, since the host has routes to it.
    pub(crate) fn pod_range(self) -> String {
        format!("10.{}.0.0/16", 144 + self.0)
    }

    /// The range of the pods of one machine.
    pub(crate) fn pod_subnet(self, suffix: u8) -> String {
        format!("10.{}.{suffix}.0/24", 144 + self.0)
    }

    /// The bridge; interface names have at most 15 characters, so it bears the slot and, as its alias, the id.
    pub(crate) fn bridge(self) -> String {
        format!("nbt{}", self.0)
    }

    /// The host's end of a machine's veth pair.
    pub(crate) fn veth(self, suffix: u8) -> String {
        format!("nbt{}-{suffix}", self.0)
    }

    /// Chooses the slot of an id: always the same one if it is free, else the next free one.
    pub(crate) fn choose(id: &str, taken: impl Fn(Slot) -> bool) -> Result<Slot> {
        // FNV-1a: std's hashes are not promised to stay the same between releases.
        let hash =
            id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let first = (hash % u32::from(SLOTS)) as u8;
        (0..SLOTS)
            .map(|step| Slot((first + step) % SLOTS))
            .find(|slot| !taken(*slot))
            .context("no free 10.99.X.0/24 is left: end a testbed with `testbed down --id ID`")
    }

    /// Whether an address or a route of this machine (text of `ip -4 -o route` and `address`) already lies in the
    /// slot's networks.
    pub(crate) fn collides(self, routes: &str) -> bool {
        let nets = [format!("10.99.{}.", self.0), format!("10.{}.", 144 + self.0)];
        routes.split_whitespace().any(|word| nets.iter().any(|net| word.starts_with(net)))
    }
}

impl Ports {
    /// Free ports, below the range that outgoing connections use, so that none is lost while the API server is
    /// stopped by a test.
    pub(crate) fn choose(slot: Slot) -> Result<Ports> {
        let mut free = (0..100)
            .map(|n| 20_000 + u16::from(slot.0) * 100 + n)
            .filter(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok());
        let mut next = || free.next().context("not enough free TCP ports between 20000 and 26400");
        Ok(Ports {
            etcd: next()?,
            etcd_peer: next()?,
            apiserver: next()?,
            controller_manager: next()?,
            scheduler: next()?,
            artifacts: next()?,
        })
    }
}

impl State {
    /// Reads the state of an id; `None` if it has none.
    pub(crate) fn load(id: &Id) -> Result<Option<State>> {
        let path = id.state_dir().join("state.json");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is damaged: `testbed down --id {id}` clears it", path.display())
            })?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes it, whole or not at all: a killed command must leave a file that `down` can read.
    pub(crate) fn save(&self) -> Result<()> {
        let dir = Id::parse(&self.id)?.state_dir();
        let temporary = dir.join("state.json.new");
        paths::write(&temporary, serde_json::to_vec_pretty(self).context("cannot write the state as JSON")?)?;
        std::fs::rename(&temporary, dir.join("state.json"))
            .with_context(|| format!("cannot replace {}", dir.join("state.json").display()))
    }

    /// The lowest host part that no machine has.
    pub(crate) fn free_suffix(&self) -> Result<u8> {
        let free = (FIRST_SUFFIX..=LAST_SUFFIX).find(|s| self.machines.iter().all(|m| m.suffix != *s));
        match free {
            Some(suffix) => Ok(suffix),
            None => bail!("a testbed has at most {} machines", LAST_SUFFIX - FIRST_SUFFIX + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_slot_and_yields_to_a_taken_one() {
        let first = Slot::choose("demo", |_| false).expect("free");
        assert_eq!(first, Slot::choose("demo", |_| false).expect("free"));
        let second = Slot::choose("demo", |slot| slot == first).expect("free");
        assert_ne!(first, second);
        assert!(Slot::choose("demo", |_| true).is_err());
    }

    #[test]
    fn a_route_of_the_host_takes_the_slot_that_holds_it_and_no_other() {
        let routes = "default via 192.0.2.1 dev eth0 \n10.99.1.0/24 dev nbt1 proto kernel src 10.99.1.1";
        assert!(Slot(1).collides(routes));
        assert!(!Slot(10).collides(routes) && !Slot(0).collides(routes));
        assert!(Slot(2).collides("10.146.0.0/16 dev tun0"));
    }
}
