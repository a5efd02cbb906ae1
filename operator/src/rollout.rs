//! Which node may be disrupted now. In: one seat a node, with what the operator told it and what its agent answered; and
//! the nodes that other NodeBootstraps have permitted to be disrupted. Out: the permits that change, and why none is given
//! if none is.
//!
//! A new revision goes to all nodes at once with the standing permit `None`. An agent whose plan needs more answers
//! `Waiting`, and one node at a time gets a permit, over all NodeBootstraps; the next one only when that agent has answered
//! for that permit. What an agent has not answered for counts as used: a permit that is taken back may have been begun
//! already. No permit is above what the spec allows, and one with [`Disruption::Drain`] goes only to a node that was
//! drained.
//!
//! A node that leaves is one more of them: what puts back what was there before is planned, waits and is permitted as a
//! revision is, by the name [`REVERT`].
//!
//! With `rollout.maxParallel` the revision itself goes out in turns, too: [`waiting`].

use std::collections::{BTreeMap, BTreeSet};

use crds::names::REVERT;
use crds::report::{Disruption, Permit, ReportPhase};

use crate::observed::Answer;

/// One node that has a Report.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// The Node's name.
    pub node: &'a str,
    /// Whether it runs the control plane: such nodes go last.
    pub is_control_plane: bool,
    /// Whether it can answer.
    pub is_reachable: bool,
    /// Whether a conflict, mode Plan or a pause keeps it from changing anything.
    pub is_blocked: bool,
    /// Whether nothing is left on it that a drain would take away.
    pub is_drained: bool,
    /// The revision that it shall have; [`REVERT`]: it leaves.
    pub target: &'a str,
    /// The revision in its Report; [`REVERT`]: it is told to leave.
    pub revision: &'a str,
    /// The permit in its Report.
    pub permit: Permit,
    /// What its agent answered.
    pub answer: Option<&'a Answer>,
}

/// A node that may be disrupted by what another NodeBootstrap has permitted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// The Node's name.
    pub node: String,
    /// The other NodeBootstrap.
    pub by: String,
    /// Whether that failed there, and is tried again.
    pub has_failed: bool,
}

impl Taken {
    /// Whether it keeps a node from being disrupted. One that has failed may be disrupted once more.
    fn keeps(&self, node: &str) -> bool {
        !(self.has_failed && self.node == node)
    }
}

/// What is decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Permits to take back, by node. They are written before [`Rollout::grant`].
    pub withdraw: BTreeMap<String, Permit>,
    /// The one permit to give.
    pub grant: Option<(String, Permit)>,
    /// Why nobody gets a permit although somebody waits for one.
    pub hold: Option<Hold>,
}

/// Why nobody gets a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// This node failed after its permit: the rollout has stopped.
    Stopped {
        /// The Node's name.
        node: String,
    },
    /// This node has the permit and does not answer.
    Silent {
        /// The Node's name.
        node: String,
    },
    /// This node has the permit.
    Busy {
        /// The Node's name.
        node: String,
    },
    /// A node has a permit of another NodeBootstrap.
    Elsewhere(Taken),
}

/// How far a node is with the permit that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It has none, or is done with it.
    Over,
    /// It may be at it.
    Begun,
    /// It failed under it, and keeps it, so that it can mend itself.
    Failed,
}

