//! The node in a real cluster. One control plane and one registry are started for all tests here;
//! each test that needs one has a node and a namespace of its own. `make test` builds what is run.

mod admission;
mod classes;
mod containerd;
mod crash;
mod faults;
mod hooks;
mod images;
mod join;
mod mixed;
mod network;
mod objects;
mod ordinary;
mod outage;
mod place;
mod probes;
mod reboot;
mod refusals;
mod resize;
mod resources;
mod room;
mod runtimes;
mod smoke;
mod static_pods;
mod statuses;
mod streams;
mod survive;
mod users;
mod verbs;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use copepod_tests::cluster::{Build, ControlPlane, Node, NodeOptions, Options};
use copepod_tests::registry::Registry;
use copepod_tests::{Home, guest};
use libtest_mimic::{Arguments, Trial};

/// Far longer than anything here takes, on a machine with other work too.
const SOON: Duration = Duration::from_secs(60);

/// Tests mostly wait for one another's programs, so more of them run at once than there are
/// processors; but not so many that a node's time is measured in others' work.
const THREADS: usize = 4;

/// What the tests share.
struct World {
    /// Never freed, so that a node can be shared; ended with the world.
    plane: &'static ControlPlane,
    /// A node with a containerd, for all tests that break neither.
    ordinary: Mutex<Option<Arc<Node<'static>>>>,
    registry: Registry,
    home: Home,
    /// Pushed already, by name.
    images: Mutex<BTreeMap<String, String>>,
}

impl World {
    /// With this control plane; the shared one, or one whose API server a test takes away.
    fn with(plane: ControlPlane) -> Self {
        Self {
            plane: Box::leak(Box::new(plane)),
            ordinary: Mutex::default(),
            registry: Registry::start(),
            home: Home::with_empty_cache(),
            images: Mutex::default(),
        }
    }

    /// Ends the shared node and the control plane, and fails if anything is left of either.
    #[track_caller]
    fn finish(self) {
        let ordinary = self.ordinary.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(node) = ordinary {
            // A test that failed has left its pods.
            for pod in node.pods() {
                let field = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
                self.plane.api().delete("pods", field("namespace"), field("name"));
            }
            node.wait(SOON, "no pod is left", || node.pods().is_empty().then_some(()));
            Arc::into_inner(node).expect("all tests have ended").finish();
        }
        self.plane.finish();
    }

    /// The shared node with a containerd, started when it is first asked for.
    #[track_caller]
    fn ordinary(&self) -> Arc<Node<'static>> {
        let mut ordinary = self.ordinary.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let containerd = Some(Build::Usual);
            Arc::new(Node::start(self.plane, NodeOptions { containerd, ..Default::default() }))
        };
        Arc::clone(ordinary.get_or_insert_with(start))
    }

    /// The reference of an image with this guest (of `wasm-examples`), pushed when it is first
    /// asked for.
    #[track_caller]
    fn image(&self, name: &str) -> String {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images.get(name) {
            return image.clone();
        }
        let image = format!("{}/{name}:1", self.registry.host());
        let file = guest(name);
        let file = file.to_str().expect("a path in UTF-8");
        let output = self.home.copepod(["image", "push", file, &image]).output(SOON);
        assert!(output.status.success(), "{output:?}");
        images.insert(name.to_owned(), image.clone());
        image
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Of a test that failed; nothing is to be done otherwise.
        self.plane.end();
    }
}

