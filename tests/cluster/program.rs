//! Programs that outlive the thread that started them and not the process.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::holds_within;

/// Bytes shown of the end of a log.
const TAIL: usize = 6000;

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a command from a thread that never ends: the kernel's "die with your parent" means the
/// thread, and a test's thread ends with its test.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, received) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = channel();
    spawner.send((command, answer)).expect("the spawner never ends");
    child.recv().expect("the spawner never ends")
}

/// A program with its output in a log file. It gets SIGKILL when this process ends or this value is
/// dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Program {
    /// Starts `program ARGS` in the folder with this environment and PATH alone; its output is
    /// added to the end of `log`.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[String],
        env: &[(String, String)],
        log: &Path,
    ) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("a log file");
        // No code of ours between fork and exec: setpriv becomes the program.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(log.parent().expect("it lies in a folder"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output);
        let child = spawn(command)
            .unwrap_or_else(|error| panic!("cannot start {name} by setpriv: {error}"));
        Self { name: name.into(), child, log: log.into(), ended: None }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child of ours");
        }
        self.ended
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        holds_within(within, || self.ended().is_some());
        self.ended
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill_process(self.pid(), signal).expect("not waited for, so its pid is its own");
        }
    }

    /// Ends it by SIGTERM; by SIGKILL if it is still there after this time, and then says so.
    pub fn stop(&mut self, within: Duration) -> bool {
        self.signal(Signal::TERM);
        let asked = self.wait(within).is_some();
        if !asked {
            eprintln!("{} did not end within {within:?} of SIGTERM", self.name);
            self.kill();
        }
        asked
    }

    /// Ends it by SIGKILL and waits for that.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of a file's text.
pub fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let from = text.ceil_char_boundary(text.len().saturating_sub(TAIL));
    text[from..].to_owned()
}
