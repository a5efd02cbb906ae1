//! Which revisions are kept. In: the revisions that there are, and those that something still names. Out: those to
//! delete, and the number of the next one.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::observed::Meta;

/// How many revisions of a NodeBootstrap are kept, beside those that are still named.
pub const LIMIT: usize = 10;

/// The revisions to delete, the oldest first: all but the newest [`LIMIT`], and never one that is named.
pub fn to_prune(revisions: &[Arc<Meta>], named: &BTreeSet<&str>) -> Vec<Arc<Meta>> {
    let mut oldest_first: Vec<_> = revisions.iter().collect();
    oldest_first.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
    let surplus = oldest_first.len().saturating_sub(LIMIT);
    oldest_first
        .into_iter()
        .take(surplus)
        .filter(|revision| !named.contains(revision.name.as_str()))
        .cloned()
        .collect()
}

/// The number of the next revision.
pub fn next_number(revisions: &[Arc<Meta>]) -> i64 {
    revisions.iter().map(|revision| revision.number).max().unwrap_or_default() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision(number: i64) -> Arc<Meta> {
        Arc::new(Meta {
            name: format!("r{number}"),
            uid: String::new(),
            resource_version: String::new(),
            node_bootstrap: "workers".into(),
            number,
        })
    }

    proptest! {
        #[test]
        fn the_newest_and_the_named_stay(
            numbers in prop::collection::btree_set(1..60i64, 0..40),
            named in prop::collection::btree_set(1..60i64, 0..8),
        ) {
            let all: Vec<_> = numbers.iter().rev().map(|number| revision(*number)).collect();
            let named: BTreeSet<_> = named.iter().map(|number| format!("r{number}")).collect();
            let named: BTreeSet<_> = named.iter().map(String::as_str).collect();
            let pruned: BTreeSet<_> = to_prune(&all, &named).iter().map(|one| one.number).collect();
            let newest: BTreeSet<_> = numbers.iter().rev().take(LIMIT).copied().collect();
            for number in numbers {
                let is_named = named.contains(format!("r{number}").as_str());
                prop_assert_eq!(pruned.contains(&number), !is_named && !newest.contains(&number));
            }
        }
    }

    #[test]
    fn numbers_rise() {
        assert_eq!(next_number(&[]), 1);
        assert_eq!(next_number(&[revision(3), revision(7), revision(5)]), 8);
    }
}
