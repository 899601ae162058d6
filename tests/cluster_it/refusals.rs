//! Bad credentials, bad pods, bad clients: each is refused by name and harms nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use copepod_tests::cluster::pki::Authority;
use copepod_tests::cluster::plane::kubeconfig;
use copepod_tests::cluster::{Node, NodeOptions};
use copepod_tests::https::Identity;
use serde_json::{Value, json};

use crate::place::Place;
use crate::{SOON, World};

/// How long an agent is looked at to see that it does not become a node.
const LOOKED_AT: Duration = Duration::from_secs(5);
/// Clients that say next to nothing, all at once.
const SLOW: usize = 50;
/// Far less than they would hold up a server that waits for one after the other, 10 s each.
const HELD_UP: Duration = Duration::from_secs(30);
/// By when a client that says nothing must be let go.
const LET_GO: Duration = Duration::from_secs(60);

/// An agent by this name with this kubeconfig says the text, and the cluster has no such node.
#[track_caller]
fn no_node(world: &World, name: &str, ca: &str, identity: &Identity, says: &str) {
    let file = world.plane.dir().join(format!("{name}.kubeconfig"));
    let text = kubeconfig(world.plane.address(), ca, identity).to_string();
    std::fs::write(&file, text).expect("written");
    let name = Some(name.to_owned());
    let options = NodeOptions { name, kubeconfig: Some(file), ..NodeOptions::default() };
    let mut node = Node::start(world.plane, options);
    node.wait(SOON, &format!("its log says {says:?}"), || {
        node.whole_log().contains(says).then_some(())
    });
    // It may end by itself with what it says, or go on trying; it may not become a node.
    let end = Instant::now() + LOOKED_AT;
    world.plane.wait(LOOKED_AT + SOON, "the time is over", String::new, || {
        assert!(world.plane.api().get("nodes", "", node.name()).is_none());
        (Instant::now() > end || node.ended().is_some()).then_some(())
    });
    if let Some(status) = node.ended() {
        assert_eq!(status.code(), Some(1), "{}", node.log());
    }
    let lines = node.whole_log().lines().count();
    assert!(
        lines < 200,
        "{lines} lines in {LOOKED_AT:?}: it tries without a pause\n{}",
        node.log()
    );
    node.finish();
}

pub(crate) fn a_kubeconfig_of_another_node_makes_no_node(world: &World) {
    let authority = world.plane.authority();
    let identity = authority.client("system:node:another", &["system:nodes"]);
    no_node(world, "borrows", authority.certificate(), &identity, "system:node:another");
}

pub(crate) fn a_cluster_of_another_authority_is_not_believed(world: &World) {
    let identity = world.plane.authority().client("system:node:doubts", &["system:nodes"]);
    no_node(world, "doubts", Authority::new("another").certificate(), &identity, "UnknownIssuer");
}

pub(crate) fn an_expired_certificate_makes_no_node(world: &World) {
    let authority = world.plane.authority();
    let identity = authority.expired_client("system:node:expired", &["system:nodes"]);
    no_node(world, "expired", authority.certificate(), &identity, "the certificate ended at 2021");
}

pub(crate) fn all_faults_of_a_configuration_are_told_at_once(world: &World) {
    let config = json!({"cgroupDriver": "mine", "maxPods": -1, "notAField": true});
    let options = NodeOptions { config, ..NodeOptions::default() };
    let mut node = Node::start(world.plane, options);
    let status = node.wait_end(SOON);
    assert_eq!(status.code(), Some(1), "{}", node.log());
    // A field that nobody knows hides the rest: the file cannot be trusted then.
    assert!(node.log().contains("notAField"), "{}", node.log());
    node.finish();
    let config = json!({"cgroupDriver": "mine", "maxPods": -1, "imageGCHighThresholdPercent": 101});
    let options = NodeOptions { config, ..NodeOptions::default() };
    let mut node = Node::start(world.plane, options);
    let status = node.wait_end(SOON);
    assert_eq!(status.code(), Some(1), "{}", node.log());
    for field in ["cgroupDriver", "maxPods", "imageGCHighThresholdPercent"] {
        assert!(node.log().contains(field), "{field} is not in\n{}", node.log());
    }
    node.finish();
}

pub(crate) fn a_root_directory_has_one_agent(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("stays", "hello", &["--every", "100"]));
    let before = place.wait_ready("stays");
    let second = place.node.second().output(SOON);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("is in use by another copepod"), "{text}");
    let after = place.wait_ready("stays");
    assert_eq!(after["status"], before["status"], "the first goes on");
    place.finish();
}

