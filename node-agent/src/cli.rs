//! The command line: `plan`, `apply`, `status`, `revert`, `pause` and `resume` for a person or a script on a host, `run` and
//! `probe` for the pod.
//!
//! In: arguments. Out: an exit code, with everything else printed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use crds::NodeBootstrap;
use crds::nodebootstrap::{Health, NodeBootstrapSpec};
use crds::report::RunMode;
use crds::revision::{Identity, Values, references, render};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::cell::RefCell;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::diff;
use crate::engine::{self, Change, Failure, Observer, Payload, Plan, Request};
use crate::host::kubelet::Kubelet;
use crate::host::state::Lock;
use crate::host::{Host, HostError, accounts, is_root, local, raise_open_files, timestamp};
use crate::output::{self, Format, ResourceState};
use crate::pod;
use crate::preset::{self, Findings};
use crate::switch::{self, process, staged};

const EXIT_CODES: &str = "\
Exit codes:
  plan, status   0 nothing to do, 2 changes pending, 1 error
  apply          0 done, 1 error
  revert         0 all is as it was before, or will be after the next boot, 2 something was left as it is, 1 error
  pause, resume  0 done, 1 error

The same state directory, /var/lib/nodebootstrap below the root, serves this program and the DaemonSet's pod; one lock
orders them.";

/// Makes this machine what a NodeBootstrap says: users, directories, files, binaries and systemd units.
#[derive(Debug, Parser)]
#[command(name = "nodebootstrap-agent", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what apply would change; changes nothing
    Plan(FileArgs),
    /// Makes the changes, and verifies that nothing is left to change
    Apply(FileArgs),
    /// Shows the last result on this host, and the state of each resource
    Status(FileArgs),
    /// Puts back what was there before a NodeBootstrap was applied
    Revert(RevertArgs),
    /// Stops every change on this host, by pods and by hand, until resume; nothing is undone
    Pause(HostArgs),
    /// Lets changes be made on this host again
    Resume(HostArgs),
    /// Runs in the DaemonSet's pod: follows this node's NodeBootstrapReport
    #[command(hide = true)]
    Run(RunArgs),
    /// Carries out what a pod or `apply` has asked for, outside of all pods
    #[command(hide = true)]
    Switch(SwitchArgs),
    /// Puts back what was not confirmed in time
    #[command(hide = true)]
    Rollback {
        /// The NodeBootstrap's name; without one, of all
        name: Option<String>,
    },
    /// Puts back what a restart of the machine interrupted
    #[command(hide = true)]
    Guard,
    /// Asks the agent that runs in this pod whether it is alive: exit code 0 if it is
    #[command(hide = true)]
    Probe(ProbeArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The NodeBootstrap, as YAML; - reads standard input
    #[arg(short, long)]
    file: String,
    /// Where values for configMapRef and secretRef are: DIR/<name>/<key>
    #[arg(long, value_name = "DIR")]
    refs: Option<String>,
    /// The machine's root directory; of another one than / units are written and enabled, but not started
    #[arg(long, default_value = "/")]
    root: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct RevertArgs {
    /// The NodeBootstrap's name
    name: String,
    /// The machine's root directory; of another one than / no unit is stopped
    #[arg(long, default_value = "/")]
    root: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct SwitchArgs {
    /// The NodeBootstrap's name
    name: String,
}

#[derive(Debug, Args)]
struct HostArgs {
    /// The machine's root directory
    #[arg(long, default_value = "/")]
    root: String,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where the host's root is mounted
    #[arg(long, default_value = "/host")]
    root: String,
    /// The Node that this pod runs on
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// The NodeBootstrap that this agent serves
    #[arg(long, env = "NODE_BOOTSTRAP")]
    node_bootstrap: String,
    /// Where the probe finds it
    #[arg(long, env = "NODEBOOTSTRAP_SOCKET", default_value = pod::probe::SOCKET)]
    socket: String,
}

#[derive(Debug, Args)]
struct ProbeArgs {
    /// Also asks whether it has read its Report
    #[arg(long)]
    ready: bool,
    /// Where the agent listens
    #[arg(long, env = "NODEBOOTSTRAP_SOCKET", default_value = pod::probe::SOCKET)]
    socket: String,
}

const DONE: u8 = 0;
const ERROR: u8 = 1;
const PENDING: u8 = 2;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap's own code for wrong arguments means something else here: changes pending.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { ERROR } else { DONE });
        }
    };
    raise_open_files();
    // One thread: the work is done one change at a time, and the agent shall be small.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&format!("cannot start: {error}"));
            return ExitCode::from(ERROR);
        }
    };
    let code = runtime.block_on(async {
        match run(cli.command).await {
            Ok(code) => code,
            Err(message) => {
                output::error(&message);
                ERROR
            }
        }
    });
    // What a name resolver's thread still does is of no interest any more.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(command: Command) -> Result<u8, String> {
    // Both kube and reqwest take the process's; there is no other reason for an error than a second call.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stop = stop_on_signals()?;
    match command {
        Command::Plan(args) => plan(&args).await,
        Command::Apply(args) => apply(&args, &stop).await,
        Command::Status(args) => status(&args).await,
        Command::Revert(args) => revert(&args, &stop).await,
        Command::Pause(args) => pause(&args, &stop).await,
        Command::Resume(args) => resume(&args),
        Command::Run(args) => {
            privileged()?;
            pod::init_log();
            let settings = pod::Settings {
                root: args.root,
                node_name: args.node_name,
                node_bootstrap: args.node_bootstrap,
                socket: args.socket,
            };
            pod::run(settings, stop).await.map(|()| DONE)
        }
        Command::Switch(args) => {
            let host = of_systemd()?;
            process::carry_out(&host, &args.name, &stop).await.map(|()| DONE)
        }
        Command::Rollback { name } => {
            let host = of_systemd()?;
            let rolled_back = match name {
                Some(name) => process::roll_back(&host, &name, &stop).await,
                None => process::roll_back_all(&host, &stop).await,
            };
            rolled_back.map(|()| DONE)
        }
        Command::Guard => process::guard(&of_systemd()?, &stop).await.map(|()| DONE),
        Command::Probe(args) => pod::probe::ask(&args.socket, args.ready).await.map(|()| DONE),
    }
}

