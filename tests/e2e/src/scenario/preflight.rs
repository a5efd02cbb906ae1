//! The checks before presets, on machines that cannot have all: the testbed's cgroups are of version 1, and its containerd is
//! older than the kubelet's.

use anyhow::{Context, Result, ensure};
use crds::NodeBootstrapReport;
use crds::report::ReportPhase;

use crate::lab::Lab;

const NAME: &str = "checked";

fn yaml(config: &str, ignore: &str) -> String {
    format!(
        "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata: {{name: {NAME}}}\nspec:\n  mode: Plan\n  \
         allNodes: true\n  kubelet: {{takeover: Adopt, config: {config}}}\n  preflight: {{ignore: {ignore}}}\n"
    )
}

/// The checks that a Report names, of those that are asked for.
fn named<'a>(report: &NodeBootstrapReport, checks: &[&'a str]) -> Vec<&'a str> {
    let status = report.status.as_ref();
    let warnings = status.map(|status| status.warnings.as_slice()).unwrap_or_default();
    let problems = status.map(|status| status.problems.as_slice()).unwrap_or_default();
    let is_named = |check: &&str| {
        let start = format!("preflight {check}: ");
        warnings.iter().chain(problems).any(|line| line.starts_with(&start))
    };
    checks.iter().copied().filter(is_named).collect()
}

fn phase(report: &NodeBootstrapReport) -> Option<ReportPhase> {
    report.status.as_ref().map(|status| status.phase)
}

/// What may fail is a warning, what is sure to is a problem, and each goes by its name.
pub(crate) async fn a_check_warns_or_stops_until_it_is_ignored_by_name(lab: &Lab) -> Result<()> {
    let checks = ["CgroupV1", "ContainerdVersion", "CgroupDriver"];
    for (config, ignore, expected, is_stopped) in [
        ("{maxPods: 99}", "[]", &["CgroupV1", "ContainerdVersion"][..], false),
        ("{maxPods: 98}", "[ContainerdVersion]", &["CgroupV1"], false),
        // The machines' kubelet has cgroupfs, and has joined with it.
        ("{cgroupDriver: systemd, failCgroupV1: true}", "[]", &checks, true),
        (
            "{cgroupDriver: systemd, failCgroupV1: true}",
            "[CgroupV1, CgroupDriver]",
            &["ContainerdVersion"],
            false,
        ),
    ] {
        lab.apply(&yaml(config, ignore)).await?;
        for node in lab.nodes()? {
            let is_so = |report: &NodeBootstrapReport| {
                let is_failed = phase(report) == Some(ReportPhase::Failed);
                is_failed == is_stopped && named(report, &checks) == expected
            };
            lab.wait_report(NAME, &node, &format!("{config}, {ignore}: {expected:?}"), is_so)
                .await
                .with_context(|| format!("{config}, {ignore}"))?;
        }
    }
    ensure!(
        lab.kubectl(&["describe", "nbr"]).await?.contains("preflight ContainerdVersion: containerd 1.6.")
    );
    lab.delete(NAME).await
}
