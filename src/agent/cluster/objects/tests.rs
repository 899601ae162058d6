//! Against an API server that the test is in charge of.

use std::time::Duration;

use copepod_pod::{SOURCE_ANNOTATION, TokenKey, missing_pull_secrets};
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::fake::Fake;
use super::*;
use crate::telemetry::chain;

const MAP: &str = "/api/v1/namespaces/ns/configmaps/map";
const SECRET: &str = "/api/v1/namespaces/ns/secrets/pass";
const SERVICES: &str = "/api/v1/services/";
const UNRELATED: &str = "configmaps \"map\" is forbidden: User \"system:node:n\" cannot list resource \
    \"configmaps\" in API group \"\" in the namespace \"ns\": no relationship found between node 'n' \
    and this object";

/// For what has to come, on a machine with other work too.
const LONG: Duration = Duration::from_secs(30);
/// For what never comes.
const IN_VAIN: Duration = Duration::from_millis(500);

/// Waits until it holds.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect(what);
}

fn pod(uid: &str, spec: Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = json!([]);
    let metadata = json!({"name": uid, "namespace": "ns", "uid": uid});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
}

/// Names the config map `map` and the secret `pass`.
fn reader(uid: &str) -> Pod {
    let volumes = json!([{"name": "a", "configMap": {"name": "map"}},
        {"name": "b", "secret": {"secretName": "pass"}}]);
    pod(uid, json!({"volumes": volumes}))
}

fn text(objects: &Objects) -> Option<String> {
    objects.config_maps.get("map")?.data.as_ref()?.get("k").cloned()
}

fn map(text: &str) -> Value {
    json!({"metadata": {"annotations": {"big": "x"}, "managedFields": [{"manager": "m"}]},
        "data": {"k": text}})
}

fn store(fake: &Fake) -> ObjectStore {
    ObjectStore::with_patience(fake.client(), LONG, 10)
}

/// One that waits in vain, once it has the services: nothing but what a test takes away is missing.
async fn impatient(fake: &Fake) -> ObjectStore {
    let before = fake.watches(SERVICES);
    let store = ObjectStore::with_patience(fake.client(), IN_VAIN, 10);
    eventually("services", || fake.watches(SERVICES) > before).await;
    store
}

/// Which pods have something new, once any has.
async fn changed(store: &ObjectStore) -> BTreeSet<String> {
    tokio::time::timeout(LONG, store.changed()).await.expect("a change")
}

#[tokio::test]
async fn two_pods_share_a_watch_which_ends_with_the_last_of_them() {
    let fake = Fake::new();
    fake.put(MAP, map("1"));
    fake.put(SECRET, json!({"data": {"p": "cA=="}}));
    let store = store(&fake);
    let (a, b) = (reader("a"), reader("b"));
    for pod in [&a, &b, &a] {
        store.register(pod);
    }
    for pod in [&a, &b] {
        let objects = store.gather(pod).await.expect("gathers");
        assert_eq!(text(&objects).as_deref(), Some("1"));
        assert_eq!(objects.secrets["pass"].data.as_ref().expect("data")["p"].0, b"p");
        assert_eq!(objects.config_maps["map"].metadata.annotations, None, "nobody reads them");
    }
    eventually("watches", || fake.watches(MAP) == 1 && fake.watches(SECRET) == 1).await;
    assert_eq!(fake.requests("GET /api/v1/namespaces/ns/configmaps?").len(), 2, "a list, a watch");

    fake.put(MAP, map("2"));
    assert_eq!(changed(&store).await, ["a".to_owned(), "b".to_owned()].into());
    assert_eq!(text(&store.gather(&a).await.expect("gathers")).as_deref(), Some("2"));
    fake.delete(MAP);
    changed(&store).await;
    assert_eq!(text(&store.gather(&a).await.expect("gathers")), None, "absent, no error");
    fake.put(MAP, map("3"));
    changed(&store).await;

    store.forget("a");
    assert_eq!((fake.watches(MAP), store.0.config_maps.len()), (1, 1));
    let error = store.gather(&a).await.expect_err("is gone");
    assert_eq!(error.to_string(), "pod \"a\" is not registered");
    assert_eq!(text(&store.gather(&b).await.expect("gathers")).as_deref(), Some("3"));
    store.forget("b");
    assert_eq!((store.0.config_maps.len(), store.0.secrets.len()), (0, 0));
    eventually("end", || fake.watches(MAP) + fake.watches(SECRET) == 0).await;
    drop(store);
    eventually("end", || fake.watches(SERVICES) == 0).await;
}