/// SIGTERM and SIGINT end the work after the step that is under way.
fn stop_on_signals() -> Result<CancellationToken, String> {
    let stop = CancellationToken::new();
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let called = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        called.cancel();
    });
    Ok(stop)
}

fn privileged() -> Result<(), String> {
    if is_root() {
        Ok(())
    } else {
        Err("run this as root: it reads and writes what only root may".to_owned())
    }
}

/// The host of a process that its systemd has started.
fn of_systemd() -> Result<Host, String> {
    privileged()?;
    pod::init_log();
    open_host("/")
}

struct Session {
    host: Host,
    request: Request,
    mode: RunMode,
    health: Option<Health>,
}

fn open_host(root: &str) -> Result<Host, String> {
    let root = match (root, root.trim_end_matches('/')) {
        // A variable that was not set must not mean the running system.
        ("", _) => return Err("--root is empty: write --root / for the running system".to_owned()),
        (_, "") => "/",
        (_, root) => root,
    };
    Host::open(root, root == "/").map_err(|error| error.to_string())
}

async fn open(args: &FileArgs) -> Result<Session, String> {
    privileged()?;
    let host = open_host(&args.root)?;
    let text = local::read(&args.file)?;
    let node_bootstrap = parse(&text).map_err(|error| format!("{}: {error}", args.file))?;
    let identity = Identity {
        node_bootstrap: node_bootstrap.metadata.name.clone().unwrap_or_default(),
        uid: String::new(),
        cluster: String::new(),
    };
    let values = values(&node_bootstrap, args.refs.as_deref())?;
    // Nobody but root sees the revision on this host; the machine's id keeps it from being the same elsewhere.
    let rendered = render(&identity, &node_bootstrap.spec, &values, host.facts.machine_id.as_bytes())
        .map_err(|error| format!("{}: {error}", args.file))?;
    let request = Request {
        name: rendered.name,
        created: String::new(),
        revision: rendered.revision,
        payload: Payload::from(rendered.payload),
        from_pod: false,
        leave: BTreeSet::new(),
        findings: Findings::default(),
    };
    let request = preset::expanded(&host, &request).await.map_err(|error| error.to_string())?;
    let NodeBootstrapSpec { mode, health, .. } = node_bootstrap.spec;
    Ok(Session { host, request, mode: mode.unwrap_or_default(), health })
}

