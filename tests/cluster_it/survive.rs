//! The agent is killed, and nobody notices.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use copepod_tests::cluster::Node;
use copepod_tests::let_pass;
use serde_json::{Value, json};

use crate::place::{Place, container, ready};
use crate::{SOON, World};

/// Pods that are not touched, those of the deployment that is rolled, and those that come and go.
const STILL: usize = 10;
const ROLLED: usize = 6;
const BRIEF: usize = 4;
const KILLS: usize = 20;
/// Longest time from a start of the agent to its next death, and from that to the next start:
/// shorter than a start with twenty pods takes and longer.
const ALIVE_MS: u64 = 2500;
const DEAD_MS: u64 = 400;
/// Twenty pods on two processors, with the other tests beside them.
const LONG: Duration = Duration::from_secs(180);

/// Numbers that look random and are the same for the same seed (`COPEPOD_SEED`), which is printed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(what: &str) -> Self {
        let seed = std::env::var("COPEPOD_SEED").ok().and_then(|text| text.parse().ok());
        let now = || {
            let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
            since.as_micros() as u64
        };
        let seed = seed.unwrap_or_else(now);
        println!("{what}: COPEPOD_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// Some time below that.
    fn let_pass(&mut self, milliseconds: u64) {
        let_pass(Duration::from_millis(self.below(milliseconds)), "a fault comes at a moment");
    }
}

/// A process that no other is: its id and the kernel's time of its start.
pub(crate) type Process = (u32, u64);

/// The sandboxes of a node, by the folder of their pod's logs (`NAMESPACE_NAME_UID`).
pub(crate) fn sandboxes(node: &Node) -> BTreeMap<String, Vec<Process>> {
    let logs = node.logs();
    let mut found: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It holds its log, and its agent holds none for longer than it takes to hand it over. A
        // containerd holds those of its own containers.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.trim_end() == "containerd" {
            continue;
        }
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut open = open.flat_map(|fd| fs::read_link(fd.path()));
        let Some(log) = open.find_map(|to| to.strip_prefix(&logs).map(Path::to_owned).ok()) else {
            continue;
        };
        let Some(pod) = log.iter().next() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let start = after.split_whitespace().nth(19).and_then(|text| text.parse().ok());
        if let Some(start) = start {
            found.entry(pod.to_string_lossy().into_owned()).or_default().push((pid, start));
        }
    }
    found
}

/// The numbers that the guest `hello` has counted, in the log of a pod's first attempt on disk (too
/// short to be rotated).
pub(crate) fn counted(node: &Node, pod: &Value) -> Vec<u64> {
    let meta = |field: &str| pod["metadata"][field].as_str().expect("a string").to_owned();
    let name = format!("{}_{}_{}", meta("namespace"), meta("name"), meta("uid"));
    let file = node.logs().join(name).join("main/0.log");
    let text =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // Only whole lines: the guest goes on writing.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().filter_map(|line| line.split_once(" F count ")?.1.parse().ok()).collect()
}

/// Fails the test unless the numbers are 1, 2, 3, ... without one left out or said twice.
#[track_caller]
pub(crate) fn unbroken(what: &str, numbers: &[u64]) {
    assert!(!numbers.is_empty(), "{what}: nothing was counted");
    for (index, number) in numbers.iter().enumerate() {
        assert_eq!(*number, index as u64 + 1, "{what}: line {index} of {numbers:?}");
    }
}

pub(crate) fn twenty_pods_outlive_twenty_kills_of_the_agent(world: &World) {
    let mut chance = Chance::new("kills of the agent");
    let mut place = Place::new(world);
    let args = ["--every", "100"];
    let still: Vec<String> = (0..STILL).map(|n| format!("still-{n}")).collect();
    for name in &still {
        place.create(&place.pod(name, "hello", &args));
    }
    place.deploy("rolled", ROLLED, &place.pod("rolled", "hello", &args));
    let before: Vec<Value> = still.iter().map(|name| place.wait_ready(name)).collect();
    let processes = sandboxes(&place.node);
    let of = |pod: &Value, all: &BTreeMap<String, Vec<Process>>| {
        let uid = pod["metadata"]["uid"].as_str().expect("a string");
        let one =
            all.iter().find(|(folder, _)| folder.ends_with(uid)).map(|(_, list)| list.clone());
        one.unwrap_or_default()
    };
    assert!(before.iter().all(|pod| of(pod, &processes).len() == 1), "{processes:?}");

    for kill in 0..KILLS {
        churn(&place, &mut chance, kill);
        chance.let_pass(ALIVE_MS);
        place.node.kill9();
        for pod in &before {
            assert_eq!(of(pod, &sandboxes(&place.node)), of(pod, &processes), "{pod}");
        }
        chance.let_pass(DEAD_MS);
        place.node.run();
    }

    for (name, pod) in still.iter().zip(&before) {
        let after = place.wait_ready(name);
        assert_eq!(of(&after, &sandboxes(&place.node)), of(pod, &processes), "{name}");
        let (was, is) = (container(pod, "main"), container(&after, "main"));
        assert_eq!(was, is, "{name}: its status is as it was");
        assert_eq!(is["restartCount"], 0);
        assert_eq!(pod["status"]["podIP"], after["status"]["podIP"]);
        place.wait_line(name, "count 20");
        unbroken(name, &counted(&place.node, &after));
    }
    settled(&place);
    // A log that is followed now has all from the beginning.
    let log = place.told(&["logs", &still[0]]);
    let numbers: Vec<u64> =
        log.lines().filter_map(|line| line.strip_prefix("count ")?.parse().ok()).collect();
    unbroken("by kubectl", &numbers);
    place.finish();
}

