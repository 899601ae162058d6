//! Plugins that fail, hang, or print what they should not.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::tests::{Node, SOON, pod};
use super::*;
use crate::telemetry::chain;

/// Long enough for a script, short enough for a test.
const LIMIT: Duration = Duration::from_secs(10);

/// A result that is good.
const GOOD: &str = r#"{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 1400}], "ips": [{"address": "192.0.2.7/24", "interface": 0}]}"#;

impl Node {
    /// A plugin that is a script: what it does at ADD, and at DEL.
    fn script(&self, name: &str, add: &str, delete: &str) {
        let text = format!(
            "#!/bin/sh\ncat > {home}/$CNI_COMMAND-{name}.stdin\nenv > {home}/$CNI_COMMAND-{name}.env\n\
             echo \"$CNI_COMMAND {name}\" >> {home}/calls\n\
             if [ $CNI_COMMAND = ADD ]; then {add}\nelse {delete}\nfi\n",
            home = self.path("").display()
        );
        let path = self.path("bin").join(name);
        // In two steps: no descriptor that can write stays open in a child of another test.
        fs::write(self.path("script"), text).expect("writes");
        fs::set_permissions(self.path("script"), fs::Permissions::from_mode(0o755)).expect("sets");
        fs::rename(self.path("script"), path).expect("renames");
    }

    fn scripts(&self, version: &str, plugins: Value) {
        self.configure(&json!({"name": "test", "cniVersion": version, "plugins": plugins}));
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).expect("is JSON")
    }
}

/// The error of an attachment, without its beginning.
async fn fails(network: &Network) -> String {
    let text = chain(&network.attach(&pod("a")).await.expect_err("fails"));
    let rest = text.strip_prefix("failed to setup network for sandbox \"").expect("begins so");
    let (id, why) = rest.split_once("\": ").expect("an id");
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    why.to_owned()
}

#[test]
fn plugins_get_what_the_specification_says() {
    let node = Node::new();
    node.script("one", &format!("echo '{GOOD}'"), "true");
    node.script("two", "printf '{\"ips\": [{\"address\": \"192.0.2.8/24\"}]}'", "true");
    let plugins = json!([{"type": "one", "capabilities": {"portMappings": true}, "x": 1},
        {"type": "two", "capabilities": {"portMappings": false}}]);
    node.scripts("1.1.0", plugins);
    node.run(async || {
        let network = Network::open(node.options());
        let mut pod = pod("a");
        pod.spec.as_mut().expect("has one").containers[0].ports =
            serde_json::from_value(json!([{"containerPort": 80, "hostPort": 8080}]))
                .expect("ports");
        let attached = network.attach(&pod).await.expect("attaches");
        assert_eq!(attached.pod_ips, ["192.0.2.8".parse::<IpAddr>().expect("is one")]);
        let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        assert_eq!(
            node.json("ADD-one.stdin"),
            json!({"type": "one", "capabilities": {"portMappings": true}, "x": 1, "name": "test",
                "cniVersion": "1.1.0", "runtimeConfig": {"portMappings": mappings}})
        );
        let of_two = json!({"type": "two", "capabilities": {"portMappings": false}, "name": "test",
            "cniVersion": "1.1.0"});
        let mut added = of_two.clone();
        added["prevResult"] = serde_json::from_str(GOOD).expect("is JSON");
        assert_eq!(node.json("ADD-two.stdin"), added);
        let environment = node.text("ADD-one.env");
        let id = environment.lines().find_map(|line| line.strip_prefix("CNI_CONTAINERID="));
        let id = id.expect("has one").to_owned();
        let netns = node.path("run/netns/a").display().to_string();
        let path = format!("{}:/usr/lib/cni", node.path("bin").display());
        for line in [
            "CNI_COMMAND=ADD".to_owned(),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_NETNS={netns}"),
            format!("CNI_PATH={path}"),
            format!(
                "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod-a;\
                 K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=a"
            ),
        ] {
            assert!(environment.lines().any(|other| other == line), "{line}: {environment}");
        }
        let own = |line: &&str| {
            ["CNI_", "PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="]
                .iter()
                .any(|own| line.starts_with(own))
        };
        let others: Vec<_> = environment.lines().filter(|line| !own(line)).collect();
        assert_eq!(others, [""; 0], "the agent's environment is its own");
        network.detach("a").await.expect("detaches");
        assert_eq!(node.text("calls"), "ADD one\nADD two\nDEL two\nDEL one\n");
        let mut deleted = of_two;
        deleted["prevResult"] =
            json!({"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.8/24"}]});
        assert_eq!(node.json("DEL-two.stdin"), deleted);
        assert_eq!(node.json("DEL-one.stdin")["runtimeConfig"]["portMappings"], mappings);
        assert!(node.text("DEL-one.env").contains(&format!("CNI_NETNS={netns}\n")));
    });
    node.is_clean();
}