/// Reads exactly one NodeBootstrap; documents of other kinds, as an example has them beside it, are passed over.
///
/// # Errors
/// In words, if there is none, there are more, or it is none that could be applied.
pub fn parse(text: &[u8]) -> Result<NodeBootstrap, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8 text".to_owned())?;
    // As plain values first, so that a wrong kind is told as that and not as an unknown field. And as kubectl reads the same
    // file: 010 is 8, and yes without quotes is true, for a text too.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| format!("is no YAML: {error}"))?;
    let field = |document: &serde_json::Value, name: &str| {
        document.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let expected = (format!("{}/{}", crds::names::GROUP, crds::names::VERSION), "NodeBootstrap".to_owned());
    let found = |document: &serde_json::Value| (field(document, "apiVersion"), field(document, "kind"));
    let documents: Vec<_> = documents.into_iter().filter(|document| !document.is_null()).collect();
    let is_alone = documents.len() == 1;
    let (ours, others): (Vec<_>, Vec<_>) =
        documents.into_iter().partition(|document| found(document) == expected);
    let document = match (ours.len(), others.first()) {
        (0, None) => return Err("is empty, expected one NodeBootstrap".to_owned()),
        (0, Some(other)) => {
            let (version, kind) = found(other);
            return Err(format!(
                "is {} of {}, expected {} of {}",
                named(&kind, "no kind"),
                named(&version, "no apiVersion"),
                expected.1,
                expected.0
            ));
        }
        (1, _) => ours.into_iter().next().unwrap_or_default(),
        (count, _) => return Err(format!("has {count} NodeBootstraps, expected one: split the file")),
    };
    let node_bootstrap: NodeBootstrap = match serde_json::from_value(document) {
        Ok(node_bootstrap) => node_bootstrap,
        // Once more from the text, where errors know their line; a leading `---` or other documents have no place there.
        Err(error) => {
            let read = |no_schema| {
                let options = serde_saphyr::options! { legacy_octal_numbers: true, no_schema: no_schema };
                serde_saphyr::from_str_with_options::<NodeBootstrap>(text, options).err()
            };
            // What should be text, and has no quotes, is the second's to tell.
            let with_line = read(false).or_else(|| read(true)).filter(|_| is_alone);
            return Err(with_line.map_or_else(|| error.to_string(), |error| error.to_string()));
        }
    };
    let name = node_bootstrap.metadata.name.clone().unwrap_or_default();
    // The name becomes a directory, so it is checked as the API server would.
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty()
        || name.len() > crds::names::MAX_NAME
        || !name.chars().all(good)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(format!(
            "metadata.name {name:?}: at most {} characters, a-z, 0-9 and - only, as in: workers",
            crds::names::MAX_NAME
        ));
    }
    Ok(node_bootstrap)
}

fn named<'a>(text: &'a str, missing: &'a str) -> &'a str {
    if text.is_empty() { missing } else { text }
}

/// The values that the spec refers to, from files.
fn values(node_bootstrap: &NodeBootstrap, refs: Option<&str>) -> Result<Values, String> {
    let mut values = Values::new();
    for reference in references(&node_bootstrap.spec) {
        let Some(directory) = refs else {
            return Err(format!(
                "the spec refers to {reference}: put its value into DIR/{}/{} and give --refs DIR",
                reference.name, reference.key
            ));
        };
        if [&reference.name, &reference.key].iter().any(|part| part.contains('/') || part.starts_with("..")) {
            return Err(format!("{reference}: neither name nor key may have / in it"));
        }
        let value = local::read_below(directory, &format!("{}/{}", reference.name, reference.key))
            .map_err(|error| format!("the spec refers to {reference}: {error}"))?;
        values.insert(reference, value);
    }
    Ok(values)
}

