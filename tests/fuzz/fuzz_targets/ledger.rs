//! The ledger: what is accepted is written as it was read, and a run can go on from it.

#![no_main]

use crds::Sha256;
use libfuzzer_sys::fuzz_target;
use node_agent::host::Kind;
use node_agent::host::write::Inside;
use node_agent::ledger::{FORMAT, Item, Ledger, Provenance, Shape};

fuzz_target!(|data: &[u8]| {
    if let Ok(ledger) = Ledger::decode(data) {
        check(&ledger);
    }
    // Behind a head that fits, which nobody would find by chance.
    let head = format!("{{\"format\":{FORMAT},\"sha256\":\"{}\"}}\n", Sha256::of(data));
    if let Ok(ledger) = Ledger::decode(&[head.as_bytes(), data].concat()) {
        check(&ledger);
    }
});

fn check(ledger: &Ledger) {
    assert_eq!(Ledger::decode(&ledger.encode()).as_ref(), Ok(ledger));
    let mut next = ledger.clone();
    for (item, entry) in ledger.entries() {
        let before = entry.prior().cloned().unwrap_or(Shape::Absent);
        next.intend(item.clone(), entry.made.clone(), before);
        if let (Item::Inside(directory), Provenance::Modified(Shape::Owners(owners))) =
            (item, &entry.provenance)
        {
            let found = owners.iter().map(|(path, before)| (path.clone(), (Kind::File, before.clone())));
            let inside = Inside { uid: 7, gid: 7, file_mode: Some(0o640), directory_mode: None };
            next.intend_inside(directory, found.collect(), inside);
            for (path, before) in owners {
                next.remember_inside(directory, path, before.clone());
            }
        }
        if let Item::Path(path) = item {
            next.moved(item, &Item::Path(format!("{path}/elsewhere")));
        }
    }
    assert_eq!(Ledger::decode(&next.encode()).as_ref(), Ok(&next));
    next.settle();
    assert!(next.entries().all(|(_, entry)| entry.done && entry.was.is_none()));
    let items: Vec<Item> = next.entries().map(|(item, _)| item.clone()).collect();
    items.iter().for_each(|item| next.release(item));
    assert!(next.is_empty() && next.priors().is_empty());
}