type Test = (&'static str, fn(&World));

/// Names each test as libtest would. One that is not listed is dead code, which the lint finds.
macro_rules! tests {
    ($($room:ident::$name:ident),* $(,)?) => {
        [$((concat!(stringify!($room), "::", stringify!($name)), $room::$name)),*]
    };
}

/// All of them.
const TESTS: &[Test] = &tests![
    smoke::a_control_plane_serves_stops_comes_back_and_leaves_nothing,
    smoke::a_pod_without_a_node_stays_pending,
    streams::a_command_is_run_with_its_streams_and_its_end,
    streams::a_command_whose_client_is_killed_ends,
    streams::an_attached_client_hears_and_is_read,
    streams::a_port_is_forwarded_into_the_pods_network,
    streams::a_hundred_megabytes_go_each_way_without_loss,
    streams::a_hundred_megabytes_go_each_way_of_an_ordinary_pod,
    streams::a_log_has_two_hundred_followers,
    smoke::a_node_has_rights_of_its_own_alone,
    ordinary::a_log_is_rotated_and_loses_no_line,
    ordinary::a_container_without_a_profile_has_the_nodes_default,
    ordinary::a_sandbox_that_dies_is_made_anew_with_all_in_it,
    runtimes::both_give_the_same_statuses,
    runtimes::both_give_the_same_statuses_with_containerd_2,
    mixed::each_part_is_killed_under_load_and_nobody_else_notices,
    mixed::pods_outlive_an_absence_of_containerd,
    faults::lost_delayed_and_doubled_answers_end_well,
    faults::a_call_that_hangs_holds_up_its_pod_alone,
    faults::a_removal_whose_answer_is_lost_leaves_no_link_to_a_log,
    faults::a_runtime_hears_of_a_resize_first_and_may_refuse_it,
    probes::a_liveness_probe_that_fails_restarts_its_container,
    probes::readiness_follows_its_probe,
    probes::a_startup_probe_holds_the_others,
    probes::a_startup_probe_that_never_succeeds_restarts_its_container,
    probes::each_handler_says_what_is_wrong,
    probes::a_liveness_kill_under_load_loses_no_line_and_its_restart_waits,
    hooks::a_hook_after_the_start_is_waited_for,
    hooks::a_hook_after_the_start_that_fails_ends_its_container,
    hooks::a_hook_after_the_start_that_hangs_holds_the_next_and_no_end,
    hooks::a_hook_before_the_stop_is_done_within_the_grace,
    hooks::a_hook_by_http_is_asked_and_one_that_fails_stops_nothing,
    verbs::each_verb_works_with_old_and_new_kubectl,
    containerd::it_runs_stops_comes_back_and_leaves_nothing,
    containerd::the_second_one_does_so_too,
    containerd::what_a_test_leaves_is_named_and_removed,
    containerd::calls_go_wrong_as_planned,
    images::a_private_wasm_image_needs_the_pods_own_secret,
    images::an_ordinary_image_is_pulled_as_its_policy_and_secrets_say,
    images::a_nodes_plugin_knows_the_credentials_of_both_kinds,
    join::a_deployment_is_run_followed_rolled_and_deleted,
    join::a_node_that_was_deleted_registers_again,
    join::the_lease_is_renewed_and_the_node_says_what_it_is,
    admission::a_pod_that_does_not_fit_fails_and_says_why,
    admission::a_critical_pod_makes_room_for_itself,
    admission::labels_of_this_moment_count,
    classes::a_tainted_pool_takes_pods_of_the_class_alone,
    classes::an_ordinary_image_is_refused_before_any_layer,
    objects::every_pod_has_its_account_and_the_services,
    objects::a_token_is_taken_by_the_api_server_while_its_pod_is_there,
    objects::what_a_pod_names_is_read_waited_for_and_followed,
    network::each_pod_has_an_address_and_its_own_low_port,
    network::a_pod_keeps_its_address_over_restarts_of_container_and_agent,
    network::a_pod_of_the_hosts_network_has_the_nodes_address,
    network::without_a_network_the_node_is_not_ready_and_host_pods_run,
    users::a_pod_may_have_none_of_the_hosts,
    users::guests_share_the_files_of_a_pod_apart,
    users::a_runtime_without_them_says_so,
    network::an_ordinary_pod_waits_for_its_runtimes_network,
    resources::a_pods_group_has_its_limits_and_goes_with_it,
    resources::a_guest_that_takes_too_much_memory_is_oom_killed,
    resize::cpu_and_memory_go_up_and_down_in_both_runtimes,
    resize::less_memory_than_is_used_is_refused_until_it_is_taken_back,
    resize::a_resize_waits_for_room_and_what_never_fits_is_refused,
    resize::a_container_that_asks_for_it_is_restarted,
    resize::an_agent_that_is_killed_in_the_middle_goes_on,
    room::a_pod_that_has_ended_takes_none,
    room::a_resize_waits_for_what_another_has_not_given_back,
    room::a_static_pods_resize_makes_room_once,
    refusals::a_kubeconfig_of_another_node_makes_no_node,
    refusals::a_cluster_of_another_authority_is_not_believed,
    refusals::an_expired_certificate_makes_no_node,
    refusals::all_faults_of_a_configuration_are_told_at_once,
    refusals::a_root_directory_has_one_agent,
    refusals::a_pod_that_asks_for_what_is_not_served_is_told_so,
    refusals::annotations_as_large_as_may_be_do_no_harm,
    refusals::the_server_asks_who_it_is_and_whether_they_may,
    refusals::slow_clients_hold_up_nobody_and_are_let_go,
    crash::a_start_outlives_each_death,
    crash::an_ordinary_start_outlives_each_death,
    crash::a_restart_outlives_each_death,
    crash::an_ordinary_restart_outlives_each_death,
    crash::a_liveness_kill_outlives_each_death,
    crash::an_ordinary_liveness_kill_outlives_each_death,
    crash::a_delete_outlives_each_death,
    crash::an_ordinary_delete_outlives_each_death,
    survive::twenty_pods_outlive_twenty_kills_of_the_agent,
    survive::what_happens_while_the_agent_is_away_is_made_good,
    reboot::pods_of_both_kinds_come_back_as_their_policies_say,
    static_pods::a_file_is_run_shown_followed_and_removed,
    static_pods::an_ordinary_static_pod_lives_as_its_file_says,
    static_pods::one_that_waits_for_room_may_change_or_go,
    static_pods::static_pods_need_no_api_server,
    static_pods::an_address_is_followed_and_its_failures_end_nothing,
    outage::pods_outlive_an_absence_of_the_api_server,
    outage::an_api_server_that_says_nothing_is_left_for_another_connection,
    outage::an_agent_starts_while_the_api_server_is_away,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let world: Arc<OnceLock<World>> = Arc::default();
    let trials = TESTS.iter().map(|&(name, test)| {
        let world = Arc::clone(&world);
        Trial::test(name, move || {
            test(world.get_or_init(|| World::with(ControlPlane::start(&Options::default()))));
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // Whatever failed, the control plane is ended and looked at.
    if let Some(world) = Arc::into_inner(world).and_then(OnceLock::into_inner) {
        world.finish();
    }
    conclusion.exit_code()
}
