//! Images of a registry that asks who it is, of both kinds: a pod's secrets, a node's plugins, pull
//! policies, and the words of what fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use copepod_tests::cluster::images::{BUSYBOX, archive};
use copepod_tests::cluster::{Api, Build, NodeOptions};
use copepod_tests::guest;
use copepod_tests::registry::{Options, Registry};
use serde_json::{Value, json};

use crate::place::{Place, container};
use crate::runtimes::{CLASS, wasm_class};
use crate::{SOON, World};

const USER: (&str, &str) = ("me", "pass:word");

/// A registry that knows [`USER`] alone, with the Wasm image `hello` and the ordinary one `busybox`,
/// both tagged 1.
struct Private(Registry);

impl Private {
    fn start(world: &World) -> Self {
        let user = Some((USER.0.to_owned(), USER.1.to_owned()));
        let private = Self(Registry::start_with(&Options { user, ..Options::default() }));
        let dir = tempfile::tempdir().expect("made");
        let file = dir.path().join("auth.json");
        fs::write(&file, private.auths(USER)).expect("written");
        let (hello, auth) = (guest("hello"), file.display().to_string());
        let hello = hello.to_str().expect("UTF-8");
        let args = ["image", "push", hello, &private.image("hello"), "--auth-file", &auth];
        let output = world.home.copepod(args).output(SOON);
        assert!(output.status.success(), "{output:?}");
        let archive = archive(&world.plane.dir().join("images"));
        let pushed = Command::new("skopeo")
            .args(["copy", "--dest-tls-verify=false", "--dest-authfile", &auth])
            .arg(format!("docker-archive:{}:{BUSYBOX}", archive.display()))
            .arg(format!("docker://{}", private.image("busybox")))
            .output()
            .expect("skopeo of `make test-setup`");
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        private
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}:1", self.0.host())
    }

    /// docker's config.json with these credentials.
    fn auths(&self, user: (&str, &str)) -> String {
        json!({"auths": self.old(user)}).to_string()
    }

    /// docker's .dockercfg with these credentials.
    fn old(&self, (name, password): (&str, &str)) -> Value {
        json!({self.0.host(): {"auth": STANDARD.encode(format!("{name}:{password}"))}})
    }
}

/// The pod with this image, policy and secrets.
fn with(mut pod: Value, image: &str, policy: &str, secrets: &[&str]) -> Value {
    let main = &mut pod["spec"]["containers"][0];
    main["image"] = json!(image);
    main["imagePullPolicy"] = json!(policy);
    let secrets = secrets.iter().map(|name| json!({"name": name}));
    pod["spec"]["imagePullSecrets"] = secrets.collect();
    pod
}

/// Why the pod's container waits.
fn waiting(pod: &Value) -> (&str, &str) {
    let waiting = &container(pod, "main")["state"]["waiting"];
    let text = |name: &str| waiting[name].as_str().unwrap_or_default();
    (text("reason"), text("message"))
}

/// The events about a pod so far: reason and message.
fn events(api: &Api, namespace: &str, pod: &str) -> Vec<String> {
    let about = |event: &&Value| event["involvedObject"]["name"] == pod;
    let text = |event: &Value| {
        let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", field("reason"), field("message"))
    };
    api.list("events", namespace).iter().filter(about).map(text).collect()
}

macro_rules! wait_event {
    ($place:expr, $pod:expr, $text:expr) => {{
        let text: &str = &$text;
        $place.node.wait(SOON, &format!("pod {}: an event {text:?}", $pod), || {
            let all = events($place.api(), &$place.namespace, $pod);
            all.iter().any(|event| event.starts_with(text)).then_some(())
        });
    }};
}