#[test]
fn an_old_plugin_is_given_no_result_at_del() {
    let node = Node::new();
    node.script(
        "one",
        "echo '{\"ips\": [{\"address\": \"192.0.2.8/24\", \"version\": \"4\"}]}'",
        "true",
    );
    node.scripts("0.3.1", json!([{"type": "one"}]));
    node.run(async || {
        let network = Network::open(node.options());
        network.attach(&pod("a")).await.expect("attaches");
        network.inner.namespaces.remove("a").expect("removes");
        network.detach("a").await.expect("detaches");
        let expected = json!({"type": "one", "name": "test", "cniVersion": "0.3.1"});
        assert_eq!(node.json("DEL-one.stdin"), expected);
        assert!(node.text("DEL-one.env").contains("CNI_NETNS=\n"), "the namespace is gone");
    });
    node.is_clean();
}

#[test]
fn failures_are_told_in_upstreams_words() {
    let node = Node::new();
    let start = "plugin type=\"one\" name=\"mine\" failed (add): ";
    for (add, why) in [
        (
            "echo '{\"code\": 11, \"msg\": \"try again\", \"details\": \"later\"}'; exit 1",
            "try again; later",
        ),
        ("echo '{\"code\": 7, \"msg\": \"no\"}'; exit 1", "no"),
        ("exit 3", "netplugin failed with no error message: exit status 3"),
        ("kill -9 $$", "netplugin failed with no error message: signal: 9"),
        ("echo oops >&2; exit 1", "netplugin failed: \"oops\\n\": exit status 1"),
        (
            "echo garbage; exit 1",
            "netplugin failed but error parsing its diagnostic message \"garbage\\n\": ",
        ),
        ("echo garbage", "failed to unmarshal raw result: "),
        ("echo '[]'", "failed to unmarshal raw result: "),
        ("head -c 100000000 /dev/zero", "plugin printed more than 1048576 bytes"),
        ("head -c 100000000 /dev/zero >&2; exit 1", "netplugin failed: \"\\0\\0"),
    ] {
        node.script("one", add, "true");
        node.scripts("1.0.0", json!([{"type": "one", "name": "mine"}]));
        node.run(async || {
            let network = Network::open(node.options());
            let text = fails(&network).await;
            assert!(text.starts_with(&format!("{start}{why}")), "{add}: {text}");
            assert!(text.len() < 4096, "{add}");
        });
        node.is_clean();
    }
    node.script("one", "printf '{}'", "true");
    for (plugin, why) in [
        ("one", "failed to find network info: no address for eth0".to_owned()),
        (
            "none",
            format!(
                "plugin type=\"none\" failed (add): failed to find plugin \"none\" in path [{} /usr/lib/cni]",
                node.path("bin").display()
            ),
        ),
    ] {
        node.scripts("1.0.0", json!([{"type": plugin}]));
        node.run(async || {
            let network = Network::open(node.options());
            assert_eq!(fails(&network).await, why);
            // What cannot be undone yet is kept, and can be later.
            assert_eq!(network.attached().is_empty(), plugin == "one");
            node.script("none", "true", "true");
            network.detach("a").await.expect("detaches");
            fs::remove_file(node.path("bin/none")).expect("removes");
        });
        node.is_clean();
    }
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    let node = Node::new();
    node.script(
        "one",
        &format!("sleep 1000 & echo $! > {}; wait", node.path("child").display()),
        "true",
    );
    node.scripts("1.0.0", json!([{"type": "one"}]));
    node.run(async || {
        let network = Network::with_limit(node.options(), LIMIT);
        let text = fails(&network).await;
        assert_eq!(text, "plugin type=\"one\" failed (add): plugin did not end within 10 s");
        let child = node.text("child");
        let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
        assert_eq!(node.text("calls"), "ADD one\nDEL one\n");
    });
    node.is_clean();
}