async fn observe(session: &Session) -> Result<Plan, String> {
    engine::plan(&session.host, &session.request).await.map_err(|error| error.to_string())
}

/// As [`observe`], to be shown: a host that is being changed by itself is not what it was found.
async fn observe_to_show(session: &Session) -> Result<Plan, String> {
    let mut plan = observe(session).await?;
    if let Some(name) = session.host.state.switching().map_err(|error| error.to_string())? {
        plan.warnings.insert(0, switching(&session.host, &name));
    }
    // No error: it may be free a moment later.
    if plan.changes_accounts() && accounts::are_locked(&session.host.root) {
        plan.warnings.push(
            "/etc/.pwd.lock is held by another program: users and groups are changed when it is free; see whether useradd or passwd hangs"
                .to_owned(),
        );
    }
    Ok(plan)
}

async fn plan(args: &FileArgs) -> Result<u8, String> {
    let session = open(args).await?;
    let plan = observe_to_show(&session).await?;
    let Session { host, request, .. } = &session;
    let diffs = diff::of_plan(host, request, &plan);
    match args.output {
        Format::Text => output::print(&output::plan_text(request, &args.root, &plan, &diffs)),
        Format::Json => {
            output::print(&output::json_line(&output::plan_json(request, &args.root, &plan, &diffs)));
        }
    }
    Ok(code_of(&plan))
}

fn code_of(plan: &Plan) -> u8 {
    match (plan.problems.is_empty(), plan.steps.is_empty()) {
        (false, _) => ERROR,
        (true, true) => DONE,
        (true, false) => PENDING,
    }
}

/// Waits for the host's lock, to change it.
async fn lock(host: &Host, stop: &CancellationToken) -> Result<Lock, String> {
    let waiting = || output::note("another run works on this host: waiting until it is done");
    let lock = tokio::select! {
        lock = host.state.lock(waiting) => lock.map_err(|error| error.to_string())?,
        () = stop.cancelled() => return Err("told to stop: nothing was begun".to_owned()),
    };
    if let Some(name) = process::under_way(host).await.map_err(|error| error.to_string())? {
        return Err(switching(host, &name));
    }
    match host.state.paused().map_err(|error| error.to_string())? {
        Some(since) => Err(format!(
            "this host is paused since {since}, so nothing is changed: run nodebootstrap-agent resume first"
        )),
        None => Ok(lock),
    }
}

/// That a switch is under way, or what keeps it from its end.
fn switching(host: &Host, name: &str) -> String {
    let switch = host.state.switch(name).ok().flatten();
    let is = match switch.as_ref().and_then(|switch| switch.cause.as_ref()) {
        None => "and is confirmed or rolled back soon".to_owned(),
        Some(cause) => format!("and is being rolled back: {}", cause.message),
    };
    format!(
        "what pods run under is being changed for the NodeBootstrap {name}, {is}: wait for that, and see journalctl -u 'nodebootstrap-*'"
    )
}

async fn pause(args: &HostArgs, stop: &CancellationToken) -> Result<u8, String> {
    privileged()?;
    let host = open_host(&args.root)?;
    let since = host.state.pause(&timestamp()).map_err(|error| error.to_string())?;
    // Whoever takes the lock from now on finds the host paused; who has it ends what is under way.
    let waiting = || output::note("another run works on this host: waiting until it has stopped");
    tokio::select! {
        lock = host.state.lock(waiting) => drop(lock.map_err(|error| error.to_string())?),
        () = stop.cancelled() => return Err("the host is paused, but another run still works on it".to_owned()),
    }
    output::print(&format!(
        "paused since {since}: nothing is changed on this host until nodebootstrap-agent resume\n"
    ));
    if let Some(name) = host.state.switching().map_err(|error| error.to_string())? {
        output::note(&format!("but for this, which goes on to its end: {}", switching(&host, &name)));
    }
    Ok(DONE)
}