pub(crate) fn a_private_wasm_image_needs_the_pods_own_secret(world: &World) {
    let place = Place::new(world);
    let registry = Private::start(world);
    make_secrets(&registry, place.api(), &place.namespace);
    let image = registry.image("hello");
    let pod = |name: &str, policy: &str, secrets: &[&str]| {
        let mut pod = place.pod(name, "hello", &["--count", "1"]);
        pod["spec"]["restartPolicy"] = json!("Never");
        with(pod, &image, policy, secrets)
    };
    let refused = |name: &str, text: &str| {
        let pod = place.wait_pod(name, "refused", |pod| waiting(pod).0 == "ErrImagePull");
        assert!(waiting(&pod).1.contains(text), "{text:?} in {:?}", waiting(&pod));
    };
    place.create(&pod("nobody", "Always", &[]));
    refused("nobody", "no credentials for");
    place.create(&pod("stranger", "Always", &["wrong"]));
    refused("stranger", &format!("in secret {}/wrong", place.namespace));
    place.create(&pod("missing", "Always", &["none", "nor-this"]));
    let text = "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (none, \
                nor-this); attempting to pull the image may not succeed.";
    wait_event!(place, "missing", text);
    for (name, secrets) in
        [("json", &["good"][..]), ("old", &["old"]), ("both", &["wrong", "good"])]
    {
        place.create(&pod(name, "Always", secrets));
        place.wait_pod(name, "it has run", |pod| pod["status"]["phase"] == "Succeeded");
    }
    // What a secret opened is shut to who has none.
    place.create(&pod("later", "Always", &[]));
    refused("later", "no credentials for");
    place.finish();
}

/// Makes the secrets `good` and `wrong`, and `old`, which is as good in the older form.
fn make_secrets(registry: &Private, api: &Api, namespace: &str) {
    let wrong = registry.auths(("me", "wrong"));
    for (name, kind, key, content) in [
        ("good", "dockerconfigjson", ".dockerconfigjson", registry.auths(USER)),
        ("wrong", "dockerconfigjson", ".dockerconfigjson", wrong),
        ("old", "dockercfg", ".dockercfg", registry.old(USER).to_string()),
    ] {
        let secret = json!({
            "metadata": {"name": name},
            "type": format!("kubernetes.io/{kind}"),
            "data": {key: STANDARD.encode(content)},
        });
        api.create("secrets", namespace, &secret);
    }
}

pub(crate) fn an_ordinary_image_is_pulled_as_its_policy_and_secrets_say(world: &World) {
    let place = Place::shared(world);
    let registry = Private::start(world);
    make_secrets(&registry, place.api(), &place.namespace);
    let image = registry.image("busybox");
    let pod = |name: &str, image: &str, policy: &str, secrets: &[&str]| {
        with(place.shell(name, "echo here; sleep 3600"), image, policy, secrets)
    };
    place.create(&pod("never", &image, "Never", &["good"]));
    let never = place.wait_pod("never", "refused", |pod| waiting(pod).0 == "ErrImageNeverPull");
    let text = format!("Container image {image:?} is not present with pull policy of Never");
    assert_eq!(waiting(&never).1, text);
    wait_event!(place, "never", format!("ErrImageNeverPull: {text}"));

    place.create(&pod("nobody", &image, "IfNotPresent", &[]));
    let back_off = |pod: &Value| waiting(pod).0 == "ImagePullBackOff";
    let waits = place.wait_pod("nobody", "backs off", back_off);
    let start =
        format!("Back-off pulling image {image:?}: ErrImagePull: failed to pull and unpack");
    assert!(waiting(&waits).1.starts_with(&start), "{:?}", waiting(&waits));
    for text in [
        format!("Pulling: Pulling image {image:?}"),
        format!("Failed: Failed to pull image {image:?}: failed to pull and unpack image"),
        "Failed: Error: ErrImagePull".to_owned(),
        format!("BackOff: Back-off pulling image {image:?}"),
        "Failed: Error: ImagePullBackOff".to_owned(),
    ] {
        wait_event!(place, "nobody", text);
    }
    place.create(&pod("name", "Not/A/Name", "IfNotPresent", &[]));
    let named = place.wait_pod("name", "refused", |pod| waiting(pod).0 == "InvalidImageName");
    let text = "Failed to apply default image tag \"Not/A/Name\": couldn't parse image name";
    assert!(waiting(&named).1.starts_with(text), "{:?}", waiting(&named));
    wait_event!(place, "name", format!("InspectFailed: {text}"));

    place.create(&pod("both", &image, "IfNotPresent", &["wrong", "old", "none"]));
    let both = place.wait_ready("both");
    let id = container(&both, "main")["imageID"].as_str().unwrap_or_default();
    assert!(id.starts_with(&format!("{}/busybox@sha256:", registry.0.host())), "{id}");
    wait_event!(place, "both", format!("Pulled: Successfully pulled image {image:?} in "));
    wait_event!(
        place,
        "both",
        "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (none); "
    );
    // It is here now: only who always asks its registry has to be known there.
    place.wait_ready("never");
    let here = format!("Pulled: Container image {image:?} already present on machine");
    wait_event!(place, "never", here);
    place.create(&pod("always", &image, "Always", &[]));
    place.wait_pod("always", "refused", |pod| waiting(pod).0 == "ErrImagePull");
    place.create(&pod("always-known", &image, "Always", &["good"]));
    place.wait_ready("always-known");
    // The node tells of it, with its largest images.
    let listed = |node: &Value| {
        let images = node["status"]["images"].as_array().cloned().unwrap_or_default();
        images.iter().any(|one| one["names"].to_string().contains(&image))
    };
    place.node.wait(SOON, "the image in the node's status", || {
        place.api().get("nodes", "", place.node.name()).filter(listed)
    });
    place.leave();
}