/// Decides the permits of one NodeBootstrap, with no more disruption than is `allowed`.
pub fn decide(allowed: Disruption, seats: &[Seat<'_>], taken: &[Taken]) -> Rollout {
    let mut seats: Vec<_> = seats.iter().collect();
    seats.sort_unstable_by_key(|seat| (seat.is_control_plane, seat.node));
    let mut rollout = Rollout::default();
    let mut hold: Option<Hold> = None;
    for seat in &seats {
        if let Some(permit) = withdrawal(allowed, seat) {
            rollout.withdraw.insert(seat.node.to_owned(), permit);
        }
        if let Some(found) = held_by(seat) {
            // A failure outlives all else; of the others the first in order is as good to name as any.
            let replaces =
                matches!(found, Hold::Stopped { .. }) && !matches!(hold, Some(Hold::Stopped { .. }));
            if hold.is_none() || replaces {
                hold = Some(found);
            }
        }
    }
    if hold.is_some() {
        // Also with nobody waiting a person wants to know that the rollout stands.
        rollout.hold = hold;
        return rollout;
    }
    for (seat, disruption) in seats.iter().filter_map(|seat| Some((seat, asks(allowed, seat)?))) {
        match taken.iter().find(|taken| taken.keeps(seat.node)) {
            Some(taken) => rollout.hold = Some(Hold::Elsewhere(taken.clone())),
            None => {
                let permit = Permit { id: seat.permit.id + 1, disruption };
                return Rollout { grant: Some((seat.node.to_owned(), permit)), hold: None, ..rollout };
            }
        }
    }
    rollout
}

/// The permit that is left to a node when its own is done, or must not be used any more.
fn withdrawal(allowed: Disruption, seat: &Seat<'_>) -> Option<Permit> {
    if seat.permit.disruption == Disruption::None {
        return None;
    }
    // Of a plan that has come to need more nothing is begun.
    let is_too_little = seat.answer.is_some_and(|answer| {
        answer.phase == ReportPhase::Waiting
            && answer.permit_id == seat.permit.id
            && answer.revision == seat.revision
            && answer.disruption > seat.permit.disruption
    });
    let is_over =
        seat.revision != seat.target || seat.is_blocked || seat.permit.disruption > allowed || is_too_little;
    match answered(seat) {
        Some(ReportPhase::Ready) => Some(Permit { disruption: Disruption::None, ..seat.permit }),
        Some(_) if is_over => Some(Permit { disruption: Disruption::None, ..seat.permit }),
        // It may have been begun, so the permit's id rises: until the agent has seen that id, the node is busy.
        None if is_over => Some(Permit { id: seat.permit.id + 1, disruption: Disruption::None }),
        // A node that failed keeps its permit, so that it can mend itself.
        Some(_) | None => None,
    }
}

/// How far a node is with the permit that it has.
pub fn use_of(seat: &Seat<'_>) -> Use {
    if seat.permit.disruption == Disruption::None {
        // Taken back: the agent has seen it. That it speaks of this revision is not enough: mode Plan and conflicts take
        // a permit back without a new one.
        let is_seen =
            seat.permit.id == 0 || seat.answer.is_some_and(|answer| answer.permit_id == seat.permit.id);
        return if is_seen { Use::Over } else { Use::Begun };
    }
    match answered(seat) {
        None => Use::Begun,
        Some(ReportPhase::Failed) => Use::Failed,
        Some(_) => Use::Over,
    }
}

/// Whether, and how, a node keeps all others from being disrupted.
fn held_by(seat: &Seat<'_>) -> Option<Hold> {
    let node = seat.node.to_owned();
    match use_of(seat) {
        Use::Begun if seat.is_reachable => Some(Hold::Busy { node }),
        Use::Begun => Some(Hold::Silent { node }),
        Use::Failed => {
            let is_about_it = seat.revision == seat.target && !seat.is_blocked;
            is_about_it.then_some(Hold::Stopped { node })
        }
        Use::Over => None,
    }
}

/// What the agent answered for the permit that it has, if that is an end of it.
fn answered(seat: &Seat<'_>) -> Option<ReportPhase> {
    let answer = seat.answer?;
    let is_for_it = answer.permit_id == seat.permit.id && answer.revision == seat.revision;
    match answer.phase {
        ReportPhase::Ready | ReportPhase::Failed if is_for_it => Some(answer.phase),
        // One that has left is done with whatever it was given.
        ReportPhase::Left => Some(ReportPhase::Left),
        ReportPhase::Ready
        | ReportPhase::Failed
        | ReportPhase::Applying
        | ReportPhase::Paused
        | ReportPhase::Waiting
        | ReportPhase::Planned => None,
    }
}

/// Whether a node that is to leave answers and waits: for its turn, or, after a failure under its permit, for a person.
pub fn waits_to_leave(seat: &Seat<'_>) -> bool {
    let waits = seat.permit.disruption == Disruption::None
        && seat
            .answer
            .is_some_and(|answer| answer.phase == ReportPhase::Waiting && answer.revision == seat.revision);
    let is_told = seat.target == REVERT && seat.revision == REVERT;
    seat.is_reachable && is_told && (waits || use_of(seat) == Use::Failed)
}

/// Whether a node is at what it was told last: it can answer, and has not said how that ended. One that waits for a permit,
/// or failed and tries again later, is not.
pub fn is_at_it(seat: &Seat<'_>) -> bool {
    let is_over = seat.answer.is_some_and(|answer| {
        answer.revision == seat.revision
            && match answer.phase {
                ReportPhase::Ready | ReportPhase::Failed | ReportPhase::Left | ReportPhase::Paused => true,
                ReportPhase::Waiting => seat.permit.disruption == Disruption::None,
                // Of a plan that is to be made now.
                ReportPhase::Planned | ReportPhase::Applying => false,
            }
    });
    seat.is_reachable && !seat.is_blocked && !is_over
}

/// One node that is to be told of a revision, or was.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The Node's name.
    pub node: &'a str,
    /// Whether it runs the control plane: such nodes go last.
    pub is_control_plane: bool,
    /// Whether it would begin at once.
    pub can_begin: bool,
    /// Whether it was told.
    pub is_told: bool,
    /// See [`is_at_it`].
    pub is_at_it: bool,
}