fn resume(args: &HostArgs) -> Result<u8, String> {
    privileged()?;
    let was_paused = open_host(&args.root)?.state.resume().map_err(|error| error.to_string())?;
    output::print(if was_paused {
        "changes are made on this host again\n"
    } else {
        "this host was not paused\n"
    });
    Ok(DONE)
}

async fn revert(args: &RevertArgs, stop: &CancellationToken) -> Result<u8, String> {
    privileged()?;
    let host = open_host(&args.root)?;
    let known = host.state.known().map_err(|error| error.to_string())?;
    if !known.contains(&args.name) {
        let there = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(format!(
            "nothing is known of a NodeBootstrap {:?} on this host: there is {there}",
            args.name
        ));
    }
    let lock = lock(&host, stop).await?;
    let request = engine::revert(&host, &args.name, false).map_err(|error| error.to_string())?;
    let session = Session { host, request, mode: RunMode::Apply, health: None };
    let plan = observe(&session).await?;
    let text = args.output == Format::Text;
    let at_stake = switch::at_stake(&session.host, &plan).await.map_err(|error| error.to_string())?;
    let outcome = match at_stake {
        None => engine::apply(&session.host, &session.request, &plan, lock, &Shown::new(text), stop).await,
        Some(kubelet) => {
            through_switch(&session.host, &session.request, &plan, lock, kubelet, None, stop).await
        }
    };
    let made = match outcome {
        Ok(made) => made,
        Err(failure) => return failed(&session, &args.root, text, &plan, failure),
    };
    let _lock = session.host.state.lock(|| {}).await.map_err(|error| error.to_string())?;
    engine::give_up(&session.host, &args.name).map_err(|error| error.to_string())?;
    // What goes at the next boot by itself needs nobody.
    let is_left = made.iter().any(Change::is_left);
    if text {
        output::print(&output::done_text(&made, "put back"));
    } else {
        let word = if is_left { "left" } else { "done" };
        let json = output::apply_json(&session.request, &args.root, word, &made, &plan.warnings, &[]);
        output::print(&output::json_line(&json));
    }
    Ok(if is_left { PENDING } else { DONE })
}

async fn apply(args: &FileArgs, stop: &CancellationToken) -> Result<u8, String> {
    let session = open(args).await?;
    let Session { host, request, mode, health } = &session;
    if *mode == RunMode::Plan {
        return Err(format!(
            "{}: its mode is Plan, so nothing is applied: run plan, or write mode: Apply",
            args.file
        ));
    }
    let text = args.output == Format::Text;
    let shown = Shown::new(text);
    let mut is_first = true;
    let (plan, lock) = loop {
        // Where it cannot be had the plan says why, beside what else is in the way.
        let lock = lock(host, stop).await;
        let plan = observe(&session).await?;
        if std::mem::take(&mut is_first) && text {
            output::print(&output::title(request, &args.root));
            output::print(&output::warnings(&plan.warnings));
        }
        let is_fetched = !plan.has_downloads(host).map_err(|error| error.to_string())?;
        if is_fetched || !plan.problems.is_empty() {
            break (plan, lock);
        }
        drop(lock?);
        // Nobody waits for a download; what is there after it is looked at again.
        if let Err(failure) = engine::fetch(host, &plan, &shown, stop).await {
            return failed(&session, &args.root, text, &plan, failure);
        }
    };
    if text {
        output::print(&output::problems(&plan.problems));
    }
    if !plan.problems.is_empty() {
        if text {
            output::print("nothing was changed\n");
        } else {
            let json = output::apply_json(request, &args.root, "failed", &[], &plan.warnings, &plan.problems);
            output::print(&output::json_line(&json));
        }
        return Ok(ERROR);
    }
    // Only now: a disk that takes no lock may be one of many reasons.
    let at_stake = switch::at_stake(host, &plan).await.map_err(|error| error.to_string())?;
    let outcome = match at_stake {
        None => match tried(host, request, &plan).await {
            Ok(()) => engine::apply(host, request, &plan, lock?, &shown, stop).await,
            Err(failure) => Err(failure),
        },
        Some(kubelet) => through_switch(host, request, &plan, lock?, kubelet, health.as_ref(), stop).await,
    };
    let starts = host.systemd.is_running()
        || !request.revision.resources.iter().any(|resource| resource.kind() == "unit");
    match (outcome, text) {
        (Ok(made), true) => output::print(&output::applied_text(&made, &args.root, starts)),
        (Ok(made), false) => {
            let word = if made.is_empty() { "nothing to do" } else { "done" };
            let json = output::apply_json(request, &args.root, word, &made, &plan.warnings, &[]);
            output::print(&output::json_line(&json));
        }
        (Err(failure), _) => return failed(&session, &args.root, text, &plan, failure),
    }
    Ok(DONE)
}