#[tokio::test]
async fn a_pod_that_names_other_objects_has_other_watches() {
    let fake = Fake::new();
    fake.put(MAP, map("1"));
    let store = store(&fake);
    store.register(&reader("a"));
    eventually("watch", || fake.watches(MAP) == 1).await;
    let other = json!([{"name": "a", "configMap": {"name": "other"}}]);
    store.register(&pod("a", json!({"volumes": other})));
    let path = "/api/v1/namespaces/ns/configmaps/other";
    eventually("watch", || fake.watches(path) == 1 && fake.watches(MAP) == 0).await;
}

#[tokio::test]
async fn an_immutable_object_is_read_once() {
    let fake = Fake::new();
    let mut fixed = map("1");
    fixed["immutable"] = json!(true);
    fake.put(MAP, fixed);
    fake.put(SECRET, json!({}));
    let store = store(&fake);
    let pod = reader("a");
    store.register(&pod);
    eventually("secret's watch", || fake.watches(SECRET) == 1).await;
    assert_eq!(text(&store.gather(&pod).await.expect("gathers")).as_deref(), Some("1"));
    fake.set_down(true);
    assert_eq!(text(&store.gather(&pod).await.expect("gathers")).as_deref(), Some("1"));
    assert_eq!(fake.requests("GET /api/v1/namespaces/ns/configmaps").len(), 1, "one list");
}

#[tokio::test]
async fn an_authorizer_that_does_not_know_the_pod_yet_is_asked_again() {
    let fake = Fake::new();
    fake.put(MAP, map("1"));
    let store = store(&fake);
    eventually("services", || fake.watches(SERVICES) == 1).await;
    fake.refuse(4, 403, "configmaps", UNRELATED);
    let volumes = json!([{"name": "a", "configMap": {"name": "map"}}]);
    let pod = pod("a", json!({"volumes": volumes}));
    store.register(&pod);
    let objects = store.gather(&pod).await.expect("gathers");
    assert_eq!(text(&objects).as_deref(), Some("1"));
    assert_eq!(store.changed().now_or_never(), None);

    let store = impatient(&fake).await;
    fake.put("/api/v1/namespaces/ns/configmaps/late", map("1"));
    fake.refuse(100, 403, "configmaps", &UNRELATED.replace("map\"", "late\""));
    let volumes = json!([{"name": "a", "configMap": {"name": "late"}}]);
    let late = self::pod("b", json!({"volumes": volumes}));
    store.register(&late);
    let started = Instant::now();
    let error = store.gather(&late).await.expect_err("is not known");
    assert!(started.elapsed() >= IN_VAIN);
    let text = chain(&error);
    assert!(text.starts_with("configmaps \"late\" cannot be read: configmaps \"late\" is forb"));
}

#[tokio::test]
async fn what_was_waited_for_in_vain_is_told_of_once_it_is_there() {
    let fake = Fake::new();
    fake.put(MAP, map("1"));
    fake.put(SECRET, json!({}));
    let store = impatient(&fake).await;
    fake.set_down(true);
    let pod = reader("a");
    store.register(&pod);
    let error = store.gather(&pod).await.expect_err("is not \"not found\"");
    assert!(matches!(&error, GatherError::Read { kind: "configmaps", .. }), "{error:?}");
    let text_of = chain(&error);
    assert!(text_of.contains("cannot be reached"), "{text_of}");
    fake.set_down(false);
    assert_eq!(changed(&store).await, ["a".to_owned()].into());
    eventually("watches", || fake.watches(MAP) == 1 && fake.watches(SECRET) == 1).await;
    assert_eq!(text(&store.gather(&pod).await.expect("gathers")).as_deref(), Some("1"));
}

#[tokio::test]
async fn while_the_server_is_away_the_last_that_is_known_holds() {
    let fake = Fake::new();
    fake.put(MAP, map("1"));
    fake.put(SECRET, json!({}));
    let store = store(&fake);
    let pod = reader("a");
    store.register(&pod);
    eventually("watches", || fake.watches(MAP) == 1 && fake.watches(SECRET) == 1).await;
    fake.set_down(true);
    fake.delete(MAP);
    assert_eq!(text(&store.gather(&pod).await.expect("gathers")).as_deref(), Some("1"));
    let asked = fake.requests("GET /api/v1/namespaces/ns/configmaps?watch=true").len();
    fake.set_down(false);
    eventually("watch", || fake.watches(MAP) == 1).await;
    let again = fake.requests("GET /api/v1/namespaces/ns/configmaps?watch=true");
    assert!(again.len() > asked && again[0].contains("&allowWatchBookmarks=true&"), "{again:?}");

    // The server has forgotten what came since.
    let gone = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
    fake.send(&json!({"type": "ERROR", "object": gone}));
    changed(&store).await;
    assert_eq!(text(&store.gather(&pod).await.expect("gathers")), None);
}

