//! Images of a real registry: pushed, pulled, run, with certificates, passwords and tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use copepod_tests::registry::{Act, Options, Proxy, Registry, Request, answer};
use copepod_tests::{Home, Run, copepod, guest, sandbox};
use serde_json::Value;

use crate::guard::Guard;
use crate::{Ended, SOON, Scene};

/// What makes the guest `hello` end, in a container.
pub(crate) const ONCE: &str = "args: [--count, '1']";

/// A user with a store of their own.
pub(crate) fn scene() -> Scene {
    let home = Home::with_empty_cache();
    Scene { guard: Guard::new(&home), home }
}

impl Scene {
    /// `copepod image ARGS` to its end.
    #[track_caller]
    pub(crate) fn image(&self, args: &[&str]) -> Ended {
        self.image_with(args, &[])
    }

    /// The same, with variables of the environment.
    #[track_caller]
    pub(crate) fn image_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ended {
        let mut command = self.home.command(copepod());
        command.arg("image").args(args).envs(env.iter().copied());
        ended(&Run::spawn(command).output(SOON))
    }

    /// Pushes a guest; fails the test if that fails.
    #[track_caller]
    pub(crate) fn push(&self, name: &str, image: &str) {
        let file = guest(name);
        let ended = self.image(&["push", file.to_str().expect("UTF-8"), image]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// `copepod run` of a pod of one container with the image, and these lines for it.
    #[track_caller]
    pub(crate) fn run_image(&self, image: &str, lines: &str, args: &[&str]) -> Ended {
        ended(&self.start_image(image, lines, args).output(SOON))
    }

    /// The same, not waited for.
    pub(crate) fn start_image(&self, image: &str, lines: &str, args: &[&str]) -> Run {
        let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec:\n  restartPolicy: Never\n  \
             terminationGracePeriodSeconds: 2\n  containers:\n  - name: main\n    image: '{image}'\n{lines}"
        );
        let file = self.home.path().join("home/image.yaml");
        fs::write(&file, pod).expect("writes a pod file");
        let mut command = self.home.command(copepod());
        command.arg("run").arg(file).args(args).env("COPEPOD_SANDBOX", sandbox());
        Run::spawn(command)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.home.cache().join("copepod/images")
    }
}

fn ended(output: &Output) -> Ended {
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
pub(crate) fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.out).expect("a line of JSON")
}

/// An error of one line that says each of the texts.
#[track_caller]
pub(crate) fn refused(ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.starts_with("copepod: ") && ended.err.lines().count() == 1, "{ended:?}");
    for text in texts {
        assert!(ended.err.contains(text), "{text:?} is not in {ended:?}");
    }
}

/// Names of the files below a directory of the store.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let mut names: Vec<_> = names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn skopeo(args: &[&str]) -> Value {
    let output = Command::new("skopeo").args(args).output().expect("skopeo of `make setup`");
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

#[test]
fn an_image_is_pushed_pulled_and_run_by_each_pull_policy() {
    let scene = scene();
    let registry = Registry::start();
    let image = format!("{}/demo/hello", registry.host());
    scene.push("hello-p2", &image);
    let first = scene.run_image(&image, ONCE, &[]);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.out.contains("count 1"), "{first:?}");
    let listed = json(&scene.image(&["ls", "-o", "json"]));
    assert_eq!(listed["image"], format!("{image}:latest"));
    // With a tag the default is to look here first.
    let ended = scene.image(&["pull", &format!("{image}:latest")]);
    assert!(ended.out.contains("up to date"), "{ended:?}");
    drop(registry);
    for policy in ["IfNotPresent", "Never"] {
        let ended = scene.run_image(&image, &format!("{ONCE}\nimagePullPolicy: {policy}"), &[]);
        assert_eq!(ended.code, Some(0), "{policy}: {ended:?}");
    }
    refused(&scene.run_image(&image, "imagePullPolicy: Always", &[]), &["cannot reach http"]);
    let never = scene.run_image(&image.replace("hello", "other"), "imagePullPolicy: Never", &[]);
    refused(&never, &["Container image", "is not present with pull policy of Never"]);
    scene.guard.finish();
}

