//! Parts of files that the host or others own: a block of lines between two that mark it, one line, or
//! the value of a key.

use std::collections::BTreeMap;
use std::rc::Rc;

use crds::report::Disruption;
use crds::revision::{Anchor, Part, Resource};

use super::{Action, Change, Hidden, Planner, Step};
use crate::anchor::{self, Found};
use crate::host::error::HARD_LINKED;
use crate::host::{HostError, Kind, Place};

/// What a file has in it, or why no part of it can be kept there.
type Content = Result<Vec<u8>, (&'static str, String)>;

pub(crate) fn plan(resources: &[Resource], planner: &mut Planner<'_>) {
    // Of a file with many parts it is read once.
    let mut contents: BTreeMap<String, Content> = BTreeMap::new();
    for resource in resources {
        let Resource::Part(part) = resource else { continue };
        let Some(place) = planner.place(part.path.as_str()) else { continue };
        match contents.entry(place.real.clone()).or_insert_with(|| content(&place, planner)) {
            Ok(content) => plan_one(part, &place, content, planner),
            Err((reason, message)) => planner.problem(part, reason, message.clone()),
        }
    }
}

fn content(place: &Place, planner: &Planner<'_>) -> Content {
    let leaves = |step: &Step| match &step.action {
        Action::RemoveFile { path } | Action::PutBack { path, .. } => *path == place.real,
        _ => false,
    };
    if planner.steps.iter().any(leaves) {
        let message = "an earlier revision has its file as a whole, which is put back first: apply the spec once without this part";
        return Err(("FileLeaves", message.to_owned()));
    }
    let refused = |error: HostError| (error.reason(), error.to_string());
    let meta = place.look().map_err(refused)?.ok_or_else(missing)?;
    if meta.kind != Kind::File {
        return Err(("PathOccupied", planner.occupied(place, meta.kind, Kind::File)));
    }
    if meta.links > 1 {
        let message = format!(
            "{} has {} hard links, and only this one would have the part: remove the others, or make it a file of its own",
            place.real, meta.links
        );
        return Err((HARD_LINKED, message));
    }
    let read = place.read(anchor::MAX_FILE).map_err(refused)?;
    read.map(|(content, _)| content).ok_or_else(missing)
}

fn missing() -> (&'static str, String) {
    let message =
        "its file is missing: list it in files, with all that shall be in it, or install what brings it";
    ("NoSuchFile", message.to_owned())
}

fn plan_one(part: &Part, place: &Place, content: &[u8], planner: &mut Planner<'_>) {
    let found = anchor::find(content, &part.anchor)
        .and_then(|found| anchor::edit(content, &part.anchor, Some(&part.text)).map(|_| found));
    let (change, found) = match &found {
        Err(unclear) => {
            return planner.problem(part, unclear.reason(), format!("{}: {unclear}", place.real));
        }
        Ok(Some(found)) if anchor::is_same(&part.anchor, &found.text, &part.text) => return,
        Ok(Some(found)) => (format!("content of {}", where_in(&part.anchor, found)), "had other content"),
        Ok(None) if matches!(part.anchor, Anchor::Key(_)) => (format!("add {}", part.text), "was missing"),
        Ok(None) => ("add at the end of the file".to_owned(), "was missing"),
    };
    let change =
        Change { resource: part.to_string(), change, found: found.to_owned(), disruption: Disruption::None };
    let text = Some(Hidden(Rc::from(part.text.as_str())));
    let action = Action::EditPart { path: place.real.clone(), anchor: part.anchor.clone(), text };
    if planner.step(change, action) {
        for unit in &part.restart {
            planner.restarts.entry(unit.to_string()).or_default().push(part.to_string());
        }
    }
}

/// In words, as an editor counts lines.
fn where_in(anchor: &Anchor, found: &Found) -> String {
    match (anchor, found.lines) {
        (Anchor::Block { .. }, (first, last)) => format!("lines {first} to {last}"),
        (Anchor::Begins(_) | Anchor::Is(_) | Anchor::Key(_), (line, _)) => format!("line {line}"),
    }
}