#[tokio::test]
async fn a_watch_goes_on_from_its_last_bookmark() {
    let fake = Fake::new();
    fake.put(MAP, map("1"));
    let store = store(&fake);
    store.register(&reader("a"));
    eventually("watch", || fake.watches(MAP) == 1).await;
    let metadata = json!({"resourceVersion": "777"});
    let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata});
    fake.send(&json!({"type": "BOOKMARK", "object": object}));
    fake.put(MAP, map("2"));
    changed(&store).await;
    fake.send(&json!({"type": "BOOKMARK", "object": object}));
    // What it cannot read ends a watch and nothing else.
    fake.send(&json!({"type": "ADDED", "object": 1}));
    let again = "GET /api/v1/namespaces/ns/configmaps?watch=true";
    eventually("watch", || fake.requests(again).len() == 2).await;
    assert!(fake.requests(again)[1].ends_with("&resourceVersion=777"));
}

#[tokio::test]
async fn what_is_named_wrongly_is_not_asked_for_and_is_missing() {
    let fake = Fake::new();
    let store = store(&fake);
    let volumes = json!([{"name": "a", "configMap": {"name": "x,metadata.namespace!=y"}}]);
    let pod = pod("a", json!({"volumes": volumes, "imagePullSecrets": [{"name": "../pull"}]}));
    store.register(&pod);
    let objects = store.gather(&pod).await.expect("gathers");
    assert!(objects.config_maps.is_empty());
    assert_eq!(missing_pull_secrets(&pod, &objects), ["../pull"]);
    assert_eq!(fake.requests("GET /api/v1/namespaces/"), [""; 0]);
}

#[tokio::test]
async fn pull_secrets_are_had_if_they_are_there_and_else_named() {
    let fake = Fake::new();
    fake.put("/api/v1/namespaces/ns/secrets/pull", json!({"type": "kubernetes.io/dockercfg"}));
    let store = store(&fake);
    eventually("services", || fake.watches(SERVICES) == 1).await;
    let pod = pod("a", json!({"imagePullSecrets": [{"name": "pull"}, {"name": "none"}]}));
    store.register(&pod);
    let objects = store.gather(&pod).await.expect("gathers");
    assert_eq!(objects.secrets["pull"].type_.as_deref(), Some("kubernetes.io/dockercfg"));
    assert_eq!(missing_pull_secrets(&pod, &objects), ["none"]);
    let store = impatient(&fake).await;
    fake.set_down(true);
    let other = self::pod("b", json!({"imagePullSecrets": [{"name": "other"}]}));
    store.register(&other);
    let objects = store.gather(&other).await.expect("an image may do without");
    assert_eq!(missing_pull_secrets(&other, &objects), ["other"]);
}

#[tokio::test]
async fn more_objects_than_can_be_watched_are_read_each_time() {
    let fake = Fake::new();
    let names: Vec<String> = (0..12).map(|i| format!("m{i}")).collect();
    for name in &names {
        fake.put(&format!("/api/v1/namespaces/ns/configmaps/{name}"), map("1"));
    }
    let volume = |name: &String| json!({"name": name, "configMap": {"name": name}});
    let volumes: Vec<_> = names.iter().map(volume).collect();
    let store = store(&fake);
    let big = pod("a", json!({"volumes": volumes}));
    store.register(&big);
    for _ in 0..2 {
        let objects = store.gather(&big).await.expect("gathers");
        assert_eq!(objects.config_maps.len(), 12);
    }
    assert_eq!(store.0.config_maps.len(), 10);
    assert_eq!(fake.requests("GET /api/v1/namespaces/ns/configmaps/").len(), 4);

    let volumes: Vec<_> = (0..=REFERENCES_MAX).map(|i| volume(&format!("x{i}"))).collect();
    let bomb = pod("b", json!({"volumes": volumes}));
    store.register(&bomb);
    let error = store.gather(&bomb).await.expect_err("is refused").to_string();
    assert_eq!(error, "pod names 513 objects and tokens, more than 512");
}

