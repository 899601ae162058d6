//! The API server is away, or silent, and the node goes on by itself.

use std::time::Duration;

use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{ControlPlane, NodeOptions, Options};
use copepod_tests::holds_within;
use serde_json::{Value, json};

use crate::place::{Place, container, ready};
use crate::survive::{counted, sandboxes, unbroken};
use crate::{SOON, World};

/// How long the API server is away: by `COPEPOD_OUTAGE_SECONDS` as long as one likes (600 for the
/// ten minutes). Longer than the controller manager waits for a node, and than several back-offs.
const AWAY: Duration = Duration::from_secs(90);
/// How long it is silent: longer than a client waits for an answer.
const SILENT: Duration = Duration::from_secs(40);
/// How soon everything is right again.
const CAUGHT_UP: Duration = Duration::from_secs(15);

fn away() -> Duration {
    let seconds = std::env::var("COPEPOD_OUTAGE_SECONDS").ok();
    seconds.map_or(AWAY, |text| Duration::from_secs(text.parse().expect("a number of seconds")))
}

/// The time of a lease or a condition as it is written: they compare as texts, and what is within
/// this second is not later.
fn now() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%FT%TZ"]).output().expect("date");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// How often the container `main` was started by what lies on disk: each start has its own log.
fn starts(place: &Place, pod: &Value) -> usize {
    let meta = |field: &str| pod["metadata"][field].as_str().expect("a string").to_owned();
    let name = format!("{}_{}_{}", meta("namespace"), meta("name"), meta("uid"));
    let files = std::fs::read_dir(place.node.logs().join(name).join("main"));
    let numbers =
        files.into_iter().flatten().flatten().filter_map(|entry| {
            entry.file_name().to_str()?.split('.').next()?.parse::<usize>().ok()
        });
    numbers.max().map_or(0, |last| last + 1)
}

/// Waits until the lease, the node and the pods are as they should be, for as long as is promised; the
/// node's condition by its heartbeat, which is the node's own: the controller manager's watches come
/// back when they like, and until then it takes the node for lost.
///
/// What bears a time later than `left` was taken since the return, since nothing was in between; it may
/// bear one before the return, that of a request which waited for it.
#[track_caller]
fn caught_up(place: &Place, left: &str, crashes: &Value) {
    let api = place.api();
    let name = place.node.name();
    place.node.wait(CAUGHT_UP, "lease, node and statuses have caught up", || {
        let lease = api.get("leases", "kube-node-lease", name)?;
        let renewed = lease["spec"]["renewTime"].as_str()? > left;
        let node = api.get("nodes", "", name)?;
        let ready = condition(&node, "Ready")?;
        let ready = ready["lastHeartbeatTime"].as_str()? > left;
        let pod = api.get("pods", &place.namespace, "crashes")?;
        let count = container(&pod, "main")["restartCount"].as_u64()?;
        let told = count + 1 >= starts(place, crashes) as u64;
        (renewed && ready && told).then_some(())
    });
}

/// Both kinds of absence: `leave` and `come_back` of the API server, so long in between.
fn absence(leave: fn(&ControlPlane), away: Duration, come_back: fn(&ControlPlane)) {
    // Of its own: what the others need goes away here.
    let world = World::with(ControlPlane::start(&Options::default()));
    // It says that it lives whenever it looks, not each five minutes: that is waited for.
    let config = json!({"nodeStatusReportFrequency": "1s"});
    let place = Place::with(&world, NodeOptions { config, ..Default::default() });
    place.node.wait_ready(SOON);
    for n in 0..5 {
        place.create(&place.pod(&format!("still-{n}"), "hello", &["--every", "100"]));
    }
    place.create(&place.pod("crashes", "exit", &["3", "--after", "1000"]));
    let still: Vec<Value> = (0..5).map(|n| place.wait_ready(&format!("still-{n}"))).collect();
    let crashes = place.wait_pod("crashes", "it was restarted", |pod| {
        container(pod, "main")["restartCount"].as_u64() >= Some(1)
    });
    let mut processes = sandboxes(&place.node);
    let (before, crashing) =
        (starts(&place, &crashes), |folder: &str| folder.contains("_crashes_"));
    processes.retain(|folder, _| !crashing(folder));

    leave(world.plane);
    let left = now();
    // The time itself is what is tested, and nothing else may happen in it.
    let moved = holds_within(away, || {
        std::thread::park_timeout(Duration::from_millis(500));
        let mut present = sandboxes(&place.node);
        present.retain(|folder, _| !crashing(folder));
        present != processes
    });
    assert!(!moved, "a running pod was touched: {processes:?}\n{}", place.node.log());
    let during = starts(&place, &crashes) - before;
    assert!(during >= 1, "no restart in {away:?}\n{}", place.node.log());
    come_back(world.plane);
    caught_up(&place, &left, &crashes);
    place.node.wait_ready(2 * SOON);

    for pod in &still {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let after = place.wait_ready(name);
        assert_eq!(container(&after, "main"), container(pod, "main"), "{name}");
        unbroken(name, &counted(&place.node, &after));
    }
    // And it hears of what is new.
    place.create(&place.pod("new", "hello", &["--every", "100"]));
    place.node.wait(
        2 * SOON,
        "a new pod is scheduled, as soon as the scheduler hears of it",
        || place.api().get("pods", &place.namespace, "new").filter(ready).map(drop),
    );
    place.finish();
    world.finish();
}

pub(crate) fn pods_outlive_an_absence_of_the_api_server(_: &World) {
    absence(ControlPlane::stop_api_server, away(), ControlPlane::start_api_server);
}

pub(crate) fn an_api_server_that_says_nothing_is_left_for_another_connection(_: &World) {
    absence(ControlPlane::pause, SILENT, ControlPlane::resume);
}

pub(crate) fn an_agent_starts_while_the_api_server_is_away(_: &World) {
    let world = World::with(ControlPlane::start(&Options::default()));
    let mut place = Place::new(&world);
    place.create(&place.pod("still", "hello", &["--every", "100"]));
    let still = place.wait_ready("still");
    let processes = sandboxes(&place.node);
    place.node.kill9();
    world.plane.stop_api_server();
    place.node.run();
    // Nothing says from outside that it is there but its health.
    place.world.plane.wait(
        SOON,
        "it is healthy",
        || place.node.log(),
        || std::net::TcpStream::connect(place.node.healthz()).ok(),
    );
    assert_eq!(sandboxes(&place.node), processes);
    world.plane.start_api_server();
    place.node.wait_ready(SOON);
    let after = place.wait_ready("still");
    assert_eq!(container(&after, "main"), container(&still, "main"));
    assert_eq!(sandboxes(&place.node), processes);
    unbroken("still", &counted(&place.node, &after));
    place.finish();
    world.finish();
}