/// Tries what the node's pods shall run under before it is put in place; a switch does so itself.
async fn tried(host: &Host, request: &Request, plan: &Plan) -> Result<(), Failure> {
    if !switch::touches(host, plan) {
        return Ok(());
    }
    let tried = staged::check(host, &request.revision, plan).await;
    tried.map_err(|failure| Failure {
        message: request.payload.hide(&failure.message, &request.revision),
        ..failure
    })
}

/// Has the host's systemd make the changes, since what this node's pods run under is at stake.
async fn through_switch(
    host: &Host,
    request: &Request,
    plan: &Plan,
    lock: Lock,
    kubelet: Kubelet,
    health: Option<&Health>,
    stop: &CancellationToken,
) -> Result<Vec<Change>, Failure> {
    let node_bootstrap = &request.revision.node_bootstrap;
    let refused = |error: HostError| Failure::from(&error);
    // Whoever types this asks for another attempt.
    let node = kubelet.node_name(&host.root);
    let asked = process::asked(request, node, Some(kubelet), plan.disruption(), health, &timestamp());
    output::note(&format!(
        "what pods run under is at stake: carried out by systemd, and rolled back unless the node is as good as before within {} s",
        asked.timeout
    ));
    process::ask(host, request, asked, lock).await.map_err(refused)?;
    let over = process::wait(host, node_bootstrap, stop).await.map_err(refused)?;
    let stopped = || Failure {
        reason: "Stopped".to_owned(),
        message: "not waited for any longer: systemd carries it out, or rolls it back".to_owned(),
        made: Vec::new(),
    };
    let over = over.ok_or_else(stopped)?;
    match over.failure() {
        Some(failure) => Err(failure),
        None => Ok(over.changes),
    }
}

/// Says what failed, and what was made before.
fn failed(session: &Session, root: &str, text: bool, plan: &Plan, failure: Failure) -> Result<u8, String> {
    let Failure { reason, message, made } = failure;
    if text {
        let before = output::changes(made.iter().map(|change| change.change.as_str()));
        // What the host itself has put back was not made before.
        let is_over = matches!(reason.as_str(), "RolledBack" | "Unproven");
        return Err(if is_over { message } else { format!("{message}; {before} made before") });
    }
    let mut json = output::apply_json(&session.request, root, "failed", &made, &plan.warnings, &[]);
    // Problem has its reason from a fixed list; here it is one of many.
    json["errors"] = serde_json::json!([{"resource": "", "reason": reason, "message": message}]);
    output::print(&output::json_line(&json));
    Ok(ERROR)
}

async fn status(args: &FileArgs) -> Result<u8, String> {
    let session = open(args).await?;
    let plan = observe_to_show(&session).await?;
    let Session { host, request, .. } = &session;
    let last = host.state.result(&request.revision.node_bootstrap).map_err(|error| error.to_string())?;
    let resources = states(request, &plan);
    match args.output {
        Format::Text => {
            output::print(&output::status_text(request, &args.root, last.as_ref(), &resources, &plan));
        }
        Format::Json => {
            let json = output::status_json(request, &args.root, last.as_ref(), &resources, &plan);
            output::print(&output::json_line(&json));
        }
    }
    Ok(code_of(&plan))
}

