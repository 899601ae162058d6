//! The control plane: four programs of one run, with certificates and ports of their own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::api::Api;
use crate::cluster::pki::Authority;
use crate::cluster::program::{Program, tail};
use crate::cluster::{free_port, kubernetes, leaks};
use crate::https::{Client, Identity};
use crate::{LOOK_EVERY, Run, holds_within};

/// It takes 5 s on an idle machine.
const STARTED: Duration = Duration::from_secs(120);
/// How long a program may take to end when asked: the API server first ends what it answers.
const STOPPED: Duration = Duration::from_secs(20);
/// How long the API server is left to its own way of ending, when it is stopped alone: it would wait
/// for a minute for those that watch it, who are not asked to go.
const DRAINED: Duration = Duration::from_secs(2);
/// Starts again on other ports, if another process took one of those that were free.
const TRIES: usize = 3;
/// Between two looks at the API server.
const ASK_EVERY: Duration = Duration::from_millis(30);
/// Loopback.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a control plane is started with beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More arguments of the API server; a flag said twice counts as said last.
    pub api_server: Vec<String>,
    /// More arguments of the controller manager.
    pub controller_manager: Vec<String>,
}

/// A running control plane, ended with this value: etcd last, since an API server without it hangs.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order of their ends.
    scheduler: Mutex<Program>,
    controller_manager: Mutex<Program>,
    api_server: Mutex<Program>,
    etcd: Mutex<Program>,
    setup: Setup,
    admin: Api,
}

/// What is there before any program runs.
#[derive(Debug)]
struct Setup {
    dir: TempDir,
    authority: Authority,
    port: u16,
    etcd_ports: [u16; 2],
    options: Options,
}

impl Setup {
    fn new(options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix(&leaks::prefix()).tempdir().expect("made");
        let authority = Authority::new("copepod-test");
        let setup = Self {
            dir,
            authority,
            port: free_port(HOST),
            etcd_ports: [free_port(HOST), free_port(HOST)],
            options: options.clone(),
        };
        fs::create_dir(setup.file("home")).expect("made");
        setup.write("ca.crt", setup.authority.certificate());
        setup.write("ca.key", setup.authority.key());
        let hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let addresses = ["kubernetes.default.svc.cluster.local", "127.0.0.1", "10.96.0.1"];
        let server = setup.authority.server("kube-apiserver", &[&hosts[..], &addresses].concat());
        setup.identity("apiserver", &server);
        let masters = &["system:masters"];
        let kubelet_client = setup.authority.client("kube-apiserver-kubelet-client", masters);
        setup.identity("kubelet-client", &kubelet_client);
        let key = KeyPair::generate().expect("a key");
        setup.write("sa.key", &key.serialize_pem());
        setup.write("sa.pub", &key.public_key_pem());
        setup.kubeconfig("admin", &setup.authority.client("admin", masters));
        for name in ["kube-controller-manager", "kube-scheduler"] {
            setup.kubeconfig(name, &setup.authority.client(&format!("system:{name}"), &[]));
        }
        setup
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("written");
    }

    fn identity(&self, name: &str, identity: &Identity) {
        self.write(&format!("{name}.crt"), &identity.certificate);
        self.write(&format!("{name}.key"), &identity.key);
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(HOST, self.port)
    }

    fn kubeconfig(&self, name: &str, identity: &Identity) -> PathBuf {
        let ca = self.authority.certificate();
        let text = kubeconfig(self.address(), ca, identity).to_string();
        let file = self.file(&format!("{name}.kubeconfig"));
        fs::write(&file, text).expect("written");
        file
    }

    fn client(&self, identity: &Identity) -> Client {
        Client::new(self.address(), Some(self.authority.certificate()), Some(identity))
    }

    fn start(&self, name: &str, program: &Path, args: &[String]) -> Program {
        let home = self.file("home").display().to_string();
        let log = self.file(&format!("{name}.log"));
        Program::start(name, program, args, &[("HOME".into(), home)], &log)
    }

    fn etcd(&self) -> Program {
        let [client, peer] = self.etcd_ports;
        let args = [
            format!("--data-dir={}", self.file("etcd").display()),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            "--unsafe-no-fsync".into(),
        ];
        self.start("etcd", Path::new("etcd"), &args)
    }

    fn kubernetes(&self, name: &str, args: Vec<String>, more: &[String]) -> Program {
        let args = [vec![name.to_owned()], args, more.to_vec()].concat();
        self.start(name, &kubernetes(), &args)
    }

