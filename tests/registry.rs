//! A real registry (Debian's `docker-registry`), and a proxy before it that does what networks and
//! bad registries do.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::Run;

/// Far longer than a registry takes to start.
const STARTED: Duration = Duration::from_secs(30);
/// Longest silence of a connection of the proxy: a test that hangs fails by its own deadline.
const SILENCE: Duration = Duration::from_secs(60);

/// How a registry is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Certificate and key (PEM files): https alone.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// A name and a password that every request has to have.
    pub user: Option<(String, String)>,
}

/// A registry on loopback, gone with this value.
#[derive(Debug)]
pub struct Registry {
    // Dropped before its directory.
    _run: Run,
    dir: TempDir,
    address: SocketAddr,
}

impl Registry {
    /// An empty registry over plain HTTP, open to all.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// An empty registry.
    pub fn start_with(options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix("copepod-registry-").tempdir().expect("made");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: \
             true\nhttp:\n  addr: 127.0.0.1:0\n",
            at("data")
        );
        if let Some((certificate, key)) = &options.tls {
            config.push_str(&format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            ));
        }
        if let Some((user, password)) = &options.user {
            let line = Command::new("htpasswd")
                .args(["-Bbn", user, password])
                .output()
                .expect("htpasswd of apache2-utils is installed by `make setup`");
            fs::write(dir.path().join("htpasswd"), line.stdout).expect("written");
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                at("htpasswd")
            ));
        }
        fs::write(dir.path().join("config.yml"), config).expect("written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(at("config.yml")).current_dir(dir.path());
        // Nothing of it may come from here: REGISTRY_ variables change its configuration.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let run = Run::spawn(command);
        let line = run.wait_line("listening on ", STARTED);
        let address = line.split("listening on ").nth(1).expect("an address");
        let end = address.find(['"', ',', ' ']).unwrap_or(address.len());
        let address = address[..end].parse().expect("an address");
        Self { _run: run, dir, address }
    }

    /// Its host and port, as images name it.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Where it keeps the bytes of a blob (64 hex digits).
    pub fn blob_file(&self, hex: &str) -> PathBuf {
        let below = Path::new("data/docker/registry/v2/blobs/sha256").join(&hex[..2]);
        self.dir.path().join(below).join(hex).join("data")
    }
}

/// A request as it came to the proxy.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` and so on.
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What the proxy does with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Hands it on, and the answer back.
    Pass,
    /// Hands it on, and breaks the connection after so many bytes of the answer's body.
    Cut(u64),
    /// Hands it on, and changes the first byte of the answer's body.
    Spoil,
    /// Answers by itself: status line, headers and body, as they are.
    Answer(Vec<u8>),
}

/// An answer of the proxy's own: a status, headers, and a body.
pub fn answer(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Act {
    let body = body.as_ref();
    let length = body.len();
    let mut head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    Act::Answer([format!("{head}\r\n").as_bytes(), body].concat())
}

type Rule = dyn Fn(&Request) -> Act + Send + Sync;

/// What the proxy knows.
struct Shared {
    upstream: Option<SocketAddr>,
    rule: Box<Rule>,
    requests: Mutex<Vec<Request>>,
    served: AtomicU64,
    ended: AtomicBool,
}

/// A proxy on loopback, gone with this value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Before a registry; what it does with each request is the rule's to say.
    pub fn start(
        upstream: &Registry,
        rule: impl Fn(&Request) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(upstream.address), rule)
    }

    /// Before nothing: the rule answers all.
    pub fn alone(rule: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Self {
        Self::listen(None, rule)
    }

    fn listen(
        upstream: Option<SocketAddr>,
        rule: impl Fn(&Request) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream,
            rule: Box::new(rule),
            requests: Mutex::default(),
            served: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if of_thread.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&of_thread);
                // Who breaks off is served as far as that went.
                thread::spawn(move || drop(serve(&shared, client)));
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Its host and port, as images name it.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of bodies that were handed back so far.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request of one connection.
fn serve(shared: &Shared, client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    let mut from = BufReader::new(client.try_clone()?);
    let mut to = client.try_clone()?;
    let (first, headers) = head(&mut from)?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let request = Request { method, path, headers };
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let act = (shared.rule)(&request);
    if let Act::Answer(bytes) = act {
        io::copy(&mut from.take(length), &mut io::sink())?;
        to.write_all(&bytes)?;
        return client.shutdown(Shutdown::Both);
    }
    let upstream = TcpStream::connect(shared.upstream.ok_or(io::ErrorKind::NotConnected)?)?;
    let mut forward = format!("{first}\r\n");
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
        forward.push_str(&format!("{name}: {value}\r\n"));
    }
    (&upstream).write_all(format!("{forward}connection: close\r\n\r\n").as_bytes())?;
    io::copy(&mut from.take(length), &mut &upstream)?;
    let mut back = BufReader::new(&upstream);
    let (first, headers) = head(&mut back)?;
    let mut text = format!("{first}\r\n");
    for (name, value) in &headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    to.write_all(format!("{text}\r\n").as_bytes())?;
    let max = if let Act::Cut(max) = act { max } else { u64::MAX };
    let mut body = back.take(max);
    let mut chunk = [0; 8192];
    let mut spoil = matches!(act, Act::Spoil);
    loop {
        let read = body.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        if std::mem::take(&mut spoil) {
            chunk[0] ^= 0xff;
        }
        to.write_all(&chunk[..read])?;
        shared.served.fetch_add(read as u64, Ordering::SeqCst);
    }
    client.shutdown(Shutdown::Both)
}

/// The first line, and the headers.
fn head(from: &mut impl BufRead) -> io::Result<(String, Vec<(String, String)>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let first = lines.next().unwrap_or_default();
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Ok((first, headers.collect()))
}
