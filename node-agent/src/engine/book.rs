//! Keeps the ledger: what a run will make is written down before its first change, and settled after its last.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crds::Sha256;

use super::{Change, Plan, Request};
use crate::anchor;
use crate::host::accounts::Accounts;
use crate::host::state::MAX_PRIORS;
use crate::host::systemd::UnitState;
use crate::host::write::{Ids, Inside};
use crate::host::{Host, HostError, Kind, items};
use crate::ledger::{Before, Item, Ledger, Provenance, Shape};
use crate::resource::removal::is_above;
use crate::resource::{Action, Step};

/// What a plan knows for the ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    /// As it was when the plan was made.
    pub(crate) ledger: Rc<Ledger>,
    /// What the revision claims.
    pub(crate) claimed: BTreeSet<Item>,
    /// The resources all of whose entries are done.
    pub(crate) made: BTreeSet<String>,
    /// Its recursive directories, and what all gets that is inside.
    pub(crate) recursive: BTreeMap<String, Inside>,
    /// Units that are restarted for the content of a thing.
    pub(crate) restarts: Vec<(Item, Vec<String>)>,
    /// Entries that are done with.
    pub(crate) settled: Vec<Item>,
    /// Directories that another NodeBootstrap removes when it is taken off. Ours too, until nothing of ours lies below.
    pub(crate) passed_on: Vec<Item>,
    /// Owners that a recursive directory is answerable for from now on.
    pub(crate) handed: Vec<(String, String, Before)>,
    /// What lies elsewhere now: from, to.
    pub(crate) moved: Vec<(Item, Item)>,
    /// What holds a secret value.
    pub(crate) secrets: Vec<Item>,
    /// The states of units.
    pub(crate) units: BTreeMap<String, UnitState>,
}

impl Notes {
    /// Whether the ledger knows all that the revision claims.
    pub(crate) fn is_complete(&self) -> bool {
        self.claimed.iter().all(|item| self.ledger.get(item).is_some_and(|entry| entry.done && !entry.shared))
    }
}

/// Writes down what a plan will make. Contents that it replaces are kept first.
pub(super) fn open(host: &Host, request: &Request, plan: &Plan) -> Result<(), HostError> {
    let node_bootstrap = &request.revision.node_bootstrap;
    let notes = &plan.notes;
    let mut ledger = Ledger::clone(&notes.ledger);
    let accounts = Accounts::load(&host.root)?;
    let look = |item: &Item| items::look(host, &accounts, &notes.units, item);
    // Before anything is given away: what has no entry any more, a recursive directory remembers.
    for item in notes.settled.iter().filter(|item| matches!(item, Item::Path(_))) {
        ledger.release(item);
    }
    for (from, to) in &notes.moved {
        ledger.moved(from, to);
    }
    let others = host.state.other_ledgers(node_bootstrap)?;
    // What is named is no longer only needed.
    for item in &notes.claimed {
        if ledger.get(item).is_some_and(|entry| entry.shared) {
            ledger.release(item);
        }
    }
    ledger.hand_over(&notes.recursive);
    for (directory, inside) in &notes.recursive {
        ledger.intend_inside(directory, BTreeMap::new(), *inside);
    }
    for (directory, path, before) in &notes.handed {
        ledger.remember_inside(directory, path, before.clone());
    }
    let steps = plan.steps.iter().filter(|step| step.undoes.is_none());
    for action in steps.flat_map(|step| step.action.parts()) {
        if let Action::OwnBelow { path, inside, skip } = action {
            let place = host.root.locate(path)?;
            let swept = host.root.sweep(&place, *inside, &|path| skip.of(path), false)?;
            let mut capabilities = swept.capabilities;
            let differ = swept.differ.into_iter().map(|(path, meta)| {
                let capability = capabilities.remove(&path);
                let loses = capability.is_some() || meta.mode & 0o6000 != 0;
                let digest = if loses { digest_before(host, &path)? } else { None };
                let mut found = Before { ids: meta.into(), digest, capability };
                if let Some(first) = before(&others, &path, meta.kind, meta.into()) {
                    found.was(first);
                }
                Ok((path, (meta.kind, found)))
            });
            ledger.intend_inside(path, differ.collect::<Result<_, HostError>>()?, *inside);
            continue;
        }
        let Some(item) = item_of(action) else { continue };
        // A directory above an entry is made without being named; a unit is restarted without being ours.
        let is_ours = notes.claimed.contains(&item) || matches!(action, Action::MakeDirectory { .. });
        if !is_ours {
            continue;
        }
        let looked = look(&item)?;
        let mut found = looked.clone();
        let bare = without_parts(host, plan, &item)?;
        match (&bare, &item, &mut found) {
            (Some(bare), _, Shape::File { digest, .. }) => *digest = Sha256::of(bare),
            (Some(bare), Item::Part(_, anchor), found) => *found = items::part(bare, anchor),
            _ => {}
        }
        let made = made_by(action, &found);
        ledger.intend(item.clone(), before_others(&others, &ledger, &item, found.clone()), made.clone());
        if bare.is_some() {
            ledger.found_as(&item, looked.clone());
        }
        if matches!(action, Action::Enable { again: true, .. }) && found == made {
            ledger.differed(&item, &found);
        }
        keep(host, node_bootstrap, &ledger, &item, (&found, bare), &made)?;
        if plan.held {
            keep_found(host, node_bootstrap, &item, &looked, &made)?;
        }
    }
    let undone = plan.steps.iter().filter(|step| plan.held && !matches!(step.action, Action::Leave));
    for item in undone.filter_map(|step| step.undoes.as_ref()) {
        if matches!(item, Item::Inside(_)) {
            continue;
        }
        let found = look(item)?;
        let prior = ledger.get(item).and_then(|entry| entry.prior().cloned()).unwrap_or(Shape::Absent);
        keep_found(host, node_bootstrap, item, &found, &prior)?;
        ledger.intend_back(item, found);
    }
    for item in &notes.claimed {
        let is_known = ledger.get(item).is_some_and(|entry| !entry.given_up);
        if is_known || matches!(item, Item::Inside(_)) {
            continue;
        }
        let found = look(item)?;
        if !matches!(found, Shape::Absent | Shape::Other) {
            ledger.intend(item.clone(), before_others(&others, &ledger, item, found.clone()), found);
        }
    }
    // Only now: what a recursive directory knows of what was before may have been asked for above.
    // What may be rolled back is ours until then; and what was not made by a run that was killed is now.
    let made: BTreeSet<Item> = items_of(plan).collect();
    for item in notes.settled.iter().filter(|item| !plan.held && !made.contains(*item)) {
        ledger.release(item);
    }
    for item in &notes.secrets {
        ledger.keep_secret(item);
    }
    for (item, units) in &notes.restarts {
        ledger.restarts(item, units.iter().cloned());
    }
    share(&mut ledger, &others, &notes.claimed);
    if plan.steps.is_empty() {
        ledger.settle();
    }
    host.state.write_ledger(node_bootstrap, &ledger)
}

