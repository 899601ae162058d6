//! Starts sandbox processes as the agent does, for what has to be seen without one.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use copepod_wasm::frame::{self, Attached, FromSandbox, HEADER_LEN, MAX_FROM_SANDBOX, ToSandbox};
use copepod_wasm::state::{Exit, StateFile};
use copepod_wasm::{Description, GuestKind, Stdin};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;

/// How long any one answer of a sandbox may take.
const ANSWER: Duration = Duration::from_secs(20);

/// One sandbox process, killed when this is dropped.
pub struct Sandbox {
    child: Child,
    stream: UnixStream,
    dir: TempDir,
}

/// What describes the guest in `artefact` with nothing but its name: no limit, no file, no user.
#[must_use]
pub fn describe(artefact: &Path, kind: GuestKind) -> Description {
    Description {
        artefact: artefact.into(),
        kind,
        args: vec!["guest".into()],
        env: Vec::new(),
        preopens: Vec::new(),
        mounts: Vec::new(),
        streams: false,
        stdin: Stdin::Closed,
        user: None,
        cgroups: Vec::new(),
        oom_score_adj: None,
        network: None,
        memory_limit_bytes: None,
        log_limit_bytes: 10 << 20,
        listen: Vec::new(),
        grace_seconds: 30,
        die_with_agent: true,
    }
}

impl Sandbox {
    /// Starts the sandbox program; its process joins the control group whose `cgroup.procs` is
    /// given before it becomes the program.
    ///
    /// # Errors
    /// Any step's.
    pub fn start(description: Description, procs: Option<&Path>) -> Result<Self> {
        let mut sandbox = Self::spawn(procs)?;
        sandbox.stream.write_all(&ToSandbox::Describe(Box::new(description)).encode()?)?;
        Ok(sandbox)
    }

    /// Starts the sandbox program for an exec, with these standard streams of the guest.
    ///
    /// # Errors
    /// Any step's.
    pub fn exec(mut description: Description, streams: [OwnedFd; 3]) -> Result<Self> {
        let mut sandbox = Self::spawn(None)?;
        description.streams = true;
        let frame = ToSandbox::Describe(Box::new(description)).encode()?;
        let (head, rest) = frame.split_at(HEADER_LEN);
        send(&sandbox.stream, head, &streams.each_ref().map(OwnedFd::as_fd))?;
        sandbox.stream.write_all(rest)?;
        Ok(sandbox)
    }

    /// Connects these pipes to the guest's streams beside what they have.
    ///
    /// # Errors
    /// The socket's.
    pub fn attach(&self, ends: [Option<OwnedFd>; 3]) -> Result<()> {
        let [stdin, stdout, stderr] = ends.each_ref().map(Option::is_some);
        let frame = ToSandbox::Attach(Attached { stdin, stdout, stderr }).encode()?;
        let ends: Vec<BorrowedFd<'_>> = ends.iter().flatten().map(OwnedFd::as_fd).collect();
        send(&self.stream, &frame, &ends)?;
        Ok(())
    }

    /// Starts the sandbox program and tells it nothing.
    ///
    /// # Errors
    /// Any step's.
    pub fn untold() -> Result<Self> {
        Self::spawn(None)
    }

    fn spawn(procs: Option<&Path>) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory")?;
        let id = "0123456789abcdef".repeat(4);
        let state = StateFile::create(&dir.path().join("state"), &id)?;
        let state = state.context("the state file is locked")?;
        let log = File::options().create(true).append(true).open(dir.path().join("log"))?;
        let socket = dir.path().join("sock");
        let listener = UnixListener::bind(&socket).context("bind")?;
        let stream = UnixStream::connect(&socket).context("connect")?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut command = match procs {
            None => Command::new(crate::sandbox()),
            Some(procs) => {
                // A shell joins the group and becomes the program: no code of ours after a fork.
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg("echo $$ > \"$1\" && exec \"$0\"");
                shell.arg(crate::sandbox()).arg(procs);
                shell
            }
        };
        let child = command
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::from(OwnedFd::from(state)))
            .stderr(Stdio::from(log))
            .spawn()
            .context("run the sandbox")?;
        Ok(Self { child, stream, dir })
    }

    /// The sandbox's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log, as it stands in the file.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The next frame; `None` when the sandbox has closed its connection.
    ///
    /// # Errors
    /// Those of the socket and of a malformed frame.
    pub fn frame(&mut self) -> Result<Option<FromSandbox>> {
        let mut head = [0; HEADER_LEN];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e).context("read a frame"),
        }
        let (kind, len) = frame::header(head, MAX_FROM_SANDBOX)?;
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload)?;
        Ok(Some(FromSandbox::decode(kind, payload)?))
    }

    /// Waits until the guest is started.
    ///
    /// # Errors
    /// When the sandbox says anything else.
    pub fn started(&mut self) -> Result<()> {
        match self.frame()? {
            Some(FromSandbox::Started) => Ok(()),
            other => bail!("expected that the guest starts, got {other:?}"),
        }
    }

    /// Hands over a new log, as a rotation does.
    ///
    /// # Errors
    /// That of the socket.
    pub fn new_log(&self, log: &File) -> Result<()> {
        send(&self.stream, &ToSandbox::Log.encode()?, &[log.as_fd()])
    }

    /// Closes the connection and waits for the end, as [`Sandbox::wait`].
    ///
    /// # Errors
    /// As [`Sandbox::wait`].
    pub fn wait_untold(self) -> Result<(ExitStatus, Option<Exit>)> {
        self.stream.shutdown(std::net::Shutdown::Both)?;
        self.wait()
    }

    /// Waits for the end and gives the wait status and the exit record.
    ///
    /// # Errors
    /// Those of the wait and of the state file.
    pub fn wait(mut self) -> Result<(ExitStatus, Option<Exit>)> {
        let status = self.child.wait().context("wait")?;
        let exit = StateFile::open(&self.dir.path().join("state"))?.exit()?;
        Ok((status, exit))
    }
}

/// Sends bytes of a frame with descriptors, three at most.
fn send(to: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        bail!("{} descriptors do not fit", fds.len());
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Gone already: nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
