//! A node joins, and a user works with it by kubectl alone.

use copepod_tests::Run;
use copepod_tests::cluster::node::condition;

use crate::place::{Place, Transcript, ready};
use crate::{SOON, World};

/// The deployment of the transcript, as a user would write it.
fn deployment(node: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: hello}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: hello}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      terminationGracePeriodSeconds: 2
      containers:
      - name: hello
        image: {image}
        args: [--every, '200']
"
    )
}

pub(crate) fn a_deployment_is_run_followed_rolled_and_deleted(world: &World) {
    let place = Place::new(world);
    let (plane, name) = (&world.plane, place.node.name().to_owned());
    let namespace = place.namespace.clone();
    let mut transcript = Transcript::default();
    let mut told = |args: &[&str]| {
        let output = place.told(args);
        transcript.add(&format!("kubectl {}", args.join(" ")), &output);
        output
    };
    let start =
        |args: &[&str]| Run::spawn(plane.kubectl_command(&[&["-n", &namespace], args].concat()));

    let nodes = told(&["get", "nodes", &name, "-o", "wide"]);
    let address = place.node.network().gateway().to_string();
    assert!(nodes.contains(" Ready ") && nodes.contains(&address), "{nodes}");

    let watch = start(&["get", "pods", "-w"]);
    let file = place.node.file("hello.yaml");
    let file = file.to_str().expect("UTF-8");
    std::fs::write(file, deployment(&name, &world.image("hello"))).expect("written");
    told(&["apply", "-f", file]);
    told(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let pods = told(&["get", "pods", "-o", "wide"]);
    assert_eq!(pods.matches(" Running ").count(), 3, "{pods}");

    let logs = start(&["logs", "-f", "deployment/hello"]);
    logs.wait_line("count 5", SOON);
    transcript.add("kubectl logs -f deployment/hello", &logs.stdout());
    drop(logs);
    let mut told = |args: &[&str]| {
        let output = place.told(args);
        transcript.add(&format!("kubectl {}", args.join(" ")), &output);
        output
    };

    // Another image with other bytes: the same program for WASI 0.2.
    let image = world.image("hello-p2");
    told(&["set", "image", "deployment/hello", &format!("hello={image}")]);
    told(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let pods = place.node.wait(SOON, "three pods, all new", || {
        let pods = place.api().list("pods", &namespace);
        (pods.len() == 3 && pods.iter().all(ready)).then_some(pods)
    });
    for pod in &pods {
        assert_eq!(pod["spec"]["containers"][0]["image"], image.as_str());
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
    }
    told(&["get", "pods", "-o", "wide"]);
    told(&["delete", "deployment", "hello"]);
    place.wait_none(SOON);
    told(&["get", "pods"]);
    told(&["describe", "node", &name]);
    transcript.add("kubectl get pods -w   # all the while", &watch.stdout());
    drop(watch);
    transcript.show();
    place.finish();
}

pub(crate) fn a_node_that_was_deleted_registers_again(world: &World) {
    let place = Place::new(world);
    let api = place.api();
    let pod = place.pod("stays", "hello", &["--every", "100"]);
    // Bound by name: garbage collection of pods without a node comes after minutes.
    place.create(&pod);
    let before = place.wait_ready("stays");
    let node = api.get("nodes", "", place.node.name()).expect("it is there");
    api.delete("nodes", "", place.node.name());
    place.node.wait(SOON, "another node object, Ready", || {
        let again = api.get("nodes", "", place.node.name())?;
        let other = again["metadata"]["uid"] != node["metadata"]["uid"];
        (other && condition(&again, "Ready")?["status"] == "True").then_some(())
    });
    let after = place.wait_ready("stays");
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    place.finish();
}

pub(crate) fn the_lease_is_renewed_and_the_node_says_what_it_is(world: &World) {
    let place = Place::new(world);
    let node = place.api().get("nodes", "", place.node.name()).expect("it is there");
    let info = &node["status"]["nodeInfo"];
    assert_eq!(info["operatingSystem"], "linux", "{info}");
    assert!(info["kubeletVersion"].as_str().is_some_and(|v| v.starts_with("v1.36")), "{info}");
    assert!(info["containerRuntimeVersion"].to_string().contains("wasmtime://"), "{info}");
    for (label, value) in [
        ("kubernetes.io/hostname", place.node.name()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", info["architecture"].as_str().expect("a string")),
    ] {
        assert_eq!(node["metadata"]["labels"][label], value, "{node}");
    }
    for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
        for of in ["capacity", "allocatable"] {
            assert!(node["status"][of][resource].is_string(), "{of} of {resource}: {node}");
        }
    }
    for (kind, status) in [
        ("MemoryPressure", "False"),
        ("DiskPressure", "False"),
        ("PIDPressure", "False"),
        ("Ready", "True"),
    ] {
        assert_eq!(condition(&node, kind).expect(kind)["status"], status, "{node}");
    }
    let renewed = || {
        let lease = place.api().get("leases", "kube-node-lease", place.node.name())?;
        assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
        Some(lease["spec"]["renewTime"].as_str()?.to_owned())
    };
    let first = place.node.wait(SOON, "a lease", renewed);
    place.node.wait(SOON, "it is renewed", || renewed().filter(|time| *time != first));
    place.finish();
}