/// Notes the directories above what is claimed that other NodeBootstraps made.
fn share(ledger: &mut Ledger, others: &[Ledger], claimed: &BTreeSet<Item>) {
    for (item, entry) in others.iter().flat_map(Ledger::entries) {
        let Item::Path(path) = item else { continue };
        if entry.is_new_directory() && !entry.given_up && !claimed.contains(item) && is_above(path, claimed) {
            ledger.share(item, entry);
        }
    }
}

/// Refuses to replace or remove what is not as this run found it: somebody has written to it since, and that is kept
/// nowhere. The next run finds it so, and keeps it if it is to be kept.
pub(super) fn still(host: &Host, ledger: &Ledger, path: &str) -> Result<(), HostError> {
    let Some(entry) = ledger.get(&Item::Path(path.to_owned())) else { return Ok(()) };
    let place = host.root.locate(path)?;
    let Some(meta) = place.look()? else { return Ok(()) };
    // Owner and mode a recursive change may have given it meanwhile.
    let mut known = [Some(&entry.made), entry.was.as_ref(), entry.prior()].into_iter().flatten();
    let is_known = match meta.kind {
        Kind::File if meta.size > MAX_PRIORS => known.any(|shape| *shape == Shape::Other),
        Kind::File => {
            let now = host.digests.of_seen(&place, &meta)?;
            known.any(|shape| matches!(shape, Shape::File { digest, .. } if Some(*digest) == now))
        }
        Kind::Link => {
            let now = host.root.read_link(&place)?;
            known.any(|shape| matches!(shape, Shape::Link { target, .. } if Some(target) == now.as_ref()))
        }
        // No content of anybody's; in the way of a file it is told when that is put in place.
        Kind::Directory | Kind::Special => true,
    };
    if is_known {
        return Ok(());
    }
    Err(HostError::Changed {
        path: path.to_owned(),
        found: "different from a moment ago".to_owned(),
        expected: "as it was when it was looked at".to_owned(),
    })
}