/// The state of each resource: those of the revision, and what else the plan speaks of.
fn states(request: &Request, plan: &Plan) -> Vec<ResourceState> {
    let mut differs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for change in plan.changes().chain(&plan.held_back) {
        differs.entry(&change.resource).or_default().push(change.change.clone());
    }
    let mut errors: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for problem in &plan.problems {
        errors.entry(&problem.resource).or_default().push(problem.message.clone());
    }
    let mut states = Vec::new();
    for resource in request.revision.resources.iter().map(ToString::to_string) {
        let (state, differs) = match (errors.remove(resource.as_str()), differs.remove(resource.as_str())) {
            (Some(errors), _) => ("error", errors),
            (None, Some(differs)) => ("differs", differs),
            (None, None) => ("ok", Vec::new()),
        };
        states.push(ResourceState { resource, state, differs });
    }
    for (state, rest) in [("error", errors), ("differs", differs)] {
        for (resource, differs) in rest {
            states.push(ResourceState { resource: resource.to_owned(), state, differs });
        }
    }
    states
}

/// Shows changes as they are made, and a bar for each download where a terminal shows it.
struct Shown {
    text: bool,
    bars: MultiProgress,
    running: RefCell<BTreeMap<String, ProgressBar>>,
}

impl Shown {
    fn new(text: bool) -> Self {
        Self { text, bars: MultiProgress::new(), running: RefCell::default() }
    }
}

impl Observer for Shown {
    fn done(&self, change: &Change) {
        if self.text {
            self.bars.suspend(|| output::print(&output::change(change)));
        }
    }

    fn downloaded(&self, change: &Change, bytes: u64, total: Option<u64>) {
        if !self.text {
            return;
        }
        let mut running = self.running.borrow_mut();
        let bar = running.entry(change.resource.clone()).or_insert_with(|| {
            let name = change.resource.rsplit('/').next().unwrap_or_default().to_owned();
            let bar = self.bars.add(ProgressBar::no_length());
            let template = "  {prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            // What an earlier run left says nothing about the speed of this one.
            bar.with_prefix(name).with_position(bytes)
        });
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(bytes);
    }

    fn download_ended(&self, change: &Change) {
        if let Some(bar) = self.running.borrow_mut().remove(&change.resource) {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {name: workers}\nspec: {allNodes: true, groups: [{name: kubernetes}]}\n";

    #[test]
    fn exactly_one_node_bootstrap_is_read() {
        for good in [
            GOOD.to_owned(),
            format!("---\n{GOOD}"),
            format!("# hello\n---\n{GOOD}---\n"),
            format!("kind: Secret\n---\n{GOOD}"),
        ] {
            assert_eq!(
                parse(good.as_bytes()).map(|nb| nb.metadata.name),
                Ok(Some("workers".to_owned())),
                "{good}"
            );
        }
        for (bad, says) in [
            (String::new(), "is empty"),
            (format!("{GOOD}---\n{GOOD}"), "2 NodeBootstraps"),
            ("kind: Pod\napiVersion: v1\n".to_owned(), "is Pod of v1, expected NodeBootstrap"),
            ("a: 1\n".to_owned(), "is no kind of no apiVersion"),
            (GOOD.replace("groups", "gruops"), "gruops"),
            (GOOD.replace("workers", "../x"), "metadata.name"),
            (GOOD.replace("workers", "''"), "metadata.name"),
            ("a: [".to_owned(), "is no YAML"),
        ] {
            let error = parse(bad.as_bytes()).map(drop).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn a_file_means_what_it_means_to_kubectl() {
        let with = |entry: &str| parse(GOOD.replace("name: kubernetes", entry).as_bytes());
        let read = with("name: \"y\", gid: 0620, system: no").expect("as kubectl takes it");
        let group = &read.spec.groups[0];
        assert_eq!((group.name.as_str(), group.gid, group.system), ("y", Some(400), Some(false)));
        for text in ["y", "No", "on", "5", "0620"] {
            let file = GOOD
                .replace("groups: [{name: kubernetes}]", &format!("files: [{{path: /x, content: {text}}}]"));
            let error = parse(file.as_bytes()).map(drop).unwrap_err();
            let says = format!("line 4 column 52: The string value [{text}] must be quoted");
            assert!(error.contains(&says), "{error}");
        }
    }

    #[test]
    fn arguments_are_as_documented() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("apply") && !help.contains("probe"), "{help}");
    }
}