    fn api_server(&self) -> Program {
        let at = |name: &str| self.file(name).display().to_string();
        let args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_ports[0]),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            // Loopback is refused as an endpoint of the service `kubernetes`, which is made anyway.
            "--endpoint-reconciler-type=none".into(),
            format!("--tls-cert-file={}", at("apiserver.crt")),
            format!("--tls-private-key-file={}", at("apiserver.key")),
            format!("--client-ca-file={}", at("ca.crt")),
            format!("--kubelet-client-certificate={}", at("kubelet-client.crt")),
            format!("--kubelet-client-key={}", at("kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
            format!("--service-account-key-file={}", at("sa.pub")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--enable-bootstrap-token-auth=true".into(),
            "--allow-privileged=true".into(),
        ];
        self.kubernetes("kube-apiserver", args, &self.options.api_server)
    }

    fn controller_manager(&self) -> Program {
        let at = |name: &str| self.file(name).display().to_string();
        let args = vec![
            format!("--kubeconfig={}", at("kube-controller-manager.kubeconfig")),
            format!("--service-account-private-key-file={}", at("sa.key")),
            format!("--root-ca-file={}", at("ca.crt")),
            format!("--cluster-signing-cert-file={}", at("ca.crt")),
            format!("--cluster-signing-key-file={}", at("ca.key")),
            "--use-service-account-credentials=true".into(),
            "--leader-elect=false".into(),
            "--controllers=*,bootstrapsigner,tokencleaner".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", free_port(HOST)),
        ];
        self.kubernetes("kube-controller-manager", args, &self.options.controller_manager)
    }

    fn scheduler(&self) -> Program {
        let kubeconfig = self.file("kube-scheduler.kubeconfig");
        let args = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", free_port(HOST)),
        ];
        self.kubernetes("kube-scheduler", args, &[])
    }
}

/// A kubeconfig (JSON is YAML) of one user of one cluster.
pub fn kubeconfig(server: SocketAddr, ca: &str, identity: &Identity) -> Value {
    use base64::Engine as _;
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{server}"),
            "certificate-authority-data": base64(ca),
        }}],
        "users": [{"name": "user", "user": {
            "client-certificate-data": base64(&identity.certificate),
            "client-key-data": base64(&identity.key),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    })
}