/// All is done, and what was put back is no longer ours. What was left is known still, so that it can be put back by hand
/// when what was in the way is gone. `made`: what was done.
pub(super) fn close(host: &Host, request: &Request, plan: &Plan, made: &[Change]) -> Result<(), HostError> {
    let Request { revision, .. } = request;
    let ledger = host.state.ledger(&revision.node_bootstrap, Some(&revision.cluster))?;
    let mut ledger = Rc::unwrap_or_clone(ledger);
    let left: BTreeSet<&str> =
        made.iter().filter(|change| change.is_left()).map(|change| change.resource.as_str()).collect();
    ledger.settle();
    let made: BTreeSet<Item> = items_of(plan).collect();
    for item in plan.notes.settled.iter().filter(|item| plan.held && !made.contains(*item)) {
        ledger.release(item);
    }
    plan.notes.passed_on.iter().for_each(|item| ledger.release(item));
    for step in &plan.steps {
        match &step.undoes {
            Some(item) if left.contains(step.change.resource.as_str()) => ledger.leave(item),
            Some(item) => ledger.release(item),
            None => {}
        }
    }
    // What was claimed itself so far may be needed still.
    share(&mut ledger, &host.state.other_ledgers(&revision.node_bootstrap)?, &plan.notes.claimed);
    host.state.write_ledger(&revision.node_bootstrap, &ledger)
}

/// The digest of a file that has set-uid or set-gid bits, or capabilities, to lose.
fn digest_before(host: &Host, path: &str) -> Result<Option<Sha256>, HostError> {
    let place = host.root.locate(path)?;
    match place.look()? {
        Some(meta) if meta.kind == Kind::File && meta.size <= MAX_PRIORS => host.digests.of(&place),
        _ => Ok(None),
    }
}

/// What a path had before a recursive directory of another NodeBootstrap got it.
fn before(others: &[Ledger], path: &str, kind: Kind, now: Ids) -> Option<Before> {
    others.iter().find_map(|ledger| ledger.before(path, kind, now))
}

/// What is found, with the owner and mode that it had before another NodeBootstrap's recursive directory got it; what is
/// known already stays as it is found.
fn before_others(others: &[Ledger], ledger: &Ledger, item: &Item, mut found: Shape) -> Shape {
    if let (Item::Path(path), Some(kind), Some(ids), None) =
        (item, found.kind(), found.ids(), ledger.get(item))
        && let Some(first) = before(others, path, kind, ids)
    {
        found.give_before(first);
    }
    found
}

/// The content of a file without the parts of ours that this run takes out of it, before it makes anything of the file or
/// in it; `None`: there are none.
fn without_parts(host: &Host, plan: &Plan, item: &Item) -> Result<Option<Vec<u8>>, HostError> {
    let (Item::Path(of) | Item::Part(of, _)) = item else { return Ok(None) };
    let taken_out = |step: &Step| match &step.action {
        Action::EditPart { path, anchor, text } if step.undoes.is_some() && path == of => {
            Some((anchor.clone(), text.clone()))
        }
        _ => None,
    };
    let taken_out: Vec<_> = plan.steps.iter().filter_map(taken_out).collect();
    if taken_out.is_empty() {
        return Ok(None);
    }
    let Some((mut content, _)) = host.root.locate(of)?.read(anchor::MAX_FILE)? else { return Ok(None) };
    for (anchor, text) in taken_out {
        content = anchor::edit(&content, &anchor, text.as_ref().map(|text| &*text.0))
            .map_err(|unclear| HostError::Part { path: of.clone(), unclear })?;
    }
    Ok(Some(content))
}

/// Keeps the content of a file that is about to be replaced, if it is what was there before: what is there now, or
/// what that is without parts of ours.
fn keep(
    host: &Host,
    node_bootstrap: &str,
    ledger: &Ledger,
    item: &Item,
    (found, bare): (&Shape, Option<Vec<u8>>),
    made: &Shape,
) -> Result<(), HostError> {
    let digest = |shape: &Shape| match shape {
        Shape::File { digest, .. } => Some(*digest),
        _ => None,
    };
    let prior = match ledger.get(item).map(|entry| &entry.provenance) {
        Some(Provenance::Modified(prior)) => digest(prior),
        _ => None,
    };
    if let (Item::Path(path), Some(Provenance::Modified(Shape::Other))) =
        (item, ledger.get(item).map(|entry| &entry.provenance))
    {
        let place = host.root.locate(path)?;
        let size = place.look()?.map_or(0, |meta| meta.size);
        return Err(HostError::PriorsFull { path: path.clone(), size, kept: 0 });
    }
    match (item, digest(found)) {
        (Item::Path(path), Some(now)) if Some(now) == prior && digest(made) != prior => {
            let place = host.root.locate(path)?;
            match bare {
                Some(bare) => host.state.keep_prior_of(node_bootstrap, &place, &bare, now),
                None => host.state.keep_prior(node_bootstrap, &place, now),
            }
        }
        _ => Ok(()),
    }
}

