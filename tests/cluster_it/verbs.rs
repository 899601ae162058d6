//! kubectl's verbs on an ordinary pod, by an old kubectl (SPDY) and the API server's own (WebSocket).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use copepod_tests::Run;
use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::kubernetes;
use serde_json::{Value, json};

use crate::SOON;
use crate::World;
use crate::place::{Shared, container};

/// The kubectl of the machine, if it has one: an older one.
const OLD: &str = "/usr/bin/kubectl";
/// By these a kubectl speaks as those did that knew SPDY alone.
pub(crate) const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

/// A kubectl that can be told to speak SPDY, and its first arguments. `make test-setup` has no older
/// one to install; without one of the machine it is the API server's own.
pub(crate) fn old_kubectl() -> (PathBuf, &'static [&'static str]) {
    match Path::new(OLD).exists() {
        true => (OLD.into(), &[]),
        false => (kubernetes(), &["kubectl"]),
    }
}

/// More than any window or buffer on the way.
const COPIED: usize = 3 << 20;

/// One kubectl and the pods it talks about.
struct Column<'a> {
    place: &'a Shared<'a>,
    program: PathBuf,
    first: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// What its pods' names end with.
    name: &'static str,
}

impl Column<'_> {
    fn pod(&self, name: &str) -> String {
        format!("{name}-{}", self.name)
    }

    fn words<'w>(&'w self, args: &[&'w str]) -> Vec<&'w str> {
        [self.first, &["-n", &self.place.namespace], args].concat()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.world.plane.as_admin(&self.program, &self.words(args));
        command.envs(self.env.iter().copied());
        command
    }

    /// To its end, with this input.
    #[track_caller]
    fn output(&self, args: &[&str], input: &[u8]) -> Output {
        Run::spawn_with_input(self.command(args), input).output(SOON)
    }

    /// To its good end: what it says.
    #[track_caller]
    fn told(&self, args: &[&str], input: &[u8]) -> String {
        let output = self.output(args, input);
        assert!(output.status.success(), "{}: {args:?}: {output:?}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// On a terminal of its own.
    #[track_caller]
    fn on_terminal(&self, args: &[&str]) -> String {
        let quoted: Vec<String> = std::iter::once(self.program.display().to_string())
            .chain(self.words(args).iter().map(ToString::to_string))
            .map(|word| format!("'{word}'"))
            .collect();
        let words = quoted.join(" ");
        let mut command =
            self.place.world.plane.as_admin(Path::new("script"), &["-qec", &words, "/dev/null"]);
        command.envs(self.env.iter().copied());
        let output = Run::spawn(command).output(SOON);
        assert!(output.status.success(), "{}: {args:?}: {output:?}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The pods: one that serves and tells its lines, one that ended once, one that reads.
    #[track_caller]
    fn pods(&self) {
        let serve = "echo one; echo two; mkdir /site; echo served > /site/index.html; \
                     httpd -p 80 -h /site; trap 'exit 0' TERM; while :; do sleep 0.1; done";
        self.place.create(&self.place.shell(&self.pod("serves"), serve));
        let ends = "test -f /data/again && exec sleep 3600; touch /data/again; echo first; exit 3";
        let mut pod = self.place.shell(&self.pod("ends"), ends);
        pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data"}]);
        self.place.create(&pod);
        let reads = "while read line; do echo \"got $line\"; done";
        let mut pod = self.place.shell(&self.pod("reads"), reads);
        pod["spec"]["containers"][0]["stdin"] = json!(true);
        self.place.create(&pod);
        for name in ["serves", "reads"] {
            self.place.wait_ready(&self.pod(name));
        }
    }

    #[track_caller]
    fn logs(&self) {
        let serves = self.pod("serves");
        self.place.wait_line(&serves, "two\n");
        assert_eq!(self.told(&["logs", &serves], b""), "one\ntwo\n");
        assert_eq!(self.told(&["logs", "--tail=1", &serves], b""), "two\n");
        let followed = Run::spawn(self.command(&["logs", "-f", &self.pod("reads")]));
        self.attach("followed");
        followed.wait_line("got followed", SOON);
        let ends = self.pod("ends");
        self.place.wait_pod(&ends, "it runs again", |pod| {
            container(pod, "main")["state"]["running"].is_object()
                && container(pod, "main")["restartCount"] == 1
        });
        assert_eq!(self.told(&["logs", "--previous", &ends], b""), "first\n");
    }

    /// Says a line to the pod that reads and sees its answer.
    #[track_caller]
    fn attach(&self, line: &str) {
        let pod = self.pod("reads");
        let mut command = self.command(&["attach", "-i", &pod]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("kubectl");
        writeln!(child.stdin.as_ref().expect("piped"), "{line}").expect("it reads");
        // Its input stays open: the container's would end with it.
        let mut output = child.stdout.take().expect("piped");
        let (found, told) = std::sync::mpsc::channel();
        let wanted = format!("got {line}\n");
        std::thread::spawn(move || {
            let (mut text, mut chunk) = (Vec::new(), [0; 1024]);
            while let Ok(n @ 1..) = output.read(&mut chunk) {
                text.extend_from_slice(&chunk[..n]);
                if String::from_utf8_lossy(&text).contains(&wanted) {
                    let _ = found.send(());
                    break;
                }
            }
        });
        let answered = told.recv_timeout(SOON);
        let _ = child.kill();
        let _ = child.wait();
        answered.unwrap_or_else(|error| panic!("{}: attach: no answer: {error}", self.name));
    }

    #[track_caller]
    fn exec(&self) {
        let pod = self.pod("serves");
        let script = "echo out; echo err >&2; exit 7";
        let output = self.output(&["exec", &pod, "--", "sh", "-c", script], b"");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&output.stdout), "out\n", "{output:?}");
        assert!(text(&output.stderr).starts_with("err\n"), "{output:?}");
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let bytes: Vec<u8> = (0..COPIED).map(|n| (n % 251) as u8).collect();
        let output = self.output(&["exec", "-i", &pod, "--", "cat"], &bytes);
        assert!(output.stdout == bytes, "{} bytes of {COPIED}", output.stdout.len());
        let told = self.on_terminal(&["exec", "-it", &pod, "--", "sh", "-c", "tty; stty size"]);
        assert!(told.contains("/dev/pts/"), "{told:?}");
    }

    #[track_caller]
    fn copy(&self) {
        let pod = self.pod("serves");
        let dir = tempfile::tempdir().expect("made");
        let (from, back) = (dir.path().join("from"), dir.path().join("back"));
        let bytes: Vec<u8> = (0..COPIED).map(|n| (n * 7 % 253) as u8).collect();
        fs::write(&from, &bytes).expect("written");
        let remote = format!("{pod}:/tmp/copied");
        self.told(&["cp", &from.display().to_string(), &remote], b"");
        self.told(&["cp", &remote, &back.display().to_string()], b"");
        assert!(fs::read(back).expect("a file") == bytes, "it is another");
    }

    #[track_caller]
    fn forward(&self) {
        let run = Run::spawn(self.command(&["port-forward", &self.pod("serves"), ":80"]));
        let line = run.wait_line("Forwarding from 127.0.0.1:", SOON);
        let port = line.split("127.0.0.1:").nth(1).and_then(|text| text.split(' ').next());
        let port: u16 = port.and_then(|text| text.parse().ok()).expect("a port");
        for _ in 0..3 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            stream.set_read_timeout(Some(SOON)).expect("set");
            write!(stream, "GET / HTTP/1.0\r\n\r\n").expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.ends_with("served\n"), "{answer}");
        }
    }

    #[track_caller]
    fn debug(&self) {
        let pod = self.pod("serves");
        let image = format!("--image={BUSYBOX}");
        let args = ["debug", &pod, &image, "--profile=general", "--target=main", "-c", "looks"];
        self.told(&[&args[..], &["--", "sh", "-c", "ps; echo looked"]].concat(), b"");
        let is_ended = |pod: &Value| {
            let status = &pod["status"]["ephemeralContainerStatuses"][0];
            status["state"]["terminated"]["exitCode"] == 0
        };
        self.place.wait_pod(&pod, "its ephemeral container ended", is_ended);
        let log = self.told(&["logs", &pod, "-c", "looks"], b"");
        assert!(log.contains("httpd -p 80"), "the target's processes are seen: {log}");
        assert!(log.ends_with("looked\n"), "{log}");
    }
}

pub(crate) fn each_verb_works_with_old_and_new_kubectl(world: &World) {
    let place = Shared::shared(world);
    let (program, first) = old_kubectl();
    let columns = [
        Column { place: &place, program: kubernetes(), first: &["kubectl"], env: &[], name: "new" },
        Column { place: &place, program, first, env: &SPDY, name: "old" },
    ];
    std::thread::scope(|scope| {
        for column in &columns {
            scope.spawn(|| {
                column.pods();
                column.logs();
                column.exec();
                column.copy();
                column.forward();
                column.debug();
            });
        }
    });
    place.leave();
}