/// One change of each kind, none of which is waited for.
fn churn(place: &Place, chance: &mut Chance, kill: usize) {
    let api = place.api();
    for slot in 0..BRIEF {
        // Half of them each time, in turn made and deleted.
        if chance.below(2) == 0 {
            continue;
        }
        let name = format!("brief-{slot}");
        match api.get("pods", &place.namespace, &name) {
            Some(_) => api.delete("pods", &place.namespace, &name),
            None => drop(place.create(&place.pod(&name, "hello", &["--every", "50"]))),
        }
    }
    let guest = if kill.is_multiple_of(2) { "hello-p2" } else { "hello" };
    let containers = json!([{"name": "main", "image": place.world.image(guest)}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    if kill.is_multiple_of(3) {
        api.patch("deployments", &place.namespace, "rolled", &patch);
    }
}

/// Waits until everything is as it was asked for: the deployment rolled, each pod Ready, each
/// deleted one gone, and one process for each container.
#[track_caller]
fn settled(place: &Place) {
    let api = place.api();
    place.node.wait(LONG, "all is as it was asked for", || {
        let pods = api.list("pods", &place.namespace);
        let rolled = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "rolled").count();
        let deployment = api.get("deployments", &place.namespace, "rolled")?;
        let updated = &deployment["status"]["updatedReplicas"];
        let all = pods.iter().all(ready) && rolled == ROLLED && *updated == ROLLED;
        let processes = sandboxes(&place.node);
        let one_each = processes.len() == pods.len() && processes.values().all(|p| p.len() == 1);
        (all && one_each).then_some(())
    });
    for pod in api.list("pods", &place.namespace) {
        assert_eq!(container(&pod, "main")["restartCount"], 0, "{pod}");
    }
}

pub(crate) fn what_happens_while_the_agent_is_away_is_made_good(world: &World) {
    let mut place = Place::new(world);
    let out = place.node.file("out");
    fs::create_dir(&out).expect("made");
    let mut ends = place.pod("ends", "actor", &["await", "/out/go", "--", "exit", "7"]);
    ends["spec"]["restartPolicy"] = json!("Never");
    ends["spec"]["volumes"] = json!([{"name": "out", "hostPath": {"path": out}}]);
    ends["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
    place.create(&ends);
    place.create(&place.pod("deleted", "hello", &["--every", "100"]));
    place.create(&place.pod("goes-on", "hello", &["--every", "100"]));
    let names = ["ends", "deleted", "goes-on"];
    let [_, deleted, goes_on] = names.map(|name| place.wait_ready(name));
    place.node.kill9();

    // Told to the API server while nobody is there: the pods' ends and a new pod.
    place.api().delete("pods", &place.namespace, "deleted");
    place.create(&place.pod("new", "hello", &["--every", "100"]));
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().expect("a string").to_owned();
    assert!(sandboxes(&place.node).keys().any(|folder| folder.ends_with(&uid(&deleted))));
    fs::write(out.join("go"), "").expect("written");
    place.node.wait(SOON, "one guest ends by itself", || {
        (sandboxes(&place.node).len() == 2).then_some(())
    });
    place.node.run();

    let ended = place.wait_pod("ends", "Failed", |pod| pod["status"]["phase"] == "Failed");
    let state = &container(&ended, "main")["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(7), &json!("Error")), "{ended}");
    place.wait_ready("new");
    place.node.wait(SOON, "the deleted pod is gone", || {
        place.api().get("pods", &place.namespace, "deleted").is_none().then_some(())
    });
    let after = place.wait_ready("goes-on");
    assert_eq!(container(&after, "main"), container(&goes_on, "main"));
    unbroken("goes-on", &counted(&place.node, &after));
    place.finish();
}
