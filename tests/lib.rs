//! What the integration tests and the benches share: where the programs and guests are, waiting
//! for a predicate, running `copepod` as a user would, in temporary directories of its own, and a
//! real cluster.

pub mod bomb;
pub mod cluster;
pub mod cri_faults;
pub mod driver;
pub mod https;
pub mod registry;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// Time between two looks at a predicate: short against anything a test waits for, long enough to
/// leave two cores to what it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Bytes kept of each output stream of a program; the rest is read and dropped, so that a program
/// that floods its output fails its test and not the machine.
pub const OUTPUT_LIMIT: usize = 16 << 20;

/// Bytes of each output stream shown when a wait fails.
const SHOWN: usize = 4096;

fn variable(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => value.into(),
        None => {
            panic!("{name} is not set: run the tests by `make test`, which builds what it names")
        }
    }
}

/// The agent's program, as `make build` made it (`COPEPOD`).
pub fn copepod() -> PathBuf {
    variable("COPEPOD")
}

/// The sandbox's program, static and without a compiler (`COPEPOD_SANDBOX`).
pub fn sandbox() -> PathBuf {
    variable("COPEPOD_SANDBOX")
}

/// The Wasm file of a guest of `wasm-examples` (`COPEPOD_GUESTS`): `hello`, or `hello-p2` for the
/// one of WASI 0.2 in the same folder.
pub fn guest(name: &str) -> PathBuf {
    let folder = name.strip_suffix("-p2").unwrap_or(name);
    let file = variable("COPEPOD_GUESTS").join(folder).join(format!("{name}.wasm"));
    assert!(file.is_file(), "{} is missing: run the tests by `make test`", file.display());
    file
}

/// The Linux program, static, of a guest that is built as one too: `actor`.
pub fn guest_program(name: &str) -> PathBuf {
    let file = variable("COPEPOD_GUESTS").join(name).join(name);
    assert!(file.is_file(), "{} is missing: run the tests by `make test`", file.display());
    file
}

/// The pod file of a guest, by the same names as [`guest`].
pub fn pod_file(name: &str) -> PathBuf {
    let file = if name.ends_with("-p2") { "pod-p2.yaml" } else { "pod.yaml" };
    guest(name).with_file_name(file)
}

/// Waits until `holds` gives true; fails the test, naming `what`, if it does not `within` the time.
#[track_caller]
pub fn wait_until(within: Duration, what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(within, holds), "not within {within:?}: {what}");
}

/// Looks at a predicate until it holds: true, or false once the time is over (a last look is taken
/// then, so that a slow machine does not lose what is already there).
pub fn holds_within(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        let last = Instant::now() >= end;
        if holds() {
            return true;
        }
        if last {
            return false;
        }
        thread::park_timeout(LOOK_EVERY);
    }
}

/// Lets so much time pass, where time itself is what is tested: a fault that comes at a moment, an
/// absence that is to last. `_why` says which to who reads the test.
pub fn let_pass(time: Duration, _why: &'static str) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        thread::park_timeout(left);
    }
}

/// The directories of one user of `copepod`, gone with this value: home, runtime, state and
/// temporary files. Several runs may share one, one after the other or at the same time.
///
/// The cache of compiled Wasm is shared by all tests of this checkout (it lies in `target/`), since
/// an artefact is named by its content; [`Home::with_empty_cache`] has its own.
#[derive(Debug)]
pub struct Home {
    root: TempDir,
    cache: PathBuf,
}

impl Home {
    /// New, empty directories.
    pub fn new() -> Self {
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-cache");
        Self::with_cache(Some(cache))
    }

    /// New, empty directories, the cache too: for what compiles.
    pub fn with_empty_cache() -> Self {
        Self::with_cache(None)
    }

    fn with_cache(cache: Option<PathBuf>) -> Self {
        let root = tempfile::Builder::new()
            .prefix("copepod-test-") // short: a socket's path in it has at most 107 bytes
            .tempdir()
            .expect("a temporary directory");
        let cache = cache.unwrap_or_else(|| root.path().join("cache"));
        let home = Self { root, cache };
        for dir in [&home.path().join("home"), &home.run(), &home.state(), &home.tmp(), &home.cache]
        {
            fs::create_dir_all(dir).expect("a directory for the test");
        }
        home
    }

    /// The directory that all but a shared cache lies in. No other test has it, so whatever names
    /// it (a process's arguments, a mount, a socket) belongs to this one.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// `XDG_RUNTIME_DIR`.
    pub fn run(&self) -> PathBuf {
        self.path().join("run")
    }

    /// `XDG_STATE_HOME`.
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// `TMPDIR`.
    pub fn tmp(&self) -> PathBuf {
        self.path().join("tmp")
    }

