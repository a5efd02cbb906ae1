//! What the command line prints: for a person, or as JSON for programs.
//!
//! In: plans and outcomes. Out: text with colours, which are taken out again where no terminal reads it; or one JSON
//! object, whose field names stay as they are:
//!
//! | field | in | meaning |
//! |---|---|---|
//! | `nodeBootstrap`, `revision`, `root` | all | what was looked at |
//! | `changes` | plan, apply | list of `resource`, `change`, `found`, `disruption`; of apply: those that were made |
//! | `diff` | each of `changes`, in plan | how the content changes, as a unified diff; or in brackets why it is not shown; of an archive what is unpacked |
//! | `disruption` | plan | the highest of its changes: `None`, `Restart` |
//! | `warnings` | all | list of texts |
//! | `errors` | all | list of `resource`, `reason`, `message` |
//! | `outcome` | apply, revert | `done`, `nothing to do`, `failed`; of revert also `left`: not all was put back |
//! | `last` | status | the last result on this host: `revision`, `done`, `at`, `reason`, `message`, `changes`; or null |
//! | `resources` | status | list of `resource`, `state` (`ok`, `differs`, `error`), `differs` (texts) |

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use crds::report::Disruption;
use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::{Change, Plan, Problem, Request};
use crate::host::state::LastResult;
use crate::resource::stays;

const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const NOTE: Style = AnsiColor::Yellow.on_default();
const GONE: Style = AnsiColor::Red.on_default();
const FAINT: Style = Style::new().dimmed();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// The state of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceState {
    /// Its kind and its path or name.
    pub resource: String,
    /// `ok`, `differs`, `error`.
    pub state: &'static str,
    /// How it differs, or what is wrong.
    pub differs: Vec<String>,
}

/// Prints on standard output. That nobody reads it any more is no error.
pub fn print(text: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Prints a line on standard error.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Prints an error in one line on standard error.
pub fn error(text: &str) {
    note(&format!("{BAD}error:{BAD:#} {text}"));
}

/// A JSON object in one line.
pub fn json_line(value: &Value) -> String {
    format!("{value}\n")
}

fn head(request: &Request, root: &str) -> Value {
    json!({"nodeBootstrap": request.revision.node_bootstrap, "revision": request.name, "root": root})
}

fn with(mut head: Value, more: Value) -> Value {
    if let (Some(head), Value::Object(more)) = (head.as_object_mut(), more) {
        head.extend(more);
    }
    head
}

/// A plan as JSON. `diffs`: one for each of its changes.
pub fn plan_json(request: &Request, root: &str, plan: &Plan, diffs: &[Option<String>]) -> Value {
    let with_diff = |(change, diff): (&Change, &Option<String>)| match diff {
        Some(diff) => with(json!(change), json!({"diff": diff})),
        None => json!(change),
    };
    let changes: Vec<Value> = plan.changes().zip(diffs).map(with_diff).collect();
    with(
        head(request, root),
        json!({
            "changes": changes,
            "disruption": plan.disruption(),
            "warnings": plan.warnings,
            "errors": plan.problems,
        }),
    )
}

/// The end of a run, for a person, and what of it was left as it is. `done`: what became of the rest.
pub fn done_text(made: &[Change], done: &str) -> String {
    let count = changes(made.iter().map(|change| change.change.as_str()));
    let mut text = format!("{GOOD}done{GOOD:#}: {count} {done}\n");
    for change in made.iter().filter(|change| stays(&change.change)) {
        let _ = writeln!(text, "{NOTE}{} {}{NOTE:#}", change.resource, change.change);
    }
    text
}

/// What was applied, as JSON.
pub fn apply_json(
    request: &Request,
    root: &str,
    outcome: &str,
    made: &[Change],
    warnings: &[String],
    errors: &[Problem],
) -> Value {
    with(
        head(request, root),
        json!({"outcome": outcome, "changes": made, "warnings": warnings, "errors": errors}),
    )
}

/// The state of a host, as JSON.
pub fn status_json(
    request: &Request,
    root: &str,
    last: Option<&LastResult>,
    resources: &[ResourceState],
    plan: &Plan,
) -> Value {
    with(
        head(request, root),
        json!({"last": last, "resources": resources, "warnings": plan.warnings, "errors": plan.problems}),
    )
}

/// A line about a whole revision.
pub fn title(request: &Request, root: &str) -> String {
    format!(
        "{BOLD}NodeBootstrap {}{BOLD:#}, revision {}, on {root}\n",
        request.revision.node_bootstrap, request.name
    )
}

/// One change in one line.
pub fn change(change: &Change) -> String {
    let mark = match change.disruption {
        Disruption::None => format!("{GOOD}+{GOOD:#}"),
        Disruption::Restart | Disruption::Drain => format!("{NOTE}!{NOTE:#}"),
    };
    format!("  {mark} {BOLD}{}{BOLD:#}: {}\n", change.resource, change.change)
}

/// Warnings, one in a line.
pub fn warnings(warnings: &[String]) -> String {
    warnings.iter().fold(String::new(), |mut text, warning| {
        let _ = writeln!(text, "  {NOTE}warning:{NOTE:#} {warning}");
        text
    })
}

/// Problems, one in a line.
pub fn problems(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = writeln!(text, "  {BAD}error:{BAD:#} {}: {}", problem.resource, problem.message);
        text
    })
}

