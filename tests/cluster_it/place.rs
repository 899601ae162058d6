//! A node and a namespace for one test.

use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::{Api, Build, Node, NodeOptions};
use serde_json::{Value, json};

use crate::{SOON, World};

/// One test's namespace and its node, Ready: its own, or ([`Shared`]) one with others.
pub(crate) struct Place<'a, N = Box<Node<'a>>> {
    pub(crate) world: &'a World,
    pub(crate) node: N,
    pub(crate) namespace: String,
}

/// A place on the node with a containerd that is shared by all tests that break neither.
pub(crate) type Shared<'a> = Place<'a, Arc<Node<'static>>>;

impl<'a> Place<'a> {
    /// A node as usual.
    #[track_caller]
    pub(crate) fn new(world: &'a World) -> Self {
        let place = Self::with(world, NodeOptions::default());
        place.node.wait_ready(SOON);
        place
    }

    /// A node with a containerd too, so that it runs ordinary images.
    #[track_caller]
    pub(crate) fn ordinary(world: &'a World, build: Build) -> Self {
        let place =
            Self::with(world, NodeOptions { containerd: Some(build), ..Default::default() });
        place.node.wait_ready(SOON);
        place
    }

    /// A node with these options, which is not waited for.
    #[track_caller]
    pub(crate) fn with(world: &'a World, options: NodeOptions) -> Self {
        Self::on(world, Box::new(Node::start(world.plane, options)))
    }

    /// Deletes all pods and what makes them, waits for their end, and ends the node: nothing may be
    /// left of it.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.clear();
        self.node.finish();
    }
}

impl<'a> Shared<'a> {
    /// A namespace on the shared node.
    #[track_caller]
    pub(crate) fn shared(world: &'a World) -> Self {
        let place = Self::on(world, world.ordinary());
        place.node.wait_ready(SOON);
        place
    }

    /// Deletes all pods of the namespace and what makes them, and waits for their end.
    #[track_caller]
    pub(crate) fn leave(self) {
        self.clear();
    }
}

impl<'a, 'n, N: Deref<Target = Node<'n>>> Place<'a, N> {
    /// A namespace for a node.
    #[track_caller]
    pub(crate) fn on(world: &'a World, node: N) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{number}-of-{}", node.name());
        let place = Self { world, node, namespace };
        let meta = json!({"metadata": {"name": place.namespace}});
        place.api().create("namespaces", "", &meta);
        // Without its service account no pod is let in, and without its bundle none starts.
        for (kind, name) in [("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")] {
            world
                .plane
                .wait(SOON, name, String::new, || place.api().get(kind, &place.namespace, name));
        }
        place
    }

    /// Deletes all pods and what makes them, waits for their end, and deletes the namespace.
    #[track_caller]
    fn clear(&self) {
        for kind in ["deployments", "replicasets", "pods"] {
            self.api().delete_all(kind, &self.namespace);
        }
        self.wait_none(SOON);
        self.api().delete("namespaces", "", &self.namespace);
    }

    pub(crate) fn api(&self) -> &'a Api {
        self.world.plane.api()
    }

    /// `kubectl -n NAMESPACE ARGS` to its good end.
    #[track_caller]
    pub(crate) fn told(&self, args: &[&str]) -> String {
        self.world.plane.told(&[&["-n", &self.namespace], args].concat())
    }

    /// A pod of one container for this node: `main`, with the guest, its arguments, and what is
    /// merged into its spec.
    pub(crate) fn pod(&self, name: &str, guest: &str, args: &[&str]) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": self.node.name()},
                "terminationGracePeriodSeconds": 2,
                "containers": [{"name": "main", "image": self.world.image(guest), "args": args}],
            },
        })
    }

    /// The same with busybox and a command of its shell.
    pub(crate) fn shell(&self, name: &str, command: &str) -> Value {
        let mut pod = self.pod(name, "hello", &[]);
        pod["spec"]["containers"] =
            json!([{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", command]}]);
        pod
    }

    /// Makes a pod.
    #[track_caller]
    pub(crate) fn create(&self, pod: &Value) -> Value {
        self.api().create("pods", &self.namespace, pod)
    }

    /// Makes a deployment of pods such as [`Place::pod`] gives; all are replaced at once by a new
    /// template, half of them at a time.
    #[track_caller]
    pub(crate) fn deploy(&self, name: &str, replicas: usize, pod: &Value) {
        let deployment = json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "strategy": {"rollingUpdate": {"maxUnavailable": "50%", "maxSurge": "50%"}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod["spec"]},
            },
        });
        self.api().create("deployments", &self.namespace, &deployment);
    }

    /// Waits until the pod is there and has what is wanted.
    #[track_caller]
    pub(crate) fn wait_pod(
        &self,
        name: &str,
        what: &str,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Value {
        self.node.wait(SOON, &format!("pod {name}: {what}"), || {
            self.api().get("pods", &self.namespace, name).filter(|pod| wanted(pod))
        })
    }

    /// Waits until the pod is Ready.
    #[track_caller]
    pub(crate) fn wait_ready(&self, name: &str) -> Value {
        self.wait_pod(name, "Ready", ready)
    }

    /// Waits until `kubectl logs` of the pod has a line with the text; all lines then.
    #[track_caller]
    pub(crate) fn wait_line(&self, name: &str, text: &str) -> String {
        self.node.wait(SOON, &format!("pod {name}: a line with {text:?}"), || {
            let path = format!("/api/v1/namespaces/{}/pods/{name}/log", self.namespace);
            let (code, log) = self.api().client().get(&path).ok()?;
            (code == 200 && log.contains(text)).then_some(log)
        })
    }

    /// Waits until no pod of the namespace is left.
    #[track_caller]
    pub(crate) fn wait_none(&self, within: Duration) {
        self.node.wait(within, "no pod is left", || {
            self.api().list("pods", &self.namespace).is_empty().then_some(())
        });
    }
}

/// Whether a pod is Ready.
pub(crate) fn ready(pod: &Value) -> bool {
    copepod_tests::cluster::node::condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

/// The status of a pod's container.
pub(crate) fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.and_then(|all| all.iter().find(|one| one["name"] == name)).unwrap_or(&Value::Null)
}

/// A transcript: commands and what they said, shown as a whole so that no other test's lines get in
/// between.
#[derive(Default)]
pub(crate) struct Transcript(String);

impl Transcript {
    pub(crate) fn add(&mut self, command: &str, output: &str) {
        let _ = write!(self.0, "$ {command}\n{output}\n");
    }

    pub(crate) fn show(self) {
        println!("\n{}", self.0);
    }
}
