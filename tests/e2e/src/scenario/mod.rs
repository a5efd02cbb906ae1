//! The end-to-end tests: each gets a cluster with the operator on it and nothing else, and breaks one promise if it can.

mod conflicts;
mod containerd;
mod downloads;
mod drift;
mod examples;
mod input;
mod interruptions;
mod kinds;
mod kubelet;
mod nodes;
mod plans;
mod preflight;
mod removal;
mod reverts;
mod rollout;
mod security;
mod services;
mod story;
mod switches;

use anyhow::Result;
use futures::future::BoxFuture;

use crate::lab::Lab;

pub(crate) use story::{is_ours, settled};

/// One end-to-end test.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: for<'a> fn(&'a Lab) -> BoxFuture<'a, Result<()>>,
}

macro_rules! scenarios {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        &[$(Scenario {
            name: stringify!($name),
            run: |lab| Box::pin($module::$name(lab)),
        }),+]
    };
}

/// All of them, in the order in which they run: those that take the operator away are the last.
pub(crate) const ALL: &[Scenario] = scenarios![
    story::the_seed_page_as_declared_state,
    story::a_second_apply_changes_nothing,
    story::an_edit_of_one_file_reaches_all_nodes,
    story::what_is_changed_by_hand_is_noticed,
    examples::each_example_works,
    input::bad_input_is_refused_with_what_to_write,
    input::every_list_at_its_maximum_is_accepted,
    input::lists_merge_by_key_in_server_side_apply,
    input::what_no_kubelet_takes_is_told,
    downloads::a_wrong_digest_is_told_and_nothing_is_left,
    downloads::a_missing_file_is_told,
    downloads::a_web_page_in_place_of_a_program_is_told,
    downloads::a_redirect_is_followed,
    downloads::a_mirror_stands_in,
    downloads::a_download_that_takes_long_says_how_far_it_is,
    downloads::a_file_that_is_on_the_node_is_taken,
    downloads::a_proxy_is_gone_through,
    conflicts::the_older_keeps_a_path_and_the_younger_says_so,
    conflicts::a_node_s_kubelet_has_one_node_bootstrap,
    conflicts::two_paths_that_are_one_by_way_of_a_link_are_a_conflict,
    rollout::a_restart_takes_one_node_at_a_time,
    rollout::two_node_bootstraps_take_one_node_at_a_time_together,
    rollout::a_restart_that_fails_stops_the_rollout,
    rollout::with_max_parallel_one_node_after_the_other_gets_a_revision,
    rollout::a_missing_reference_is_told_and_followed_when_it_comes,
    plans::a_plan_changes_nothing_and_apply_makes_just_that,
    plans::a_host_says_every_reason_at_once,
    preflight::a_check_warns_or_stops_until_it_is_ignored_by_name,
    services::a_service_that_keeps_ending_is_not_ready,
    services::a_step_that_does_not_end_holds_up_nothing_else,
    switches::the_kubelet_is_changed_on_one_node_after_the_other,
    switches::what_would_lose_a_node_is_rolled_back_by_its_host,
    switches::what_cannot_be_proven_is_put_back_and_tried_again,
    kubelet::a_kubelet_that_others_set_up_is_left_alone,
    kubelet::a_kubelet_is_adopted_upgraded_and_put_back,
    kubelet::a_configuration_that_the_kubelet_refuses_is_rolled_back,
    kubelet::a_machine_without_a_kubelet_becomes_a_node,
    containerd::a_key_of_containerd_is_changed_under_pods_that_run_on,
    containerd::a_configuration_that_containerd_cannot_use_is_rolled_back,
    containerd::a_containerd_is_installed_on_a_drained_node_and_gives_way_again,
    drift::a_unit_that_stops_or_is_disabled_is_put_right_at_once,
    drift::a_tug_of_war_is_told_and_not_fought,
    drift::policy_report_tells_and_leaves,
    drift::a_paused_node_is_left_as_it_is,
    security::an_agent_may_write_its_own_status_and_nothing_else,
    security::a_secret_reaches_the_file_and_nothing_else,
    nodes::a_node_that_loses_its_label_leaves,
    nodes::a_node_that_joins_later_is_enrolled,
    nodes::a_machine_made_anew_under_the_same_name_is_set_up_again,
    nodes::a_node_that_goes_is_forgotten,
    interruptions::operator_and_agents_killed_in_the_middle_come_back,
    interruptions::killed_before_any_change_the_next_run_finishes,
    interruptions::an_outage_of_the_api_server_is_survived,
    interruptions::a_malformed_object_stops_no_other,
    removal::a_deleted_node_bootstrap_leaves_no_object,
    removal::a_dead_node_holds_deletion_up_for_the_leave_timeout_only,
    reverts::reverted_three_machines_are_as_before,
    reverts::an_entry_that_leaves_the_spec_is_put_back,
    reverts::a_machine_that_was_away_is_reverted_by_hand,
    kinds::each_kind_is_made_repaired_and_put_back,
    kinds::a_ca_is_trusted_by_the_machine_and_goes,
    removal::uninstalled_in_the_right_order_nothing_is_left,
    removal::uninstalled_with_node_bootstraps_there,
    removal::uninstalled_with_the_namespace_first,
    removal::uninstalled_with_the_crds_first,
];
