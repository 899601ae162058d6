//! Control groups: what a pod asks for is what the kernel enforces.

use std::fs;
use std::path::PathBuf;

use copepod_tests::cluster::leaks;
use serde_json::{Value, json};

use crate::World;
use crate::place::{Place, container};

/// The pod's directories, one in each hierarchy.
fn groups(place: &Place, pod: &Value) -> Vec<PathBuf> {
    let uid = pod["metadata"]["uid"].as_str().expect("a string");
    let mut all = leaks::cgroups_below(place.node.cgroup());
    all.retain(|dir| dir.file_name().is_some_and(|name| *name == *format!("pod{uid}")));
    all
}

/// The content of a file of the pod's group, in whichever hierarchy has it.
fn value(groups: &[PathBuf], names: &[&str]) -> String {
    let files = groups.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
    let text = files.filter_map(|file| fs::read_to_string(file).ok()).next();
    text.unwrap_or_else(|| panic!("no {names:?} in {groups:?}")).trim().to_owned()
}

pub(crate) fn a_pods_group_has_its_limits_and_goes_with_it(world: &World) {
    let place = Place::new(world);
    let mut pod = place.pod("limited", "hello", &["--every", "100"]);
    pod["spec"]["containers"][0]["resources"] =
        json!({"limits": {"cpu": "500m", "memory": "96Mi"}, "requests": {"cpu": "250m"}});
    place.create(&pod);
    let pod = place.wait_ready("limited");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let groups = groups(&place, &pod);
    let quota = value(&groups, &["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let memory = value(&groups, &["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory, (96_u64 << 20).to_string());
    let shares = value(&groups, &["cpu.shares", "cpu.weight"]);
    assert!(shares == "256" || shares.parse::<u32>().is_ok_and(|w| w < 256), "{shares}");
    assert!(
        groups.iter().all(|dir| dir.to_string_lossy().contains("kubepods/burstable/")),
        "{groups:?}"
    );
    place.finish();
}

pub(crate) fn a_guest_that_takes_too_much_memory_is_oom_killed(world: &World) {
    let place = Place::new(world);
    let mut pod = place.pod("hog", "hog", &["200"]);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi"}});
    place.create(&pod);
    let pod = place.wait_pod("hog", "Failed", |pod| pod["status"]["phase"] == "Failed");
    let ended = &container(&pod, "main")["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("OOMKilled"), &json!(137)), "{pod}");
    place.finish();
}
