//! What runs on a node of a Wasm pool: by the class, by the image.

use std::fs;
use std::path::Path;

use copepod_tests::cluster::NodeOptions;
use copepod_tests::registry::{Proxy, answer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::place::{Place, container, ready};
use crate::{SOON, World};

/// A file of `deploy/`.
fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The README's page "Join a cluster", from the tainted pool on: the same flags, the same files.
pub(crate) fn a_tainted_pool_takes_pods_of_the_class_alone(world: &World) {
    let args = [
        "--node-labels=node.kubernetes.io/wasm=true",
        "--register-with-taints=node.kubernetes.io/wasm=only:NoSchedule",
    ];
    let options = NodeOptions { args: args.map(String::from).to_vec(), ..NodeOptions::default() };
    let place = Place::with(world, options);
    place.node.wait_ready(SOON);
    let write = |name: &str, text: &str| {
        let path = place.node.file(name);
        fs::write(&path, text).expect("writes");
        path.to_str().expect("UTF-8").to_owned()
    };
    let class = write("runtimeclass.yaml", &deployed("runtimeclass.yaml"));
    place.told(&["apply", "-f", &class]);
    let pool = deployed("tainted-pool.yaml");
    assert!(pool.contains("registry.example.com/hello:1"), "{pool}");
    // An example of a server has no arguments; this guest ends without.
    let image = format!("{}\n          args: [--every, '100']", world.image("hello"));
    let pool = write("pool.yaml", &pool.replace("registry.example.com/hello:1", &image));
    place.told(&["apply", "-f", &pool]);
    place.told(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let pods = place.api().list("pods", &place.namespace);
    assert!(pods.iter().all(|pod| pod["spec"]["nodeName"] == place.node.name()), "{pods:?}");

    // An ordinary pod is kept away by the taint.
    place.create(&place.pod("ordinary", "hello", &["--every", "100"]));
    place.wait_pod("ordinary", "is not scheduled", |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| {
            all.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "Unschedulable")
        })
    });
    // A class whose handler this node does not have is told so.
    let other = json!({"metadata": {"name": "other"}, "handler": "runc"});
    place.api().create("runtimeclasses", "", &other);
    let mut pod = place.pod("other", "hello", &["--every", "100"]);
    pod["spec"]["runtimeClassName"] = json!("other");
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    place.create(&pod);
    place.node.wait(SOON, "an event names the handler", || {
        let events = place.api().list("events", &place.namespace);
        let told = |event: &Value| {
            event["reason"] == "FailedCreatePodSandBox"
                && event["message"]
                    .to_string()
                    .contains("no runtime for \\\"runc\\\" is configured")
        };
        events.iter().any(told).then_some(())
    });
    let pod = place.api().get("pods", &place.namespace, "other").expect("it is there");
    assert!(!ready(&pod), "{pod}");
    place.api().delete("runtimeclasses", "", "other");
    place.api().delete("runtimeclasses", "", "wasm");
    place.finish();
}

/// A registry with an ordinary image, whose layer nobody has.
fn ordinary_image() -> (Proxy, String) {
    let digest = |bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    };
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/bin/server"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(b"files")]},
    });
    let config = config.to_string();
    let layer = digest(b"packed files");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config.as_bytes()), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer, "size": 12,
        }],
    });
    let (manifest, of_config) = (manifest.to_string(), digest(config.as_bytes()));
    let proxy = Proxy::alone(move |request| {
        if request.path.contains("/manifests/") {
            answer("200 OK", &[], &manifest)
        } else if request.path.ends_with(&of_config) {
            answer("200 OK", &[], &config)
        } else {
            answer("404 Not Found", &[], "")
        }
    });
    (proxy, layer)
}

pub(crate) fn an_ordinary_image_is_refused_before_any_layer(world: &World) {
    let place = Place::new(world);
    let (registry, layer) = ordinary_image();
    let mut pod = place.pod("server", "hello", &[]);
    pod["spec"]["containers"][0]["image"] = json!(format!("{}/server:1", registry.host()));
    place.create(&pod);
    let pod = place.wait_pod("server", "its image is refused", |pod| {
        container(pod, "main")["state"]["waiting"]["reason"] == "ErrImagePull"
    });
    let message = container(&pod, "main")["state"]["waiting"]["message"].to_string();
    for text in ["an ordinary linux image", "/bin/server", "Wasm alone"] {
        assert!(message.contains(text), "{text:?} is not in {message}");
    }
    let requests = registry.requests();
    assert!(!requests.is_empty());
    assert!(requests.iter().all(|request| !request.path.ends_with(&layer)), "{requests:?}");
    place.finish();
}