pub(crate) fn a_pod_that_asks_for_what_is_not_served_is_told_so(world: &World) {
    let place = Place::new(world);
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &[&str]); 3] = [
        (
            "volume",
            |pod| {
                pod["spec"]["volumes"] = json!([
                    {"name": "v", "iscsi": {"targetPortal": "10.0.0.1", "iqn": "iqn.2001-04.com.example:a", "lun": 0}},
                ]);
            },
            &["iscsi", r#"volume \"v\" : its kind is not served"#],
        ),
        (
            "field",
            |pod| pod["spec"]["containers"][0]["workingDir"] = json!("/work"),
            &["workingDir"],
        ),
        (
            "image",
            |pod| pod["spec"]["containers"][0]["image"] = json!("not/UPPER/case"),
            &["InvalidImageName"],
        ),
    ];
    for (name, change, texts) in &cases {
        let mut pod = place.pod(name, "hello", &["--every", "100"]);
        change(&mut pod);
        place.create(&pod);
        let said = |pod: &Value| {
            let events = place.api().list("events", &place.namespace);
            let of = events.iter().filter(|event| event["involvedObject"]["name"] == **name);
            let text =
                format!("{} {}", pod["status"], of.map(Value::to_string).collect::<String>());
            texts.iter().any(|wanted| text.contains(wanted))
        };
        let pod = place.wait_pod(name, &format!("says one of {texts:?}"), said);
        assert_ne!(pod["status"]["phase"], "Running", "{pod}");
    }
    place.finish();
}

pub(crate) fn annotations_as_large_as_may_be_do_no_harm(world: &World) {
    let place = Place::new(world);
    let mut pod = place.pod("large", "hello", &["--every", "100"]);
    // The API server itself takes 256 KiB, and refuses the megabyte.
    for (bytes, code) in [(1 << 20, 422), (255 << 10, 201)] {
        pod["metadata"]["annotations"] = json!({"example.com/large": "x".repeat(bytes)});
        let path = format!("/api/v1/namespaces/{}/pods", place.namespace);
        assert_eq!(place.api().request("POST", &path, Some(&pod)).0, code);
    }
    place.wait_ready("large");
    place.wait_line("large", "count 3");
    place.finish();
}

pub(crate) fn the_server_asks_who_it_is_and_whether_they_may(world: &World) {
    let place = Place::new(world);
    let authority = world.plane.authority();
    let node = &place.node;
    node.wait(SOON, "its server listens", || TcpStream::connect(node.address()).ok());
    let code = |identity: Option<&Identity>, path: &str| {
        node.server(identity).get(path).map(|(code, _)| code)
    };
    assert_eq!(code(None, "/pods").expect("an answer"), 401);
    let nobody = authority.client("nobody", &[]);
    assert_eq!(code(Some(&nobody), "/pods").expect("an answer"), 403);
    let admin = world.plane.kubelet_client();
    for path in ["/pods", "/runningpods/", "/healthz"] {
        assert_eq!(code(Some(&admin), path).expect("an answer"), 200, "{path}");
    }
    assert_eq!(code(Some(&admin), "/nothing").expect("an answer"), 404);
    // A certificate of an authority that the cluster does not know is refused while TLS speaks, or
    // taken for none.
    let stranger = Authority::new("another").client("admin", &["system:masters"]);
    assert!(code(Some(&stranger), "/pods").map_or(true, |code| code == 401));

    // A service account's token, without and with the right.
    let token = place.told(&["create", "token", "default"]);
    let by_token = |path: &str| {
        let client = node.server(None).with_bearer(token.trim());
        client.get(path).expect("an answer").0
    };
    assert_eq!(by_token("/pods"), 403);
    assert_eq!(node.server(None).with_bearer("none").get("/pods").expect("an answer").0, 401);
    let account = format!("{}:default", place.namespace);
    let role = format!("reader-{}", node.name());
    let create = ["create", "clusterrolebinding", &role, "--clusterrole=system:kubelet-api-admin"];
    place.told(&[&create[..], &["--serviceaccount", &account]].concat());
    // A refusal may be remembered for a while, as a kubelet does (30 s).
    node.wait(SOON, "the right counts", || (by_token("/pods") == 200).then_some(()));
    place.told(&["delete", "clusterrolebinding", &role]);
    place.finish();
}

pub(crate) fn slow_clients_hold_up_nobody_and_are_let_go(world: &World) {
    let place = Place::new(world);
    place.node.wait(SOON, "its server listens", || TcpStream::connect(place.node.address()).ok());
    let admin = world.plane.kubelet_client();
    let mut slow: Vec<_> = (0..SLOW)
        .map(|_| {
            let client = place.node.server(Some(&admin)).with_silence(LET_GO);
            let mut stream = client.connect().expect("it listens");
            stream.write_all(b"GET /pods HTTP/1.1\r\nHost: te").expect("sends half a head");
            stream.flush().expect("sends");
            stream
        })
        .collect();
    // Without a word of TLS, too.
    let silent: Vec<_> =
        (0..SLOW).map(|_| TcpStream::connect(place.node.address()).expect("it listens")).collect();
    let begin = Instant::now();
    let (code, _) = place.node.server(Some(&admin)).get("/pods").expect("an answer");
    assert_eq!(code, 200);
    assert!(begin.elapsed() < HELD_UP, "{:?}", begin.elapsed());
    // Each is answered with an error or just let go, but not held for good.
    let mut bytes = Vec::new();
    let one = slow.pop().expect("there are some").read_to_end(&mut bytes);
    let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!one.as_ref().is_err_and(timed_out), "held for {:?}: {one:?}", begin.elapsed());
    drop((slow, silent));
    place.finish();
}
