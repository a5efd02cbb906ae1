//! How the things of a ledger are on the host now.
//!
//! In: an [`Item`]. Out: its [`Shape`].

use std::collections::BTreeMap;

use crds::revision::Anchor;

use super::accounts::Accounts;
use super::kernel;
use super::state::MAX_PRIORS;
use super::systemd::UnitState;
use super::write::Ids;
use super::{Host, HostError, Kind};
use crate::anchor;
use crate::ledger::{Item, Shape};

/// How a thing is. `units`: the states of those that are asked for.
///
/// # Errors
/// If the way to it cannot be trusted, or it cannot be read.
pub fn look(
    host: &Host,
    accounts: &Accounts,
    units: &BTreeMap<String, UnitState>,
    item: &Item,
) -> Result<Shape, HostError> {
    let unit = |name: &String| units.get(name).cloned().unwrap_or_default();
    Ok(match item {
        Item::Group(name) => accounts.group(name).map_or(Shape::Absent, Shape::Group),
        Item::User(name) => accounts.user(name).cloned().map_or(Shape::Absent, Shape::User),
        Item::Member(user, group) => Shape::Is(accounts.is_member(user, group)),
        Item::Comment(user) => Shape::Text(accounts.comment(user).to_owned()),
        Item::Locked(user) => Shape::Is(accounts.is_locked(user)),
        Item::Sysctl(name) => kernel::setting(&host.root, name)?.map_or(Shape::Absent, Shape::Text),
        Item::Masked(name) => Shape::Is(host.root.is_masked(name)?),
        Item::Enabled(name) => Shape::Is(unit(name).is_enabled()),
        Item::Active(name) => Shape::Is(!unit(name).has_stopped()),
        Item::Part(path, anchor) => {
            let read = host.root.locate(path).and_then(|place| place.read(anchor::MAX_FILE));
            match read {
                Ok(Some((bytes, _))) => part(&bytes, anchor),
                Ok(None) => Shape::Absent,
                Err(HostError::TooLarge { .. } | HostError::Changed { .. }) => Shape::Other,
                Err(error) => return Err(error),
            }
        }
        // What is inside is looked at one by one.
        Item::Inside(_) => Shape::Other,
        Item::Path(path) => {
            let place = host.root.locate(path)?;
            let Some(meta) = place.look()? else { return Ok(Shape::Absent) };
            let ids = Ids { uid: meta.uid, gid: meta.gid, mode: meta.mode };
            match meta.kind {
                Kind::Directory => Shape::Directory(ids),
                // Whatever it is, it can neither be kept nor be ours; to read it might take hours.
                Kind::File if meta.size > MAX_PRIORS => Shape::Other,
                Kind::File => {
                    let Some(digest) = host.digests.of_seen(&place, &meta)? else { return Ok(Shape::Absent) };
                    Shape::File { ids, digest, attributes: host.root.attributes(&place)? }
                }
                // One whose target is no text is never replaced.
                Kind::Link => match host.root.read_link(&place)? {
                    Some(target) => Shape::Link { target, owner: (meta.uid, meta.gid) },
                    None => Shape::Other,
                },
                Kind::Special => Shape::Other,
            }
        }
    })
}

/// How a part of a file with this content is.
pub fn part(bytes: &[u8], anchor: &Anchor) -> Shape {
    match anchor::find(bytes, anchor) {
        Ok(Some(found)) => Shape::Text(found.text),
        Ok(None) => Shape::Absent,
        // It can neither be ours nor be told from what is.
        Err(_) => Shape::Other,
    }
}

/// The units whose state is needed to look at these.
pub fn units<'a>(items: impl Iterator<Item = &'a Item>) -> impl Iterator<Item = String> {
    items.filter_map(|item| match item {
        Item::Masked(unit) | Item::Enabled(unit) | Item::Active(unit) => Some(unit.clone()),
        Item::Group(_)
        | Item::User(_)
        | Item::Member(..)
        | Item::Comment(_)
        | Item::Locked(_)
        | Item::Sysctl(_)
        | Item::Path(_)
        | Item::Part(..)
        | Item::Inside(_) => None,
    })
}