/// Who is not told yet, so that at most so many are at it.
pub fn waiting<'a>(most: usize, turns: &[Turn<'a>]) -> BTreeSet<&'a str> {
    let at_it = turns.iter().filter(|turn| turn.is_at_it).count();
    // One that is at an older revision has its place already.
    let mut next: Vec<_> = turns.iter().filter(|turn| !turn.is_told && !turn.is_at_it).collect();
    next.sort_unstable_by_key(|turn| (!turn.can_begin, turn.is_control_plane, turn.node));
    let free = most.saturating_sub(at_it);
    let waits = |(index, turn): &(usize, &Turn<'a>)| *index >= free || !turn.can_begin;
    next.into_iter().enumerate().filter(waits).map(|(_, turn)| turn.node).collect()
}

/// The disruption that a node waits for and may have.
fn asks(allowed: Disruption, seat: &Seat<'_>) -> Option<Disruption> {
    let can_have = seat.is_reachable && !seat.is_blocked && seat.revision == seat.target;
    let answer = seat.answer.filter(|answer| answer.phase == ReportPhase::Waiting)?;
    let needed = answer.disruption;
    let is_free = seat.permit.disruption == Disruption::None && answer.revision == seat.target;
    let is_fit = needed <= allowed && (needed < Disruption::Drain || seat.is_drained);
    (can_have && is_free && needed > Disruption::None && is_fit).then_some(needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an agent does with a plan of one revision.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        /// Nothing is disturbed.
        Quiet,
        /// A restart is needed and works.
        Restarts,
        /// A restart is needed and fails.
        Breaks,
        /// A drain is needed, and it works.
        Drains,
    }

    impl Fate {
        fn disruption(self) -> Disruption {
            match self {
                Fate::Quiet => Disruption::None,
                Fate::Restarts | Fate::Breaks => Disruption::Restart,
                Fate::Drains => Disruption::Drain,
            }
        }
    }

    /// A node, its Report and its agent, as the real ones behave.
    #[derive(Debug, Clone)]
    struct Sim {
        name: String,
        is_control_plane: bool,
        is_reachable: bool,
        is_drained: bool,
        fates: Vec<Fate>,
        revision: usize,
        permit: Permit,
        answer: Option<Answer>,
        /// It is to leave.
        leaves: bool,
        /// It has left: it has no Report.
        is_gone: bool,
        /// The revision and permit that the agent is disrupting the node under.
        disrupting: Option<(usize, i64)>,
    }

    /// The revision that a node has which leaves.
    const LEAVING: usize = 4;

    fn name_of(revision: usize) -> String {
        if revision == LEAVING { REVERT.to_owned() } else { revision.to_string() }
    }

    impl Sim {
        fn answer(&mut self, phase: ReportPhase, revision: usize, permit_id: i64) {
            let disruption = match phase {
                ReportPhase::Waiting => self.fates[revision].disruption(),
                _ => Disruption::None,
            };
            self.answer = Some(Answer {
                phase,
                revision: name_of(revision),
                permit_id,
                disruption,
                changes: 1,
                drifted: String::new(),
                reason: String::new(),
                message: String::new(),
                machine_id: String::new(),
                node_uid: String::new(),
            });
        }

        fn step(&mut self) {
            if !self.is_reachable || self.is_gone {
                return;
            }
            let done = if self.revision == LEAVING { ReportPhase::Left } else { ReportPhase::Ready };
            if let Some((revision, id)) = self.disrupting.take() {
                // Told something else meanwhile, it finishes that first.
                let done = if revision == LEAVING { ReportPhase::Left } else { ReportPhase::Ready };
                let phase = match self.fates[revision] {
                    Fate::Breaks => ReportPhase::Failed,
                    Fate::Quiet | Fate::Restarts | Fate::Drains => done,
                };
                self.answer(phase, revision, id);
                return;
            }
            // A fresh read of the Report.
            let (revision, permit) = (self.revision, self.permit);
            let is_done = self.answer.as_ref().is_some_and(|answer| {
                answer.revision == name_of(revision)
                    && matches!(answer.phase, ReportPhase::Ready | ReportPhase::Failed | ReportPhase::Left)
            });
            match self.fates[revision] {
                Fate::Quiet => self.answer(done, revision, permit.id),
                // What was applied once needs no restart again.
                _ if is_done => {
                    let phase = self.answer.as_ref().unwrap().phase;
                    self.answer(phase, revision, permit.id);
                }
                fate if fate.disruption() <= permit.disruption => {
                    // What takes long is told, too.
                    self.answer(ReportPhase::Applying, revision, permit.id);
                    self.disrupting = Some((revision, permit.id));
                }
                _ => self.answer(ReportPhase::Waiting, revision, permit.id),
            }
        }

        fn is_ready_at(&self, revision: usize) -> bool {
            self.answer.as_ref().is_some_and(|answer| {
                answer.phase == ReportPhase::Ready && answer.revision == name_of(revision)
            })
        }
    }

    fn seat_of<'a>(sim: &'a Sim, target: &'a str, revision: &'a str) -> Seat<'a> {
        Seat {
            node: &sim.name,
            is_control_plane: sim.is_control_plane,
            is_reachable: sim.is_reachable,
            is_blocked: false,
            is_drained: sim.is_drained,
            target,
            revision,
            permit: sim.permit,
            answer: sim.answer.as_ref(),
        }
    }

    fn operate(nodes: &mut [Sim], target: usize) -> Rollout {
        operate_beside(nodes, target, Disruption::Drain, &[])
    }

    /// The nodes that these permits may disrupt, as another NodeBootstrap's.
    fn taken_by(nodes: &[Sim]) -> Vec<Taken> {
        nodes
            .iter()
            .filter(|sim| !sim.is_gone)
            .filter_map(|sim| {
                let revision = name_of(sim.revision);
                let found = use_of(&seat_of(sim, &revision, &revision));
                (found != Use::Over).then(|| Taken {
                    node: sim.name.clone(),
                    by: "other".to_owned(),
                    has_failed: found == Use::Failed,
                })
            })
            .collect()
    }

    fn operate_beside(nodes: &mut [Sim], target: usize, allowed: Disruption, taken: &[Taken]) -> Rollout {
        for sim in nodes.iter_mut() {
            let has_left = sim.answer.as_ref().is_some_and(|answer| answer.phase == ReportPhase::Left);
            if sim.revision == LEAVING && has_left && !sim.is_gone {
                (sim.is_gone, sim.permit, sim.answer) = (true, Permit::default(), None);
            } else if sim.is_gone && !sim.leaves {
                (sim.is_gone, sim.revision) = (false, target);
            }
        }
        let target_of = |sim: &Sim| if sim.leaves { LEAVING } else { target };
        let names: Vec<_> =
            nodes.iter().map(|sim| (name_of(target_of(sim)), name_of(sim.revision))).collect();
        let seats: Vec<_> = nodes
            .iter()
            .zip(&names)
            .filter(|(sim, _)| !sim.is_gone)
            .map(|(sim, (target, revision))| seat_of(sim, target, revision))
            .collect();
        let rollout = decide(allowed, &seats, taken);
        for sim in nodes.iter_mut().filter(|sim| !sim.is_gone) {
            sim.revision = target_of(sim);
            if let Some(permit) = rollout.withdraw.get(&sim.name) {
                sim.permit = *permit;
            }
            if let Some((node, permit)) = &rollout.grant
                && *node == sim.name
            {
                sim.permit = *permit;
            }
        }
        rollout
    }

    fn apply(
        step: &Step,
        nodes: &mut [Sim],
        target: &mut usize,
        allowed: Disruption,
        taken: &[Taken],
    ) -> Result<(), TestCaseError> {
        let count = nodes.len();
        match *step {
            Step::Operator => {
                let rollout = operate_beside(nodes, *target, allowed, taken);
                if let Some((name, Permit { disruption: Disruption::Drain, .. })) = rollout.grant {
                    prop_assert!(
                        nodes.iter().any(|sim| sim.name == name && sim.is_drained),
                        "{name} is full"
                    );
                }
            }
            Step::Agent(index) => nodes[index % count].step(),
            Step::Edit => *target = (*target + 1).min(3),
            Step::Lose(index) => nodes[index % count].is_reachable = false,
            Step::Return(index) => nodes[index % count].is_reachable = true,
            Step::Drain(index) => nodes[index % count].is_drained = true,
            Step::Fill(index) => nodes[index % count].is_drained = false,
            Step::Leave(index) => nodes[index % count].leaves = true,
            Step::Stay(index) => nodes[index % count].leaves = false,
        }
        Ok(())
    }

    fn at_most_one(nodes: &[Sim]) -> Result<(), TestCaseError> {
        let permitted = nodes
            .iter()
            .filter(|sim| {
                sim.permit.disruption > Disruption::None && {
                    // A permit whose end was answered is used up, even before it is taken back.
                    let answer = sim.answer.as_ref();
                    !answer.is_some_and(|answer| {
                        answer.permit_id == sim.permit.id
                            && matches!(
                                answer.phase,
                                ReportPhase::Ready | ReportPhase::Failed | ReportPhase::Left
                            )
                    })
                }
            })
            .count();
        let disrupted = nodes.iter().filter(|sim| sim.disrupting.is_some()).count();
        prop_assert!(permitted <= 1, "{permitted} permits: {nodes:#?}");
        prop_assert!(disrupted <= 1, "{disrupted} disrupted: {nodes:#?}");
        Ok(())
    }

    fn fate() -> impl Strategy<Value = Fate> + Clone {
        prop_oneof![
            3 => Just(Fate::Restarts),
            1 => Just(Fate::Quiet),
            1 => Just(Fate::Breaks),
            1 => Just(Fate::Drains),
        ]
    }

    fn sims(fate: impl Strategy<Value = Fate> + Clone + 'static) -> impl Strategy<Value = Vec<Sim>> {
        let one = (any::<bool>(), prop::collection::vec(fate, 5));
        prop::collection::vec(one, 1..6).prop_map(|drawn| {
            drawn
                .into_iter()
                .enumerate()
                .map(|(index, (is_control_plane, fates))| Sim {
                    name: format!("n{index}"),
                    is_control_plane,
                    is_reachable: true,
                    is_drained: false,
                    fates,
                    revision: 0,
                    permit: Permit::default(),
                    answer: None,
                    disrupting: None,
                    leaves: false,
                    is_gone: false,
                })
                .collect()
        })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Operator,
        Agent(usize),
        Edit,
        Lose(usize),
        Return(usize),
        Drain(usize),
        Fill(usize),
        Leave(usize),
        Stay(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let one = prop_oneof![
            6 => Just(Step::Operator),
            12 => (0..6usize).prop_map(Step::Agent),
            1 => Just(Step::Edit),
            1 => (0..6usize).prop_map(Step::Lose),
            2 => (0..6usize).prop_map(Step::Return),
            2 => (0..6usize).prop_map(Step::Drain),
            1 => (0..6usize).prop_map(Step::Fill),
            2 => (0..6usize).prop_map(Step::Leave),
            1 => (0..6usize).prop_map(Step::Stay),
        ];
        prop::collection::vec(one, 0..120)
    }

    proptest! {
        #[test]
        fn never_two_nodes_are_disrupted_whatever_comes_between(mut nodes in sims(fate()), steps in steps()) {
            let mut target = 0;
            for step in steps {
                apply(&step, &mut nodes, &mut target, Disruption::Drain, &[])?;
                at_most_one(&nodes)?;
            }
        }

        /// Each node has an agent of each.
        #[test]
        fn nor_by_two_node_bootstraps_together(
            mut one in sims(fate()),
            mut other in sims(fate()),
            steps in prop::collection::vec((any::<bool>(), steps()), 0..4),
        ) {
            let mut targets = [0, 0];
            for (is_one, step) in steps.into_iter().flat_map(|(is_one, steps)| {
                steps.into_iter().enumerate().map(move |(number, step)| (is_one ^ (number % 3 == 0), step))
            }) {
                let (mine, theirs, target) =
                    if is_one { (&mut one, &other, &mut targets[0]) } else { (&mut other, &one, &mut targets[1]) };
                apply(&step, mine, target, Disruption::Drain, &taken_by(theirs))?;
                let disrupted: BTreeSet<_> =
                    one.iter().chain(&other).filter(|sim| sim.disrupting.is_some()).map(|sim| &sim.name).collect();
                prop_assert!(disrupted.len() <= 1, "{disrupted:?}: {one:#?} {other:#?}");
            }
        }

        #[test]
        fn no_permit_is_above_what_is_allowed(mut nodes in sims(fate()), steps in steps()) {
            let mut target = 0;
            for step in steps {
                apply(&step, &mut nodes, &mut target, Disruption::Restart, &[])?;
                prop_assert!(nodes.iter().all(|sim| sim.permit.disruption <= Disruption::Restart));
            }
        }

        #[test]
        fn with_agents_that_do_their_part_every_node_ends_ready_in_order(
            mut nodes in sims(prop_oneof![Just(Fate::Restarts), Just(Fate::Quiet), Just(Fate::Drains)]),
        ) {
            nodes.iter_mut().for_each(|sim| sim.is_drained = true);
            let mut granted = Vec::new();
            for _ in 0..nodes.len() * 6 + 6 {
                granted.extend(operate(&mut nodes, 1).grant.map(|(node, _)| node));
                at_most_one(&nodes)?;
                nodes.iter_mut().for_each(Sim::step);
            }
            let rollout = operate(&mut nodes, 1);
            prop_assert!(nodes.iter().all(|sim| sim.is_ready_at(1)), "{nodes:#?}");
            prop_assert!(nodes.iter().all(|sim| sim.permit.disruption == Disruption::None));
            prop_assert_eq!(rollout, Rollout::default());
            let mut expected: Vec<_> = nodes.iter().filter(|sim| sim.fates[1] != Fate::Quiet).collect();
            expected.sort_by_key(|sim| (sim.is_control_plane, &sim.name));
            prop_assert_eq!(granted, expected.iter().map(|sim| sim.name.clone()).collect::<Vec<_>>());
        }

        #[test]
        fn those_that_leave_and_those_that_stay_get_their_turn_together(
            mut nodes in sims(prop_oneof![Just(Fate::Restarts), Just(Fate::Quiet), Just(Fate::Drains)]),
            leave in prop::collection::vec(any::<bool>(), 6),
            steps in steps(),
        ) {
            let mut target = 1;
            for step in steps {
                apply(&step, &mut nodes, &mut target, Disruption::Drain, &[])?;
                at_most_one(&nodes)?;
            }
            for (sim, leaves) in nodes.iter_mut().zip(leave) {
                (sim.is_drained, sim.is_reachable, sim.leaves) = (true, true, leaves);
            }
            for _ in 0..nodes.len() * 8 + 8 {
                operate(&mut nodes, target);
                at_most_one(&nodes)?;
                nodes.iter_mut().for_each(Sim::step);
            }
            prop_assert_eq!(operate(&mut nodes, target), Rollout::default());
            let is_done = |sim: &Sim| if sim.leaves { sim.is_gone } else { sim.is_ready_at(target) };
            prop_assert!(nodes.iter().all(is_done), "{nodes:#?}");
        }

        #[test]
        fn a_node_that_fails_after_its_permit_stops_it_until_the_spec_changes(mut nodes in sims(Just(Fate::Restarts))) {
            for sim in &mut nodes {
                sim.is_control_plane = false;
            }
            nodes[0].fates[1] = Fate::Breaks;
            for _ in 0..nodes.len() * 6 + 6 {
                operate(&mut nodes, 1);
                nodes.iter_mut().for_each(Sim::step);
            }
            let rollout = operate(&mut nodes, 1);
            prop_assert_eq!(rollout.hold, Some(Hold::Stopped { node: "n0".to_owned() }));
            prop_assert!(nodes[1..].iter().all(|sim| sim.permit == Permit::default()));

            for _ in 0..nodes.len() * 6 + 6 {
                operate(&mut nodes, 2);
                at_most_one(&nodes)?;
                nodes.iter_mut().for_each(Sim::step);
            }
            prop_assert!(nodes.iter().all(|sim| sim.is_ready_at(2)), "{nodes:#?}");
        }
    }

    fn answer(phase: ReportPhase, permit_id: i64) -> Answer {
        Answer {
            phase,
            revision: "r".into(),
            permit_id,
            disruption: Disruption::Restart,
            changes: 1,
            drifted: String::new(),
            reason: String::new(),
            message: String::new(),
            machine_id: String::new(),
            node_uid: String::new(),
        }
    }

    fn seat<'a>(node: &'a str, permit: Permit, answer: Option<&'a Answer>) -> Seat<'a> {
        Seat {
            node,
            is_control_plane: false,
            is_reachable: true,
            is_blocked: false,
            is_drained: false,
            target: "r",
            revision: "r",
            permit,
            answer,
        }
    }

    fn decide_all(seats: &[Seat<'_>]) -> Rollout {
        decide(Disruption::Drain, seats, &[])
    }

    #[test]
    fn who_needs_a_drain_waits_for_it_and_keeps_nobody() {
        let drain = Answer { disruption: Disruption::Drain, ..answer(ReportPhase::Waiting, 0) };
        let restart = answer(ReportPhase::Waiting, 0);
        let (full, other) =
            (seat("a", Permit::default(), Some(&drain)), seat("b", Permit::default(), Some(&restart)));
        assert_eq!(decide_all(&[full]), Rollout::default());
        assert_eq!(decide_all(&[full, other]).grant.unwrap().0, "b");
        let drained = Seat { is_drained: true, ..full };
        let permit = Permit { id: 1, disruption: Disruption::Drain };
        assert_eq!(decide_all(&[drained, other]).grant, Some(("a".into(), permit)));
        assert_eq!(decide(Disruption::Restart, &[drained], &[]), Rollout::default());
        assert_eq!(decide(Disruption::None, &[other], &[]), Rollout::default());
    }

    #[test]
    fn a_permit_that_is_not_enough_any_more_is_taken_back() {
        let permit = Permit { id: 1, disruption: Disruption::Restart };
        let taken = Permit { id: 2, disruption: Disruption::None };
        let more = Answer { disruption: Disruption::Drain, ..answer(ReportPhase::Waiting, 1) };
        assert_eq!(decide_all(&[seat("a", permit, Some(&more))]).withdraw["a"], taken);
        let enough = answer(ReportPhase::Waiting, 1);
        let has_it = seat("a", permit, Some(&enough));
        assert_eq!(decide_all(&[has_it]).withdraw, BTreeMap::new());
        assert_eq!(
            decide(Disruption::None, &[has_it], &[]).withdraw["a"],
            taken,
            "it is above rollout.allow"
        );
    }

    #[test]
    fn a_node_that_another_node_bootstrap_may_disrupt_keeps_all_others() {
        let waiting = answer(ReportPhase::Waiting, 0);
        let (a, b) =
            (seat("a", Permit::default(), Some(&waiting)), seat("b", Permit::default(), Some(&waiting)));
        let busy = Taken { node: "a".into(), by: "other".into(), has_failed: false };
        let rollout = decide(Disruption::Drain, &[a, b], std::slice::from_ref(&busy));
        assert_eq!((rollout.grant, rollout.hold), (None, Some(Hold::Elsewhere(busy.clone()))));
        // That very node is as disrupted as it can be.
        let failed = Taken { has_failed: true, ..busy };
        assert_eq!(decide(Disruption::Drain, &[b], std::slice::from_ref(&failed)).grant, None);
        assert_eq!(decide(Disruption::Drain, &[a, b], &[failed]).grant.unwrap().0, "a");
    }

    #[test]
    fn who_has_answered_is_not_at_it_any_more() {
        use ReportPhase::{Applying, Failed, Left, Paused, Planned, Ready, Waiting};
        for (phase, is_at_it) in [
            (Ready, false),
            (Failed, false),
            (Left, false),
            (Paused, false),
            (Waiting, false),
            (Applying, true),
            (Planned, true),
        ] {
            let answer = answer(phase, 0);
            let seat = seat("a", Permit::default(), Some(&answer));
            assert_eq!(super::is_at_it(&seat), is_at_it, "{phase:?}");
            assert!(super::is_at_it(&Seat { revision: "next", ..seat }), "{phase:?}: it has yet to look");
            assert!(!super::is_at_it(&Seat { revision: "next", is_reachable: false, ..seat }), "{phase:?}");
            assert!(!super::is_at_it(&Seat { revision: "next", is_blocked: true, ..seat }), "{phase:?}");
        }
        let waiting = answer(Waiting, 0);
        let permit = Permit { id: 1, disruption: Disruption::Restart };
        assert!(super::is_at_it(&seat("a", permit, Some(&waiting))), "it may begin");
        assert!(super::is_at_it(&seat("a", Permit::default(), None)), "it has never answered");
    }

    #[test]
    fn turns_go_to_workers_first_and_to_nobody_who_does_not_answer() {
        let turn = |node| Turn {
            node,
            is_control_plane: node == "cp",
            can_begin: node != "silent",
            is_told: false,
            is_at_it: false,
        };
        let all = ["cp", "a", "b", "silent"].map(turn);
        let waiting = |most: usize, turns: &[Turn<'static>]| super::waiting(most, turns);
        assert_eq!(waiting(1, &all), BTreeSet::from(["b", "cp", "silent"]));
        assert_eq!(waiting(3, &all), BTreeSet::from(["silent"]));
        let told = |turn: Turn<'static>, is_at_it| Turn { is_told: true, is_at_it, ..turn };
        assert_eq!(waiting(1, &[told(all[1], true), all[2], all[0]]), BTreeSet::from(["b", "cp"]));
        assert_eq!(waiting(1, &[told(all[1], false), all[2], all[0]]), BTreeSet::from(["cp"]));
        // An edit comes while one is at it: that one is told of it first.
        let at_old = Turn { is_at_it: true, ..all[2] };
        assert_eq!(waiting(1, &[all[1], at_old, all[0]]), BTreeSet::from(["a", "cp"]));
    }

    proptest! {
        #[test]
        fn never_more_are_at_it_than_may_be_and_all_get_their_turn(
            mut nodes in prop::collection::vec((any::<bool>(), any::<bool>(), 0..4u8), 1..8),
            most in 1..4usize,
            steps in prop::collection::vec(0..8usize, 0..60),
        ) {
            // Each: whether it is told of the target, whether it is at what it was told, how many looks it takes.
            let names: Vec<String> = (0..nodes.len()).map(|n| format!("n{n}")).collect();
            let begun = nodes.iter().filter(|(_, is_at_it, _)| *is_at_it).count();
            let operate = |nodes: &mut Vec<(bool, bool, u8)>| {
                let turns: Vec<_> = nodes
                    .iter()
                    .zip(&names)
                    .map(|((is_told, is_at_it, _), node)| Turn {
                        node,
                        is_control_plane: false,
                        can_begin: true,
                        is_told: *is_told,
                        is_at_it: *is_at_it,
                    })
                    .collect();
                let waiting: BTreeSet<String> =
                    super::waiting(most, &turns).into_iter().map(str::to_owned).collect();
                for ((is_told, is_at_it, _), node) in nodes.iter_mut().zip(&names) {
                    if !*is_told && !waiting.contains(node) {
                        (*is_told, *is_at_it) = (true, true);
                    }
                }
            };
            let work = |(_, is_at_it, looks): &mut (bool, bool, u8)| {
                *looks = looks.saturating_sub(1);
                *is_at_it &= *looks > 0;
            };
            for step in steps {
                operate(&mut nodes);
                let at_it = nodes.iter().filter(|(_, is_at_it, _)| *is_at_it).count();
                prop_assert!(at_it <= most.max(begun), "{at_it} of {most}: {nodes:?}");
                let count = nodes.len();
                work(&mut nodes[step % count]);
            }
            for _ in 0..nodes.len() * 6 {
                operate(&mut nodes);
                nodes.iter_mut().for_each(work);
            }
            prop_assert!(nodes.iter().all(|(is_told, is_at_it, _)| *is_told && !is_at_it), "{nodes:?}");
        }
    }

    #[test]
    fn a_silent_node_gets_no_permit_and_one_that_has_it_is_named() {
        let waiting = answer(ReportPhase::Waiting, 0);
        let silent = Seat { is_reachable: false, ..seat("a", Permit::default(), Some(&waiting)) };
        let other = seat("b", Permit::default(), Some(&waiting));
        assert_eq!(decide_all(&[silent, other]).grant.unwrap().0, "b");
        let holder = Seat { permit: Permit { id: 1, disruption: Disruption::Restart }, ..silent };
        let rollout = decide_all(&[holder, other]);
        assert_eq!((rollout.grant, rollout.hold), (None, Some(Hold::Silent { node: "a".into() })));
    }

    #[test]
    fn a_permit_that_mode_plan_took_back_counts_until_its_agent_has_seen_that() {
        let applying = answer(ReportPhase::Applying, 1);
        let permit = Permit { id: 1, disruption: Disruption::Restart };
        let blocked = Seat { is_blocked: true, ..seat("a", permit, Some(&applying)) };
        let taken = Permit { id: 2, disruption: Disruption::None };
        let rollout = decide_all(&[blocked]);
        assert_eq!((rollout.withdraw.get("a"), rollout.grant), (Some(&taken), None));
        // Apply again, at once: the agent may still be at what the permit allowed.
        let waiting = answer(ReportPhase::Waiting, 0);
        let other = seat("b", Permit::default(), Some(&waiting));
        let back = seat("a", taken, Some(&applying));
        assert_eq!(decide_all(&[back, other]).hold, Some(Hold::Busy { node: "a".into() }));
        let planned = answer(ReportPhase::Planned, 2);
        let seen = Seat { answer: Some(&planned), ..back };
        assert_eq!(decide_all(&[seen, other]).grant.unwrap().0, "b");
    }

    #[test]
    fn a_node_that_is_told_to_leave_counts_with_what_it_was_given_until_it_has_answered() {
        let waiting = answer(ReportPhase::Waiting, 0);
        let permit = Permit { id: 1, disruption: Disruption::Restart };
        let leaving = Seat { target: REVERT, ..seat("a", permit, Some(&waiting)) };
        let other = seat("b", Permit::default(), Some(&waiting));
        let rollout = decide_all(&[leaving, other]);
        assert_eq!(rollout.hold, Some(Hold::Busy { node: "a".into() }));
        // What it was given was for the revision.
        let taken = Permit { id: 2, disruption: Disruption::None };
        assert_eq!(rollout.withdraw["a"], taken);
        let told = Seat { revision: REVERT, permit: taken, ..leaving };
        assert_eq!(decide_all(&[told, other]).hold, Some(Hold::Busy { node: "a".into() }));
        // It has yet to say what it needs to leave.
        let seen = answer(ReportPhase::Paused, 2);
        assert_eq!(decide_all(&[Seat { answer: Some(&seen), ..told }, other]).grant.unwrap().0, "b");
        let waits = Answer { revision: REVERT.into(), ..answer(ReportPhase::Waiting, 2) };
        let granted = decide_all(&[Seat { answer: Some(&waits), ..told }, other]).grant;
        assert_eq!(granted, Some(("a".into(), Permit { id: 3, disruption: Disruption::Restart })));
        let left = Answer { revision: REVERT.into(), ..answer(ReportPhase::Left, 3) };
        let permitted = Seat { permit: Permit { id: 3, ..permit }, ..told };
        assert_eq!(
            decide_all(&[Seat { answer: Some(&waits), ..permitted }, other]).hold,
            Some(Hold::Busy { node: "a".into() })
        );
        assert_eq!(decide_all(&[Seat { answer: Some(&left), ..permitted }, other]).grant.unwrap().0, "b");
        // It could not be put back: nobody else is tried, and it is not given up.
        let failed = Answer { revision: REVERT.into(), ..answer(ReportPhase::Failed, 3) };
        let failed = Seat { answer: Some(&failed), ..permitted };
        assert_eq!(decide_all(&[failed, other]).hold, Some(Hold::Stopped { node: "a".into() }));
        assert!(waits_to_leave(&failed) && waits_to_leave(&Seat { answer: Some(&waits), ..told }));
        for one in [
            Seat { is_reachable: false, ..failed },
            Seat { answer: Some(&waits), ..permitted },
            Seat { target: "r", ..failed },
            other,
        ] {
            assert!(!waits_to_leave(&one), "{one:?}");
        }
    }
}