/// Keeps the content of a file that a run replaces which may be rolled back.
fn keep_found(
    host: &Host,
    node_bootstrap: &str,
    item: &Item,
    found: &Shape,
    made: &Shape,
) -> Result<(), HostError> {
    let same = |digest| matches!(made, Shape::File { digest: now, .. } if *now == digest);
    match (item, found) {
        (Item::Path(path), Shape::File { digest, .. }) if !same(*digest) => {
            host.state.keep_prior(node_bootstrap, &host.root.locate(path)?, *digest)
        }
        _ => Ok(()),
    }
}

/// What the changes of a plan are about.
fn items_of(plan: &Plan) -> impl Iterator<Item = Item> {
    plan.steps.iter().flat_map(|step| step.action.parts()).filter_map(item_of)
}

fn item_of(action: &Action) -> Option<Item> {
    Some(match action {
        Action::AddGroup { name, .. } => Item::Group(name.clone()),
        Action::AddUser(user) | Action::ChangeUser(user) => Item::User(user.name.clone()),
        Action::SetMember { user, group, .. } => Item::Member(user.clone(), group.clone()),
        Action::SetComment { user, .. } => Item::Comment(user.clone()),
        Action::SetLocked { user, .. } => Item::Locked(user.clone()),
        Action::MakeDirectory { path, .. }
        | Action::SetAccess { path, .. }
        | Action::WriteFile { path, .. }
        | Action::Download { path, .. }
        | Action::UnpackFile { path, .. }
        | Action::Link { path, .. } => Item::Path(path.clone()),
        Action::EditPart { path, anchor, .. } => Item::Part(path.clone(), anchor.clone()),
        Action::Enable { unit, .. } | Action::Disable { unit } => Item::Enabled(unit.clone()),
        Action::Mask { unit, .. } => Item::Masked(unit.clone()),
        Action::Start { unit, .. } | Action::Stop { unit } => Item::Active(unit.clone()),
        Action::SetSysctl { name, .. } => Item::Sysctl(name.clone()),
        Action::OwnBelow { .. }
        | Action::Unpack { .. }
        | Action::LoadModules
        | Action::UpdateTrustStore { .. }
        | Action::Reload
        | Action::Restart { .. }
        | Action::RemoveGroup { .. }
        | Action::RemoveUser(_)
        | Action::RemoveFile { .. }
        | Action::RemoveDirectory { .. }
        | Action::PutBack { .. }
        | Action::GiveBack { .. }
        | Action::Leave => return None,
    })
}

/// How a thing that is found so will be after an action.
fn made_by(action: &Action, found: &Shape) -> Shape {
    let file = |ids: Ids, digest: Sha256| Shape::File { ids, digest, attributes: BTreeMap::new() };
    match (action, found) {
        (Action::AddGroup { gid, .. }, _) => Shape::Group(*gid),
        (Action::AddUser(user) | Action::ChangeUser(user), _) => Shape::User(user.clone()),
        (Action::SetMember { is_member, .. }, _) => Shape::Is(*is_member),
        (Action::SetSysctl { value, .. }, _) => Shape::Text(value.clone()),
        (Action::SetComment { comment, .. }, _) => Shape::Text(comment.clone()),
        (Action::SetLocked { locked, .. }, _) => Shape::Is(*locked),
        (Action::MakeDirectory { ids, .. }, _)
        | (Action::SetAccess { ids, kind: Kind::Directory, .. }, _) => Shape::Directory(*ids),
        (Action::SetAccess { ids, .. }, Shape::File { digest, .. }) => file(*ids, *digest),
        (Action::WriteFile { content, ids, .. }, _) => file(*ids, Sha256::of(&content.0)),
        (Action::Download { digest, ids, .. } | Action::UnpackFile { digest, ids, .. }, _) => {
            file(*ids, *digest)
        }
        (Action::Link { target, owner, .. }, _) => Shape::Link { target: target.clone(), owner: *owner },
        (Action::EditPart { text: Some(text), .. }, _) => Shape::Text(text.0.to_string()),
        (Action::Mask { masked, .. }, _) => Shape::Is(*masked),
        (Action::Enable { .. } | Action::Start { .. }, _) => Shape::Is(true),
        (Action::Disable { .. } | Action::Stop { .. }, _) => Shape::Is(false),
        _ => found.clone(),
    }
}