/// How content changes, below the change that it belongs to.
fn diff_text(diff: &str) -> String {
    diff.lines().fold(String::new(), |mut text, line| {
        let style = match line.as_bytes().first() {
            Some(b'+') => GOOD,
            Some(b'-') => GONE,
            _ => FAINT,
        };
        let _ = writeln!(text, "      {style}{line}{style:#}");
        text
    })
}

/// A plan for a person. `diffs`: one for each of its changes.
pub fn plan_text(request: &Request, root: &str, plan: &Plan, diffs: &[Option<String>]) -> String {
    let mut text = title(request, root);
    for (entry, diff) in plan.changes().zip(diffs) {
        text.push_str(&change(entry));
        text.push_str(&diff.as_deref().map(diff_text).unwrap_or_default());
    }
    text.push_str(&warnings(&plan.warnings));
    text.push_str(&problems(&plan.problems));
    let count = changes(plan.changes().map(|change| change.change.as_str()));
    let last = match (plan.problems.len(), plan.steps.len(), plan.disruption()) {
        (0, 0, _) => format!("{GOOD}nothing to do{GOOD:#}"),
        (0, _, Disruption::None) => format!("{count}, nothing that runs is disturbed"),
        (0, _, Disruption::Restart) => {
            format!("{count}; those marked {NOTE}!{NOTE:#} stop or restart a service that runs")
        }
        (0, _, Disruption::Drain) => {
            format!(
                "{count}; those marked {NOTE}!{NOTE:#} stop, restart or replace a service that runs: drain the node first"
            )
        }
        (1, _, _) => format!("{BAD}1 error{BAD:#}, nothing would be changed"),
        (count, _, _) => format!("{BAD}{count} errors{BAD:#}, nothing would be changed"),
    };
    let _ = writeln!(text, "{last}");
    text
}

/// The number of changes in words; what is left as it is counts as none.
pub fn changes<'a>(changes: impl Iterator<Item = &'a str>) -> String {
    match changes.filter(|change| !stays(change)).count() {
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    }
}

/// The end of an apply, for a person.
pub fn applied_text(made: &[Change], root: &str, starts: bool) -> String {
    let mut text = match made {
        [] => format!("{GOOD}nothing to do{GOOD:#}\n"),
        made => done_text(made, "made and verified"),
    };
    if !starts {
        let _ = writeln!(
            text,
            "{root} is not the running system: units were written and enabled, none was started"
        );
    }
    text
}

/// The state of a host, for a person.
pub fn status_text(
    request: &Request,
    root: &str,
    last: Option<&LastResult>,
    resources: &[ResourceState],
    plan: &Plan,
) -> String {
    let mut text = title(request, root);
    let _ = match last {
        None => writeln!(text, "  nothing was applied on this host yet"),
        Some(last) if last.done => writeln!(
            text,
            "  last applied {}: {} made for revision {}",
            last.at,
            changes(last.changes.iter().map(|change| change.change.as_str())),
            last.revision
        ),
        Some(last) => {
            writeln!(
                text,
                "  {BAD}last try failed{BAD:#} {}, revision {}: {}",
                last.at, last.revision, last.message
            )
        }
    };
    for resource in resources {
        let (style, differs) = match resource.state {
            "ok" => (GOOD, String::new()),
            "error" => (BAD, format!(": {}", resource.differs.join("; "))),
            _ => (NOTE, format!(": {}", resource.differs.join("; "))),
        };
        let _ = writeln!(text, "  {style}{:<7}{style:#} {}{differs}", resource.state, resource.resource);
    }
    text.push_str(&warnings(&plan.warnings));
    text
}