#[test]
fn others_read_what_is_pushed_and_what_is_stored() {
    let scene = scene();
    let registry = Registry::start();
    for (name, os) in [("hello", "wasip1"), ("http", "wasip2")] {
        let image = format!("{}/demo/{name}:1", registry.host());
        let file = guest(name);
        let push = ["push", file.to_str().expect("UTF-8"), &image, "-o", "json"];
        let time = [("SOURCE_DATE_EPOCH", "1000000000")];
        let (one, two) = (scene.image_with(&push, &time), scene.image_with(&push, &time));
        assert_eq!(json(&one)["digest"], json(&two)["digest"], "the same input, the same image");
        let source = format!("docker://{image}");
        let manifest = skopeo(&["inspect", "--tls-verify=false", "--raw", &source]);
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
        assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
        let config = skopeo(&["inspect", "--tls-verify=false", "--raw", "--config", &source]);
        assert_eq!((&config["architecture"], &config["os"]), (&"wasm".into(), &os.into()));
        assert_eq!(config["created"], "2001-09-09T01:46:40Z");
        assert_eq!(config["layerDigests"][0], manifest["layers"][0]["digest"]);
        let exports = &config["component"]["exports"];
        let http = exports.to_string().contains("wasi:http/incoming-handler@0.2");
        assert_eq!(http, name == "http", "{config}");
        // The store is a layout that others read.
        json(&scene.image(&["pull", &image, "-o", "json"]));
        let layout = format!("oci:{}:{image}", scene.store().display());
        assert_eq!(skopeo(&["inspect", "--raw", &layout]), manifest);
    }
    scene.guard.finish();
}

#[test]
fn what_is_no_guest_is_not_pushed() {
    let scene = scene();
    let registry = Registry::start();
    let image = format!("{}/x", registry.host());
    let file = scene.home.path().join("text.wasm");
    fs::write(&file, "hello").expect("written");
    refused(&scene.image(&["push", file.to_str().expect("UTF-8"), &image]), &["not a Wasm binary"]);
    refused(&scene.image(&["push", "/nowhere.wasm", &image]), &["cannot open /nowhere.wasm"]);
    refused(&scene.image(&["push", "/bin/true", "A B"]), &["invalid reference format"]);
    refused(&scene.image(&["pull", &image]), &["not found", "MANIFEST_UNKNOWN"]);
    scene.guard.finish();
}

#[test]
fn https_needs_a_certificate_that_is_trusted() {
    let scene = scene();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let at = |name: &str| scene.home.path().join(name);
    fs::write(at("cert.pem"), made.cert.pem()).expect("written");
    fs::write(at("key.pem"), made.signing_key.serialize_pem()).expect("written");
    let tls = Some((at("cert.pem"), at("key.pem")));
    let registry = Registry::start_with(&Options { tls, ..Options::default() });
    let image = format!("{}/x:1", registry.host());
    let file = guest("hello");
    let push = ["push", file.to_str().expect("UTF-8"), &image];
    refused(&scene.image(&push), &["https://127.0.0.1", "certificate", "--ca-file"]);
    let ca = at("cert.pem");
    let trusted = [&push[..], &["--ca-file", ca.to_str().expect("UTF-8")]].concat();
    assert_eq!(scene.image(&trusted).code, Some(0));
    let ended = scene.run_image(&image, ONCE, &trusted[3..]);
    assert_eq!((ended.code, ended.out.contains("count 1")), (Some(0), true), "{ended:?}");
    let key = at("key.pem");
    let wrong = [&push[..], &["--ca-file", key.to_str().expect("UTF-8")]].concat();
    refused(&scene.image(&wrong), &["key.pem"]);
    scene.guard.finish();
}