/// A plugin that knows the registry, and leaves a line for each run.
fn plugin(dir: &Path, registry: &Private) -> [String; 2] {
    let host = registry.0.host();
    let answer = json!({
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry",
        "cacheDuration": "1h",
        "auth": {&host: {"username": USER.0, "password": USER.1}},
    });
    let runs = dir.join("runs").display().to_string();
    let script = format!("#!/bin/sh\ncat >>'{runs}'\ncat <<'END'\n{answer}\nEND\n");
    let program = dir.join("knows");
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "knows",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "matchImages": [host],
            "defaultCacheDuration": "0s",
        }],
    });
    let file = dir.join("providers.yaml");
    fs::write(&file, config.to_string()).expect("written");
    [
        format!("--image-credential-provider-config={}", file.display()),
        format!("--image-credential-provider-bin-dir={}", dir.display()),
    ]
}

pub(crate) fn a_nodes_plugin_knows_the_credentials_of_both_kinds(world: &World) {
    let registry = Private::start(world);
    let dir = tempfile::tempdir().expect("made");
    let args = plugin(dir.path(), &registry).to_vec();
    let containerd = Some(Build::Usual);
    let place = Place::with(world, NodeOptions { args, containerd, ..NodeOptions::default() });
    place.node.wait_ready(SOON);
    wasm_class(world);
    let mut guest = place.pod("guest", "hello", &["--count", "1"]);
    guest["spec"]["restartPolicy"] = json!("Never");
    guest["spec"]["runtimeClassName"] = json!(CLASS);
    place.create(&with(guest, &registry.image("hello"), "IfNotPresent", &[]));
    let shell = place.shell("shell", "echo here; sleep 3600");
    place.create(&with(shell, &registry.image("busybox"), "IfNotPresent", &[]));
    place.wait_pod("guest", "it has run", |pod| pod["status"]["phase"] == "Succeeded");
    place.wait_ready("shell");
    let runs = fs::read_to_string(dir.path().join("runs")).expect("it was asked");
    let image = format!("\"image\":\"{}/", registry.0.host());
    assert!(runs.contains(&image), "{runs}");
    assert_eq!(runs.lines().count(), 1, "its answer holds for the registry:\n{runs}");
    place.finish();
}