fn lock(program: &Mutex<Program>) -> MutexGuard<'_, Program> {
    program.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ControlPlane {
    /// Starts one and waits until it serves: API server, the namespace `default` with its service
    /// account, which the controller manager makes.
    #[track_caller]
    pub fn start(options: &Options) -> Self {
        leaks::sweep();
        for _ in 1..TRIES {
            match Self::try_start(options) {
                Ok(plane) => return plane,
                Err(error) if error.contains("address already in use") => {
                    eprintln!("once more: {error}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        Self::try_start(options).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_start(options: &Options) -> Result<Self, String> {
        let setup = Setup::new(options);
        let admin = Api(setup.client(&setup.authority.client("admin", &["system:masters"])));
        let mut etcd = setup.etcd();
        let mut api_server = setup.api_server();
        ready(&admin, &mut [&mut etcd, &mut api_server])?;
        let plane = Self {
            controller_manager: Mutex::new(setup.controller_manager()),
            scheduler: Mutex::new(setup.scheduler()),
            etcd: Mutex::new(etcd),
            api_server: Mutex::new(api_server),
            setup,
            admin,
        };
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        let made = holds_within(STARTED, || {
            std::thread::park_timeout(ASK_EVERY);
            plane.admin.0.get(account).is_ok_and(|(code, _)| code == 200)
                || lock(&plane.controller_manager).ended().is_some()
                || lock(&plane.scheduler).ended().is_some()
        });
        let ended = |program| lock(program).ended().map(|_| lock(program).tail());
        match ended(&plane.controller_manager).or_else(|| ended(&plane.scheduler)) {
            Some(tail) => Err(tail),
            None if made => Ok(plane),
            None => Err(format!("no service account:\n{}", lock(&plane.controller_manager).tail())),
        }
    }

    /// The directory of all that this control plane and its nodes have.
    pub fn dir(&self) -> &Path {
        self.setup.dir.path()
    }

    /// Where the API server is.
    pub fn address(&self) -> SocketAddr {
        self.setup.address()
    }

    /// The cluster's authority, which signs for all its users.
    pub fn authority(&self) -> &Authority {
        &self.setup.authority
    }

    /// The API server as its admin sees it.
    pub fn api(&self) -> &Api {
        &self.admin
    }

    /// The API server as a user in a group sees it.
    pub fn api_as(&self, user: &str, groups: &[&str]) -> Api {
        Api(self.setup.client(&self.setup.authority.client(user, groups)))
    }

    /// The identity of the API server when it asks a node.
    pub fn kubelet_client(&self) -> Identity {
        self.setup.authority.client("kube-apiserver-kubelet-client", &["system:masters"])
    }

    /// A kubeconfig of the node by this name, and no rights beyond it.
    pub fn node_kubeconfig(&self, node: &str) -> PathBuf {
        self.user_kubeconfig(&format!("system:node:{node}"), &["system:nodes"])
    }

    /// A kubeconfig of a user in a group.
    pub fn user_kubeconfig(&self, user: &str, groups: &[&str]) -> PathBuf {
        let identity = self.setup.authority.client(user, groups);
        self.setup.kubeconfig(&user.replace([':', '/'], "-"), &identity)
    }

    /// `kubectl ARGS` as the admin, not started yet.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        self.as_admin(&kubernetes(), &[&["kubectl"], args].concat())
    }

    /// `PROGRAM ARGS` with the admin's kubeconfig, not started yet.
    pub fn as_admin(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.setup.file("home"))
            .env("KUBECONFIG", self.setup.file("admin.kubeconfig"))
            .current_dir(self.dir());
        command
    }

    /// `kubectl ARGS` to its end.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Output {
        Run::spawn(self.kubectl_command(args)).output(STARTED)
    }

    /// `kubectl ARGS` to its end, which has to be a good one; its standard output.
    #[track_caller]
    pub fn told(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        assert!(output.status.success(), "kubectl {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kubectl apply -f -` of these objects; what it says.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        let run = Run::spawn_with_input(self.kubectl_command(&["apply", "-f", "-"]), yaml);
        let output = run.output(STARTED);
        assert!(output.status.success(), "{yaml}\n{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until `found` gives something; fails the test if nothing comes `within` the time, with
    /// what the cluster looks like then and with `more`.
    #[track_caller]
    pub fn wait<T>(
        &self,
        within: Duration,
        what: &str,
        more: impl FnOnce() -> String,
        mut found: impl FnMut() -> Option<T>,
    ) -> T {
        let end = Instant::now() + within;
        loop {
            if let Some(value) = found() {
                return value;
            }
            if Instant::now() >= end {
                panic!("not within {within:?}: {what}\n{}\n{}", self.shown(), more());
            }
            std::thread::park_timeout(ASK_EVERY.max(LOOK_EVERY));
        }
    }

    /// What the cluster looks like, for who looks for a fault.
    pub fn shown(&self) -> String {
        if lock(&self.api_server).ended().is_some() {
            return format!("the API server is stopped:\n{}", lock(&self.api_server).tail());
        }
        let mut text = String::new();
        for args in [
            &["get", "nodes,pods", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
        ] {
            let output = self.kubectl(args);
            text.push_str(&format!("$ kubectl {}\n", args.join(" ")));
            text.push_str(&String::from_utf8_lossy(&output.stdout));
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        text
    }

    /// The end of the log of one of the four programs.
    pub fn log(&self, program: &str) -> String {
        tail(&self.setup.file(&format!("{program}.log")))
    }

    /// Ends the API server: it says so to its clients, then connections break and nobody listens any
    /// more.
    pub fn stop_api_server(&self) {
        let mut program = lock(&self.api_server);
        program.signal(Signal::TERM);
        program.wait(DRAINED);
        program.kill();
    }

    /// Kills the API server.
    pub fn kill_api_server(&self) {
        lock(&self.api_server).kill();
    }

    /// Starts the API server again, on its port, and waits until it serves.
    #[track_caller]
    pub fn start_api_server(&self) {
        let mut program = lock(&self.api_server);
        assert!(program.ended().is_some(), "it is running");
        *program = self.setup.api_server();
        ready(&self.admin, &mut [&mut program]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Holds the API server still: its connections stay open and nothing is answered.
    pub fn pause(&self) {
        lock(&self.api_server).signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        lock(&self.api_server).signal(Signal::CONT);
    }

    /// Ends all programs, and fails the test if one has to be killed or leaves something.
    #[track_caller]
    pub fn finish(&self) {
        let dir = self.dir().to_owned();
        let port = self.address();
        let well = self.end();
        let left = leaks::settled(|| {
            let mut left: Vec<String> =
                leaks::processes(&dir).into_iter().map(|(_, about)| about).collect();
            left.extend(leaks::mounts_and_sockets(&dir));
            left.extend(std::net::TcpStream::connect(port).map(|_| format!("listens: {port}")));
            left.extend(dir.exists().then(|| format!("directory: {}", dir.display())));
            left
        });
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        assert!(well, "a program did not end when asked, see above");
    }

    /// Ends all programs and removes their directory: whether none had to be killed.
    pub fn end(&self) -> bool {
        self.resume();
        let order = [&self.scheduler, &self.controller_manager, &self.api_server, &self.etcd];
        // Not the first of them that fails: all.
        let well = order.map(|program| lock(program).stop(STOPPED)).iter().all(|well| *well);
        let _ = fs::remove_dir_all(self.dir());
        well
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until the API server serves; the end of a log if one of the programs ends before.
fn ready(admin: &Api, programs: &mut [&mut Program]) -> Result<(), String> {
    let mut ended = None;
    let came = holds_within(STARTED, || {
        std::thread::park_timeout(ASK_EVERY);
        ended = programs.iter_mut().find_map(|p| p.ended().map(|_| p.tail()));
        ended.is_some() || admin.0.get("/readyz").is_ok_and(|(code, _)| code == 200)
    });
    match ended {
        Some(tail) => Err(tail),
        None if came => Ok(()),
        None => {
            Err(format!("not ready:\n{}", programs.last().map_or_else(String::new, |p| p.tail())))
        }
    }
}
