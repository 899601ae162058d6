//! `copepod check`, and the ports that `run` looks at before it starts anything.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::{Scene, one};

/// A pod of an HTTP server on this port.
fn server(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
         containers: [{{name: web, image: '@http@', ports: [{{containerPort: {port}}}]}}]\n---\n"
    )
}

#[test]
fn a_sound_file_is_told_with_what_differs() {
    let scene = Scene::new();
    let port = crate::http::free_port();
    let file = scene.pod(&server("good", port));
    let file = file.to_str().expect("UTF-8");
    let text = scene.told(&["check", file]);
    assert!(text.starts_with("pod good: can run\n  container web: "), "{text}");
    assert!(
        text.contains(&format!("HTTP server (wasi:http), http://localhost:{port}\n")),
        "{text}"
    );
    assert!(text.contains("\n  differs: hostNetwork: "), "{text}");

    let object: Value =
        serde_json::from_str(&scene.told(&["check", file, "-o", "json"])).expect("JSON");
    assert_eq!((&object["ok"], &object["problems"]), (&true.into(), &Value::Array(Vec::new())));
    let pod = &object["pods"][0];
    assert_eq!((&pod["name"], &pod["namespace"]), (&"good".into(), &"default".into()), "{pod}");
    let container = &pod["containers"][0];
    assert!(container["imageID"].as_str().expect("a digest").starts_with("sha256:"), "{pod}");
    assert_eq!(container["url"], format!("http://localhost:{port}"), "{pod}");
    assert!(pod["notices"].as_array().is_some_and(|notices| !notices.is_empty()), "{pod}");
    nothing_is_left(&scene);
    scene.guard.finish();
}

/// Nothing was started, so nothing is made outside the cache.
#[track_caller]
fn nothing_is_left(scene: &Scene) {
    for dir in [scene.home.run(), scene.home.state()] {
        assert_eq!(fs::read_dir(&dir).expect("lists").count(), 0, "{}", dir.display());
    }
}

#[test]
fn everything_wrong_is_told_by_pod() {
    let scene = Scene::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("is bound").port();
    let bad = "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n  restartPolicy: Sometimes\n  \
               containers: [{name: a, image: ./none.wasm}]\n---\n";
    let free = crate::http::free_port();
    let yaml = [bad.into(), server("px", port), server("py", free), server("pz", free)].concat();
    let file = scene.pod(&yaml);
    let none = scene.home.path().join("home/none.yaml");
    let args = ["check", none.to_str().expect("UTF-8"), file.to_str().expect("UTF-8")];
    let ended = scene.ask(&args);
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""), "{ended:?}");
    for text in [
        ": cannot be read: ",
        "pod bad: cannot run\n",
        "spec.restartPolicy: ",
        "bad: container \"a\": ",
        "pod py: can run\n",
        &format!("  wrong: px: port {port} of container \"web\" is taken by another process: it"),
        &format!(
            "  wrong: pz: port {free} of container \"web\" is taken by container \"web\" of pod \"py\""
        ),
    ] {
        assert!(ended.out.contains(text), "{text:?} is not in {}", ended.out);
    }
    let object = scene.ask(&["check", args[2], "--output", "json"]);
    assert_eq!(object.code, Some(1));
    let object: Value = serde_json::from_str(&object.out).expect("JSON");
    assert_eq!(object["ok"], false);
    let problems = |index: usize| object["pods"][index]["problems"].as_array().map(Vec::len);
    assert_eq!([0, 1, 2, 3].map(problems), [Some(2), Some(1), Some(0), Some(1)], "{object}");
    nothing_is_left(&scene);
    scene.guard.finish();
}

#[test]
fn a_port_that_is_taken_is_told_before_anything_starts() {
    let scene = Scene::new();
    let taken = TcpListener::bind("0.0.0.0:0").expect("binds");
    let port = taken.local_addr().expect("is bound").port();
    let pid = std::process::id();
    let ended =
        scene.run(&one("http", "Always", &format!("ports: [{{containerPort: {port}}}]")), &[]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    let text =
        format!("copepod: one: port {port} of container \"main\" is taken by another process: ");
    assert!(ended.err.starts_with(&text), "{ended:?}");
    assert!(ended.err.ends_with(&format!("(process {pid})\n")), "{ended:?}");

    let scene = Scene::new();
    let free = crate::http::free_port();
    let ended = scene.run(&[server("a", free), server("b", free)].concat(), &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let text =
        format!("b: port {free} of container \"web\" is taken by container \"web\" of pod \"a\"");
    assert!(ended.err.contains(&text), "{ended:?}");
}