#[tokio::test]
async fn services_are_waited_for_and_kept_up_to_date() {
    let fake = Fake::new();
    let service =
        |ip: &str| json!({"spec": {"clusterIP": ip, "ports": [{"port": 80}]}, "status": {}});
    fake.put("/api/v1/namespaces/default/services/kubernetes", service("10.0.0.1"));
    fake.put("/api/v1/namespaces/other/services/web", service("10.0.0.2"));
    fake.set_down(true);
    let store = ObjectStore::with_patience(fake.client(), IN_VAIN, 10);
    let plain = pod("a", json!({}));
    store.register(&plain);
    let error = store.gather(&plain).await.expect_err("no services yet");
    assert_eq!(
        chain(&error),
        "services have not yet been read at least once, cannot construct envvars: the API server \
         cannot be reached: connection refused"
    );
    let mut fixed = plain.clone();
    let annotations = [(SOURCE_ANNOTATION.to_owned(), "file".to_owned())];
    fixed.metadata.annotations = Some(annotations.into());
    store.gather(&fixed).await.expect("a static pod does not wait");

    fake.set_down(false);
    eventually("services", || fake.watches(SERVICES) == 1).await;
    fake.put("/api/v1/namespaces/ns/services/db", service("10.0.0.3"));
    let hosts = async || {
        let objects = store.gather(&plain).await.expect("gathers");
        objects.services.iter().map(|one| one.cluster_ip.clone()).collect::<Vec<_>>()
    };
    let wait = async {
        while hosts().await != ["10.0.0.3", "10.0.0.1"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("sees the new service");
    fake.delete("/api/v1/namespaces/ns/services/db");
    let wait = async {
        while hosts().await != ["10.0.0.1"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("sees that it is gone");
    let list = &fake.requests("GET /api/v1/services?")[0];
    assert!(list.contains("fieldSelector=spec.clusterIP%21%3DNone&limit=500"), "{list}");
}

fn with_tokens(uid: &str) -> Pod {
    let sources = json!([{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"serviceAccountToken": {"path": "vault", "audience": "vault"}}]);
    let volumes = json!([{"name": "v", "projected": {"sources": sources}}]);
    pod(uid, json!({"volumes": volumes, "serviceAccountName": "robot"}))
}

fn token(objects: &Objects, audience: &str, seconds: i64) -> String {
    let key = TokenKey { audience: audience.to_owned(), expiration_seconds: seconds };
    objects.tokens[&key].reveal().to_owned()
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_forgotten_with_its_pod() {
    let fake = Fake::new();
    let store = store(&fake);
    eventually("services", || fake.watches(SERVICES) == 1).await;
    // The pod is not in admission's cache yet, nor in the authorizer's graph.
    fake.refuse(1, 404, "pod", "pod \"a\" not found");
    fake.refuse(
        1,
        403,
        "serviceaccounts",
        "no relationship found between node 'n' and this object",
    );
    let pod = with_tokens("a");
    store.register(&pod);
    let first = store.gather(&pod).await.expect("gathers");
    let again = store.gather(&pod).await.expect("gathers");
    assert_eq!(first.tokens, again.tokens);
    assert_ne!(token(&first, "", 3607), token(&first, "vault", 3600));
    let requests = fake.token_requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0]["spec"]["boundObjectRef"]["uid"], "a");
    let posts = fake.requests("POST /api/v1/namespaces/ns/serviceaccounts/robot/token");
    assert_eq!(posts.len(), 4);
    store.forget("a");
    store.register(&pod);
    store.gather(&pod).await.expect("gathers");
    assert_eq!(fake.token_requests().len(), 4);

    store.forget("a");
    store.register(&pod);
    fake.refuse(2, 404, "serviceaccounts", "serviceaccounts \"robot\" not found");
    let error = store.gather(&pod).await.expect_err("no account");
    assert_eq!(chain(&error), "failed to fetch token: serviceaccounts \"robot\" not found");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_the_old_one_serves_meanwhile() {
    let fake = Fake::new();
    // Four fifths of it are over after 4 s.
    fake.set_token_seconds(5);
    let store = store(&fake);
    let pod = with_tokens("a");
    store.register(&pod);
    let first = store.gather(&pod).await.expect("gathers");
    fake.set_token_seconds(3600);
    let mut changed = 0;
    while changed < 2 {
        assert_eq!(self::changed(&store).await, ["a".to_owned()].into());
        changed = fake.token_requests().len() - 2;
    }
    let second = store.gather(&pod).await.expect("gathers");
    assert_ne!(token(&first, "", 3607), token(&second, "", 3607));

    fake.set_down(true);
    let third = store.gather(&pod).await.expect("the old ones are good");
    assert_eq!(third.tokens, second.tokens);
}

#[tokio::test]
async fn a_token_that_ended_is_an_error_while_there_is_no_new_one() {
    let fake = Fake::new();
    fake.set_token_seconds(0);
    let store = impatient(&fake).await;
    let volumes = json!([{"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "audience": "vault"}}]}}]);
    let pod = pod("a", json!({"volumes": volumes}));
    store.register(&pod);
    store.gather(&pod).await.expect("gathers");
    fake.set_down(true);
    let error = chain(&store.gather(&pod).await.expect_err("none"));
    assert!(
        error.starts_with("token for audience \"vault\" expired and refresh failed: "),
        "{error}"
    );
}