    /// `XDG_CACHE_HOME`.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A command for `program` with the environment of this user and nothing else but PATH, in the
    /// folder [`Home::path`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.run())
            .env("XDG_STATE_HOME", self.state())
            .env("XDG_CACHE_HOME", &self.cache)
            .env("TMPDIR", self.tmp())
            .current_dir(self.path());
        command
    }

    /// `copepod ARGS` as this user. Each call is one process; drop or [`Run::wait`] ends it.
    pub fn copepod<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        let mut command = self.command(copepod());
        command.args(args);
        Run::spawn(command)
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// What a reading thread has taken from one output stream.
#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    closed: bool,
}

type Stream = Arc<Mutex<Captured>>;

fn lock(stream: &Stream) -> MutexGuard<'_, Captured> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

fn capture(mut from: impl Read + Send + 'static) -> Stream {
    let stream = Stream::default();
    let to = Arc::clone(&stream);
    thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            let mut held = lock(&to);
            let room = OUTPUT_LIMIT.saturating_sub(held.bytes.len());
            held.bytes.extend_from_slice(&chunk[..n.min(room)]);
        }
        lock(&to).closed = true;
    });
    stream
}

/// A running program, in a process group of its own, whose output is read as it comes.
///
/// When this value is dropped and was not waited for, or the test fails, the whole group gets
/// SIGKILL.
#[derive(Debug)]
pub struct Run {
    child: Child,
    group: Pid,
    ended: bool,
    stdout: Stream,
    stderr: Stream,
}

impl Run {
    /// Starts `command` with an empty standard input.
    pub fn spawn(command: Command) -> Self {
        Self::spawn_with_input(command, "")
    }

    /// Starts `command` with `input` as its standard input.
    pub fn spawn_with_input(mut command: Command, input: impl Into<Vec<u8>>) -> Self {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.into();
        thread::spawn(move || stdin.write_all(&input)); // one that ends early need not read it all
        let stdout = capture(child.stdout.take().expect("piped"));
        let stderr = capture(child.stderr.take().expect("piped"));
        let group = Pid::from_child(&child);
        Self { child, group, ended: false, stdout, stderr }
    }

    /// Its process id, which is also its group's.
    pub fn pid(&self) -> Pid {
        self.group
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&lock(&self.stdout).bytes).into_owned()
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&lock(&self.stderr).bytes).into_owned()
    }

    /// Waits for a whole line of either stream that has `text` in it, and gives that line. Fails
    /// the test, showing the output, if none comes `within` the time.
    #[track_caller]
    pub fn wait_line(&self, text: &str, within: Duration) -> String {
        let mut found = None;
        let came = holds_within(within, || {
            found = line_with(&self.stdout(), text).or_else(|| line_with(&self.stderr(), text));
            found.is_some()
        });
        assert!(came, "no line with {text:?} within {within:?}{}", self.shown());
        found.unwrap_or_default()
    }

    /// Sends a signal to the program alone, not to its group; not after [`Run::wait`].
    pub fn signal(&self, signal: Signal) {
        kill_process(self.group, signal).expect("it is not waited for, so its pid is its own");
    }

    /// Waits for its end, and for the end of its output, which nobody may hold longer than the
    /// program lives (not looked at after SIGKILL, where its children may be left).
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let mut ended = None;
        let came = holds_within(within, || {
            ended = self.child.try_wait().expect("a child of ours");
            let killed = ended.is_some_and(|status| status.signal() == Some(9));
            let closed = || lock(&self.stdout).closed && lock(&self.stderr).closed;
            ended.is_some() && (killed || closed())
        });
        match ended {
            Some(status) if came => {
                self.ended = true;
                status
            }
            Some(_) => panic!("its output is still held after its end{}", self.shown()),
            None => panic!("it did not end within {within:?}{}", self.shown()),
        }
    }

    /// Waits as [`Run::wait`] does and gives all of its output.
    #[track_caller]
    pub fn output(mut self, within: Duration) -> Output {
        let status = self.wait(within);
        let take = |stream| std::mem::take(&mut lock(stream).bytes);
        Output { status, stdout: take(&self.stdout), stderr: take(&self.stderr) }
    }

    fn shown(&self) -> String {
        let tail = |text: String| {
            let from = text.ceil_char_boundary(text.len().saturating_sub(SHOWN));
            text[from..].to_owned()
        };
        format!("\n--- stdout\n{}\n--- stderr\n{}\n---", tail(self.stdout()), tail(self.stderr()))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What is left in its group when it was waited for is the leak guard's to find.
        if !self.ended || thread::panicking() {
            let _ = kill_process_group(self.group, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The first whole line of `output` that has `text` in it.
fn line_with(output: &str, text: &str) -> Option<String> {
    let whole = &output[..output.rfind('\n')?];
    whole.lines().find(|line| line.contains(text)).map(str::to_owned)
}