#[test]
fn a_name_and_password_are_taken_from_dockers_file() {
    let scene = scene();
    let user = Some(("me".to_owned(), "pass:word".to_owned()));
    let registry = Registry::start_with(&Options { user, ..Options::default() });
    let host = registry.host();
    let image = format!("{host}/x:1");
    let write = |name: &str, auth: &str| {
        let file = scene.home.path().join(name);
        fs::write(&file, format!(r#"{{"auths":{{"{host}":{auth}}}}}"#)).expect("written");
        file.to_str().expect("UTF-8").to_owned()
    };
    let good = write("good.json", r#"{"auth":"bWU6cGFzczp3b3Jk"}"#);
    let bad = write("bad.json", r#"{"username":"me","password":"wrong"}"#);
    let file = guest("hello");
    let push = ["push", file.to_str().expect("UTF-8"), &image];
    refused(&scene.image(&push), &["unauthorized", "no credentials for", ".docker/config.json"]);
    let with = |auth: &str| scene.image(&[&push[..], &["--auth-file", auth]].concat());
    refused(&with(&bad), &["unauthorized", &format!("check the credentials for {host} in {bad}")]);
    assert_eq!(with(&good).code, Some(0));
    fs::create_dir(scene.home.path().join("docker")).expect("made");
    fs::copy(&good, scene.home.path().join("docker/config.json")).expect("copied");
    let docker = scene.home.path().join("docker");
    let env = [("DOCKER_CONFIG", docker.to_str().expect("UTF-8"))];
    assert_eq!(scene.image_with(&["pull", &image], &env).code, Some(0));
    // A helper keeps them elsewhere.
    let helper = scene.home.path().join("docker-credential-fake");
    let script = "#!/bin/sh\nread server\necho '{\"ServerURL\":\"'$server'\",\"Username\":\"me\",\"Secret\":\"pass:word\"}'\n";
    fs::write(&helper, script).expect("written");
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    fs::write(docker.join("config.json"), r#"{"credsStore":"fake"}"#).expect("written");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", scene.home.path().display());
    let ended = scene.image_with(&["pull", &image], &[env[0], ("PATH", &path)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    scene.guard.finish();
}

#[test]
fn a_token_is_fetched_where_the_registry_says() {
    let scene = scene();
    let registry = Registry::start();
    let tokens = Proxy::alone(|request: &Request| {
        let known = request.header("authorization") == Some("Basic bWU6cHc=");
        match known && request.path.contains("scope=repository%3Ax%3Apull") {
            true => answer("200 OK", &[], r#"{"token":"good","expires_in":300}"#),
            false => {
                answer("401 Unauthorized", &[], r#"{"details":"incorrect username or password"}"#)
            }
        }
    });
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="test",scope="repository:x:pull,push""#,
        tokens.host()
    );
    let proxy = Proxy::start(&registry, move |request| {
        if request.header("authorization") == Some("Bearer good") {
            return Act::Pass;
        }
        answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], "")
    });
    let image = format!("{}/x:1", proxy.host());
    let file = guest("hello");
    let push = ["push", file.to_str().expect("UTF-8"), &image];
    refused(
        &scene.image(&push),
        &["unauthorized: incorrect username or password", "no credentials for"],
    );
    let auth = scene.home.path().join("auth.json");
    fs::write(&auth, format!(r#"{{"auths":{{"{}":{{"auth":"bWU6cHc="}}}}}}"#, proxy.host()))
        .expect("written");
    let before = tokens.requests().len();
    let with = [&push[..], &["--auth-file", auth.to_str().expect("UTF-8")]].concat();
    let ended = scene.image(&with);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(tokens.requests().len() - before, 1, "one token for all of a push");
    let sent: Vec<_> = proxy
        .requests()
        .iter()
        .filter_map(|r| r.header("authorization").map(str::to_owned))
        .collect();
    assert!(
        sent.iter().all(|sent| sent == "Bearer good"),
        "the password is the token server's: {sent:?}"
    );
    scene.guard.finish();
}

#[test]
fn one_image_of_several_containers_is_fetched_once() {
    let scene = scene();
    let registry = Registry::start();
    scene.push("hello", &format!("{}/x:1", registry.host()));
    let proxy = Proxy::start(&registry, |_| Act::Pass);
    let image = format!("{}/x:1", proxy.host());
    let containers: String = ["a", "b", "c"]
        .iter()
        .map(|name| format!("  - {{name: {name}, image: '{image}', {ONCE}}}\n"))
        .collect();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec:\n  restartPolicy: Never\n  \
         containers:\n{containers}"
    );
    let file = scene.home.path().join("home/three.yaml");
    fs::write(&file, pod).expect("written");
    let output = scene
        .home
        .copepod([
            "run",
            file.to_str().expect("UTF-8"),
            "--sandbox",
            sandbox().to_str().expect("UTF-8"),
        ])
        .output(SOON);
    let ended = ended(&output);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let blobs = proxy.requests().iter().filter(|r| r.path.contains("/blobs/")).count();
    assert_eq!(blobs, 2, "its configuration and its Wasm");
    scene.guard.finish();
}

#[test]
fn what_is_in_use_is_not_removed() {
    let scene = scene();
    let registry = Registry::start();
    let image = format!("{}/http:1", registry.host());
    scene.push("http", &image);
    let port = crate::http::free_port();
    let run = scene.start_image(&image, &format!("ports: [{{containerPort: {port}}}]"), &[]);
    // Not by its port, which somebody else may have had before.
    let up = || {
        let output = scene.home.copepod(["ps"]).output(SOON);
        String::from_utf8_lossy(&output.stdout).contains("1/1")
    };
    copepod_tests::wait_until(SOON, "it runs", up);
    let kept = json(&scene.image(&["prune", "-o", "json"]));
    assert_eq!(kept["removed"], Value::Array(Vec::new()), "{kept}");
    run.signal(rustix::process::Signal::INT);
    let output = run.output(SOON);
    assert!(output.status.code().is_some(), "{output:?}");
    let gone = json(&scene.image(&["prune", "-o", "json"]));
    assert_eq!(gone["removed"][0], image, "{gone}");
    assert_eq!(files(&scene.store().join("blobs/sha256")), Vec::<String>::new());
    assert_eq!(scene.image(&["ls", "-o", "json"]).out, "");
    let again = scene.image(&["rm", &image]);
    refused(&again, &["is not here"]);
    scene.guard.finish();
}
