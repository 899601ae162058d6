//! What networks and bad registries do to a download: lies, cuts, overload, floods, redirects.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use copepod_tests::guest;
use copepod_tests::registry::{Act, Options, Proxy, Registry, answer};

use crate::registry::{files, json, refused, scene};

#[test]
fn a_digest_that_lies_leaves_nothing() {
    let scene = scene();
    let registry = Registry::start();
    scene.push("hello", &format!("{}/x:1", registry.host()));
    let proxy = Proxy::start(&registry, |request| {
        if request.method == "GET" && request.path.contains("/blobs/") {
            Act::Spoil
        } else {
            Act::Pass
        }
    });
    let image = format!("{}/x:1", proxy.host());
    refused(&scene.image(&["pull", &image]), &["its bytes have the digest sha256:"]);
    let spoilt = Proxy::start(&registry, |request| {
        if request.method == "GET" && request.path.contains("/manifests/") {
            Act::Spoil
        } else {
            Act::Pass
        }
    });
    let image = format!("{}/x:1", spoilt.host());
    refused(&scene.image(&["pull", &image]), &["the digest is sha256:", "expected sha256:"]);
    assert_eq!(files(&scene.store().join("blobs/sha256")), Vec::<String>::new());
    // The beginning of one that was fetched beside it may be left, and is as wrong.
    let ended = scene.image(&["pull", &format!("{}/x:1", registry.host())]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(files(&scene.store().join("ingest")), Vec::<String>::new());
    scene.guard.finish();
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_was() {
    let scene = scene();
    let registry = Registry::start();
    scene.push("hello", &format!("{}/x:1", registry.host()));
    let size = fs::metadata(guest("hello")).expect("a guest").len();
    let cuts = AtomicU32::new(0);
    let proxy = Proxy::start(&registry, move |request| {
        let blob = request.method == "GET" && request.path.contains("/blobs/");
        // The configuration is smaller than the cut.
        if blob && cuts.fetch_add(1, Ordering::SeqCst) < 4 { Act::Cut(20_000) } else { Act::Pass }
    });
    let image = format!("{}/x:1", proxy.host());
    let pulled = json(&scene.image(&["pull", &image, "-o", "json"]));
    assert_eq!(pulled["fetched"], pulled["bytes"], "no byte twice");
    assert!(proxy.served() < size + 10_000, "{} of {size}", proxy.served());
    let ranges: Vec<_> =
        proxy.requests().iter().filter_map(|r| r.header("range").map(str::to_owned)).collect();
    assert!(ranges.contains(&"bytes=20000-".to_owned()), "{ranges:?}");

    // So does the next run, after one that was given up.
    json(&scene.image(&["prune", "-o", "json"]));
    let always = Proxy::start(&registry, |request| {
        if request.path.contains("/blobs/") { Act::Cut(5_000) } else { Act::Pass }
    });
    let image = format!("{}/x:1", always.host());
    refused(&scene.image(&["pull", &image]), &["cut off"]);
    let ingest = scene.store().join("ingest");
    let left = fs::metadata(ingest.join(&files(&ingest)[0])).expect("a beginning").len();
    assert_eq!(left, 25_000, "five tries of 5,000 bytes");
    let image = format!("{}/x:1", proxy.host());
    let pulled = json(&scene.image(&["pull", &image, "-o", "json"]));
    let rest = pulled["bytes"].as_u64().expect("a number") - left;
    assert!(pulled["fetched"].as_u64().expect("a number") <= rest, "{pulled} after {left}");
    scene.guard.finish();
}

#[test]
fn an_overloaded_registry_is_asked_again_as_it_says() {
    let scene = scene();
    let registry = Registry::start();
    scene.push("hello", &format!("{}/x:1", registry.host()));
    let count = AtomicU32::new(0);
    let proxy = Proxy::start(&registry, move |_| match count.fetch_add(1, Ordering::SeqCst) {
        // The look whether it speaks TLS has no request that can be read.
        0 => answer("429 Too Many Requests", &[("Retry-After", "1")], ""),
        1 => answer("503 Service Unavailable", &[], ""),
        _ => Act::Pass,
    });
    let begin = std::time::Instant::now();
    let ended = scene.image(&["pull", &format!("{}/x:1", proxy.host())]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(begin.elapsed() >= std::time::Duration::from_secs(1), "it waits as it is told");
    for (status, headers, body, texts) in [
        (
            "500 Internal Server Error",
            vec![],
            "\u{1b}[31mno\ndisk",
            vec!["500 Internal Server Error (5 tries): ", "[31mno disk"],
        ),
        (
            "429 Too Many Requests",
            vec![("Retry-After", "3600")],
            "",
            vec!["to be asked again in 3600 s"],
        ),
        (
            "403 Forbidden",
            vec![],
            r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#,
            vec!["denied: DENIED: not yours"],
        ),
        (
            "404 Not Found",
            vec![("Content-Type", "text/html")],
            "<html>",
            vec!["/v2/x/manifests/1: not found\n"],
        ),
        ("418 I'm a teapot", vec![], "", vec!["418"]),
    ] {
        let proxy = Proxy::alone(move |_| answer(status, &headers, body));
        let ended = scene.image(&["pull", &format!("{}/x:1", proxy.host())]);
        refused(&ended, &texts);
        assert!(!ended.err.contains('\u{1b}'), "{ended:?}");
    }
    scene.guard.finish();
}

#[test]
fn what_is_larger_than_it_may_be_is_not_read() {
    let scene = scene();
    let large = Proxy::alone(|request| match request.path.contains("/manifests/") {
        true => answer("200 OK", &[], " ".repeat(5 << 20)),
        false => answer("404 Not Found", &[], ""),
    });
    let ended = scene.image(&["pull", &format!("{}/x:1", large.host())]);
    refused(&ended, &["larger than 4194304 bytes"]);
    // A layer of more and of fewer bytes than its manifest says.
    for (bytes, text) in [(10, "more than its 5 bytes"), (3, "3 bytes, expected 5")] {
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob = format!(r#""digest":"{digest}","size":5"#);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v0+json",{blob}}},"layers":[{{"mediaType":"application/wasm",{blob}}}]}}"#
        );
        let proxy = Proxy::alone(move |request| match request.path.contains("/manifests/") {
            true => answer("200 OK", &[], &manifest),
            false => answer("200 OK", &[], "x".repeat(bytes)),
        });
        refused(&scene.image(&["pull", &format!("{}/x:1", proxy.host())]), &[text]);
        assert_eq!(files(&scene.store().join("ingest")), Vec::<String>::new());
    }
    scene.guard.finish();
}

#[test]
fn a_redirect_takes_no_credentials_along_and_never_to_plain_http() {
    let scene = scene();
    let user = Some(("me".to_owned(), "pw".to_owned()));
    let registry = Registry::start_with(&Options { user, ..Options::default() });
    let auth = scene.home.path().join("auth.json");
    let write = |host: &str| {
        fs::write(&auth, format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6cHc="}}}}}}"#))
            .expect("written");
    };
    let auth_file = ["--auth-file", auth.to_str().expect("UTF-8")];
    write(&registry.host());
    let file = guest("hello");
    let image = format!("{}/x:1", registry.host());
    let push = [&["push", file.to_str().expect("UTF-8"), &image], &auth_file[..]].concat();
    assert_eq!(scene.image(&push).code, Some(0));

    // Where blobs lie: it knows no password, and is to see none. It serves the same for each.
    let wasm = fs::read(guest("hello")).expect("reads");
    let storage = Proxy::alone(move |_| answer("200 OK", &[], &wasm));
    for (target, texts) in [
        (format!("http://{}", storage.host()), ["more than its", "bytes"]),
        ("http://blobs.invalid".to_owned(), ["redirected to plain HTTP", "cannot reach"]),
    ] {
        let proxy = Proxy::start(&registry, move |request| {
            let blob = request.method == "GET" && request.path.contains("/blobs/");
            let known = request.header("authorization").is_some();
            let to = format!("{target}{}", request.path);
            if blob && known {
                answer("307 Temporary Redirect", &[("Location", &to)], "")
            } else {
                Act::Pass
            }
        });
        write(&proxy.host());
        let image = format!("{}/x:1", proxy.host());
        let ended = scene.image(&[&["pull", &image], &auth_file[..]].concat());
        refused(&ended, &texts);
    }
    let seen = storage.requests();
    assert!(!seen.is_empty(), "the redirect was followed");
    assert!(seen.iter().all(|request| request.header("authorization").is_none()), "{seen:?}");
    scene.guard.finish();
}