#[test]
fn a_detachment_that_fails_can_be_repeated() {
    let node = Node::new();
    let failing = "echo '{\"code\": 5, \"msg\": \"busy\"}'; exit 1";
    node.script("one", &format!("echo '{GOOD}'"), failing);
    node.scripts("1.0.0", json!([{"type": "one"}]));
    node.run(async || {
        let network = Network::open(node.options());
        network.attach(&pod("a")).await.expect("attaches");
        for _ in 0..2 {
            let text = chain(&network.detach("a").await.expect_err("fails"));
            assert!(text.starts_with("failed to destroy network for sandbox \""), "{text}");
            assert!(text.ends_with("\": plugin type=\"one\" failed (delete): busy"), "{text}");
            assert_eq!(network.attached(), ["a"]);
        }
        // Complaints about what is gone anyway are none.
        let gone = failing.replace("busy", "link eth0 not found");
        node.script("one", "true", &gone);
        network.detach("a").await.expect("detaches");
    });
    node.is_clean();
}

#[test]
fn a_failed_attachment_is_undone_before_the_next() {
    let node = Node::new();
    node.script("one", "exit 1", "exit 1");
    node.scripts("1.0.0", json!([{"type": "one"}]));
    node.run(async || {
        let network = Network::open(node.options());
        fails(&network).await;
        assert_eq!(network.attached(), ["a"], "it may have done something");
        node.script("one", &format!("echo '{GOOD}'"), "true");
        fs::remove_file(node.path("calls")).expect("removes");
        network.attach(&pod("a")).await.expect("attaches");
        assert_eq!(node.text("calls"), "DEL one\nADD one\n");
        network.detach("a").await.expect("detaches");
    });
    node.is_clean();
}

#[test]
fn what_an_agent_left_running_ends_before_the_next_one_deletes() {
    let node = Node::new();
    let home = node.path("");
    let home = home.display();
    // Whoever waits for it is killed with the agent, and it is not.
    let add = format!("sleep 1000 & echo $! > {home}/pid; wait");
    let delete = format!("grep -q CNI_ /proc/$(cat {home}/pid)/environ && echo on >> {home}/calls");
    node.script("one", &add, &format!("{delete}; true"));
    node.scripts("1.1.0", json!([{"type": "one"}]));
    let is_begun = || node.text("pid").trim().parse::<u32>().is_ok();
    let runs =
        || fs::read(format!("/proc/{}/environ", node.text("pid").trim())).unwrap_or_default();
    node.run(async || {
        let network = Network::open(node.options());
        tokio::spawn(async move { network.attach(&pod("a")).await });
        let begun = async {
            while !is_begun() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, begun).await.expect("a plugin that runs");
    });
    assert!(!runs().is_empty(), "it outlives its agent");
    node.run(async || Network::open(node.options()).detach("a").await.expect("detaches"));
    assert!(runs().is_empty());
    assert_eq!(node.text("calls"), "ADD one\nDEL one\n");
    node.is_clean();
}
