//! An ordinary pod in control groups that a real containerd has systemd make, from its definition to
//! what the kernel has: all of a node but `cluster`. `make test-vm` runs it, with version 2 and 1.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Event, Facts, Objects, PodAddresses, apply_defaults};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::config::NodeFlags;
use crate::worker::{Given, Handle, Silent, Snapshot};

/// How long each part may take on a processor that is emulated.
const SOON: Duration = Duration::from_secs(120);
/// The pod's uid, as systemd's names have it too.
const UID: &str = "7a1b2c3d";
/// The image of `tests/vm/groups.sh`.
const IMAGE: &str = "docker.io/library/busybox:test";

/// A node's flags, with a file of its configuration in `dir`.
fn flags(dir: &Path, socket: &str) -> NodeFlags {
    let file = dir.join("config.yaml");
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "containerRuntimeEndpoint": format!("unix://{socket}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "podLogsDir": dir.join("logs"),
        "resolvConf": "",
    });
    fs::write(&file, config.to_string()).expect("written");
    NodeFlags {
        kubeconfig: Some("/none".into()),
        config: Some(file),
        hostname_override: Some("node".into()),
        root_dir: dir.join("root"),
        run_dir: dir.join("run"),
        cache_dir: Some(dir.join("cache")),
        cni_conf_dir: dir.join("cni"),
        ..NodeFlags::default()
    }
}

/// A pod of two containers, one of them with limits.
fn pod() -> Arc<Pod> {
    let shell = |name: &str, resources: Value| {
        let script = "trap 'exit 0' TERM; while :; do sleep 0.2; done";
        json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script], "resources": resources})
    };
    let limits = json!({"limits": {"cpu": "500m", "memory": "64Mi"},
                        "requests": {"cpu": "100m", "memory": "32Mi"}});
    let pod = json!({
        "metadata": {"name": "pod", "namespace": "default", "uid": UID},
        "spec": {"hostNetwork": true, "enableServiceLinks": false,
                 "containers": [shell("limited", limits), shell("other", json!({}))]},
    });
    let mut pod: Pod = serde_json::from_value(pod).expect("a pod");
    apply_defaults(&mut pod);
    Arc::new(pod)
}

/// The groups of a name, one of which limits memory.
fn slice() -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let top = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
    let class = "kubepods.slice/kubepods-burstable.slice";
    top.join(class).join(format!("kubepods-burstable-pod{UID}.slice"))
}

fn read(dir: &Path, names: [&str; 2]) -> String {
    let text = names.iter().find_map(|name| fs::read_to_string(dir.join(name)).ok());
    text.unwrap_or_else(|| panic!("{names:?} in {}", dir.display())).trim().into()
}

/// The scopes in the pod's slice.
fn scopes() -> Vec<String> {
    let entries = fs::read_dir(slice()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".scope")).collect()
}

async fn until(handle: &Handle, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    match timeout(SOON, handle.snapshot.clone().wait_for(wanted)).await {
        Ok(found) => found.expect("its worker lives").clone(),
        Err(_) => panic!("not {what}: {:#?}", *handle.snapshot.borrow()),
    }
}

#[tokio::test]
#[ignore = "needs systemd, and a containerd that asks it for groups: make test-vm"]
async fn an_ordinary_container_stands_in_its_pods_slice() {
    let socket =
        std::env::var("COPEPOD_CONTAINERD_SOCKET").expect("its socket, of tests/vm/groups.sh");
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _) = Config::load(&flags(dir.path(), &socket)).expect("is valid");
    let ledger = Arc::new(build::ledger(&config).expect("opens"));
    let Runtimes { runtime, happenings, images, cgroups } =
        runtimes(&config, "/none".into(), &ledger).await.expect("start");
    for said in enforce::enforce(&config, cgroups.as_ref(), &Node::default()) {
        said.expect("enforced");
    }
    let host_ips = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    let addresses = PodAddresses { host_ips: host_ips.clone(), pod_ips: host_ips };
    let (_facts, facts) = watch::channel(Facts { addresses, ..build::fixed_facts(&config) });
    let host = build::host(&config, facts, cgroups, Network::open(build::network(&config)));
    let metrics = Metrics::new().expect("figures");
    let shared = Arc::new(Shared { runtime, images, ledger, host, metrics });
    let mut workers = Workers::new(Arc::clone(&shared), happenings, Arc::new(Silent));
    let given = Arc::new(Given(Arc::new(Objects::default())));
    let handle = workers.add(pod(), "/".into(), given);

    let running = |snapshot: &Snapshot| {
        let all = snapshot.status.container_statuses.iter().flatten();
        all.filter(|one| one.state.as_ref().is_some_and(|state| state.running.is_some())).count()
            == 2
    };
    let snapshot = until(&handle, "running", running).await;
    // The sandbox's is one.
    assert_eq!(scopes().len(), 3, "{:?}", scopes());
    for status in snapshot.status.container_statuses.iter().flatten() {
        let id = status.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
        let scope = slice().join(format!("cri-containerd-{}.scope", id.expect("an id")));
        let processes = fs::read_to_string(scope.join("cgroup.procs")).expect("is there");
        assert!(processes.lines().count() >= 1, "{}", scope.display());
        println!("{}: {}", status.name, scope.display());
        let memory = read(&scope, ["memory.max", "memory.limit_in_bytes"]);
        assert_eq!(memory == (64 << 20).to_string(), status.name == "limited", "{memory}");
        // No group of ours holds processes beside those of the runtime.
        assert!(fs::read_to_string(slice().join("cgroup.procs")).expect("is there").is_empty());
    }

    handle.events.tell(Event::Kill { grace: Duration::from_secs(5) }).expect("is heard");
    let snapshot = until(&handle, "terminated", |snapshot| snapshot.terminated).await;
    for status in snapshot.status.container_statuses.iter().flatten() {
        let state = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        assert_eq!(state.map(|state| state.exit_code), Some(0), "{status:?}");
    }
    assert!(!slice().exists(), "{:?}", scopes());
    for attempt in crate::runtime::Runtime::list(&shared.runtime, UID) {
        crate::runtime::Runtime::remove(&shared.runtime, &attempt.id).await;
    }
    let cri = shared.runtime.cri.as_ref().expect("is configured");
    cri.remove_pod(UID).await.expect("removed");
    shared.ledger.forget_pod(&pod()).expect("forgotten");
}
