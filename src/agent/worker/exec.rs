//! What is asked of a running pod over the server: commands, streams, connections. It changes no pod,
//! so no worker decides of it.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use copepod_wasm::GuestKind;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use rustix::net::AddressFamily;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Shared, blocking};
use crate::linux::network;
use crate::runtime::{Attach, Exec, ExecError, ExecExit, ExecOutput, Runtime, StreamRequest};

/// How long a connection within a pod may take to be made: nothing but a full backlog holds it up.
const CONNECT: Duration = Duration::from_secs(10);

/// The pod that is asked of: its object and its status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) status: &'a PodStatus,
}

impl Asked<'_> {
    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The id of the container if it runs.
    fn running(&self, name: &str) -> Result<String, ExecError> {
        running_id(self.status, name).ok_or_else(|| ExecError::NotRunning(name.into()))
    }
}

impl<R: Runtime> Shared<R> {
    /// Runs `command` in the container `name`, as the pod's status has it, and waits for its
    /// end: the Wasm file of the container's image that its first word names, else the container's
    /// own. Dropped before, the command is killed.
    ///
    /// # Errors
    /// As [`Runtime::exec`]; [`ExecError::Start`] as well for a file that cannot be compiled.
    pub(crate) async fn exec(
        &self,
        asked: Asked<'_>,
        name: &str,
        command: Vec<String>,
        streams: [OwnedFd; 3],
    ) -> Result<ExecExit, ExecError> {
        let id = asked.running(name)?;
        let artefact = self.file_of(&id, &command).await?;
        self.runtime.exec(&id, Exec { command, artefact, streams }).await
    }

    /// The Wasm file of the container's image that the command's first word names, if it is one.
    async fn file_of(
        &self,
        id: &str,
        command: &[String],
    ) -> Result<Option<(PathBuf, GuestKind)>, ExecError> {
        let word = command.first().ok_or(ExecError::NoCommand)?;
        let Some(programs) = self.runtime.programs(id) else { return Ok(None) };
        let file = self.images.program(&programs, word).await;
        file.map_err(|error| ExecError::Start(Box::new(error)))
    }

    /// Connects the container `name` to pipes and waits for its end.
    ///
    /// # Errors
    /// As [`Runtime::attach`].
    pub(crate) async fn attach(
        &self,
        asked: Asked<'_>,
        name: &str,
        attach: Attach,
    ) -> Result<(), ExecError> {
        self.runtime.attach(&asked.running(name)?, attach).await
    }

    /// Where the runtime of the container `name` streams what is asked for, if it does.
    ///
    /// # Errors
    /// As [`Runtime::stream_url`].
    pub(crate) async fn stream_url(
        &self,
        asked: Asked<'_>,
        name: &str,
        request: StreamRequest,
    ) -> Result<Option<String>, ExecError> {
        match asked.running(name) {
            Ok(id) => self.runtime.stream_url(&id, &request).await,
            // Said over the streams, with which a client may wait.
            Err(_) => Ok(None),
        }
    }

    /// Where the pod's runtime forwards its ports, if it does.
    ///
    /// # Errors
    /// As [`Runtime::port_forward_url`].
    pub(crate) async fn port_forward_url(
        &self,
        asked: Asked<'_>,
        ports: &[u16],
    ) -> Result<Option<String>, ExecError> {
        self.runtime.port_forward_url(asked.uid(), ports).await
    }

    /// Runs `command` in the container `name`, as the pod's status has it, and gives what it wrote,
    /// at most `limit` bytes of each stream. What takes longer than `within` (zero: no limit) is killed.
    ///
    /// # Errors
    /// As [`Shared::exec`]; [`ExecError::TimedOut`] for one that took too long.
    pub(crate) async fn exec_sync(
        &self,
        asked: Asked<'_>,
        name: &str,
        command: Vec<String>,
        within: Duration,
        limit: usize,
    ) -> Result<ExecOutput, ExecError> {
        let id = asked.running(name)?;
        self.run(&id, command, within, limit).await
    }

    /// The same of a container whose id is known.
    ///
    /// # Errors
    /// As [`Shared::exec_sync`].
    pub(super) async fn run(
        &self,
        id: &str,
        command: Vec<String>,
        within: Duration,
        limit: usize,
    ) -> Result<ExecOutput, ExecError> {
        if let Some(output) = self.runtime.exec_sync(id, &command, within, limit).await? {
            return Ok(output);
        }
        // Outside of the command's time: a file that is compiled first is so once.
        let artefact = self.file_of(id, &command).await?;
        let made = |e: io::Error| ExecError::Start(Box::new(e));
        let (out, stdout) = io::pipe().map_err(made)?;
        let (err, stderr) = io::pipe().map_err(made)?;
        let out = pipe::Receiver::from_owned_fd(out.into()).map_err(made)?;
        let err = pipe::Receiver::from_owned_fd(err.into()).map_err(made)?;
        let stdin = std::fs::File::open("/dev/null").map_err(made)?;
        let streams = [stdin.into(), stdout.into(), stderr.into()];
        let late = ExecError::timed_out(&command, within);
        let exec = Exec { command, artefact, streams };
        let ran = async {
            let ran = self.runtime.exec(id, exec);
            let (exit, stdout, mut stderr) = tokio::join!(ran, kept(out, limit), kept(err, limit));
            let ExecExit { code, message } = exit?;
            // Why it did not end by itself: its last word.
            stderr.extend(message.as_bytes());
            Ok(ExecOutput { code, stdout, stderr })
        };
        if within.is_zero() {
            return ran.await;
        }
        let ran = timeout(within, ran).await;
        ran.unwrap_or(Err(late))
    }

    /// A connection to a port of the pod, made in its network: to its loopback addresses, then to its
    /// own, of which a guest may listen at one alone.
    ///
    /// # Errors
    /// Why there is none, in containerd's words.
    pub(crate) async fn connect(&self, asked: Asked<'_>, port: u16) -> Result<TcpStream, String> {
        let on_host = asked.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let netns = match &self.host.network {
            Some(network) if !on_host => match network.netns(asked.uid()) {
                Some(netns) => Some(netns),
                None => return Err("the pod has no network".into()),
            },
            Some(_) | None => None,
        };
        let own = asked.status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok());
        let own: Vec<IpAddr> = own.filter(|ip: &IpAddr| !ip.is_loopback()).collect();
        let mut why = String::new();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        for ip in loopback.into_iter().chain(own) {
            let address = SocketAddr::new(ip, port);
            match timeout(CONNECT, dial(netns.clone(), address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    // Writing to a string never fails.
                    let _ = write!(why, " dial tcp {address}: connect: {error};");
                }
                Err(_) => drop(write!(why, " dial tcp {address}: connect: timed out;")),
            }
        }
        let place = netns.map_or_else(|| "host".into(), |path| path.display().to_string());
        let why = why.trim_end_matches(';');
        Err(format!(
            "failed to execute portforward in network namespace {place:?}: failed to connect to \
             localhost:{port} inside namespace:{why}"
        ))
    }
}

async fn dial(netns: Option<PathBuf>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(netns) = netns else { return TcpStream::connect(address).await };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = blocking(move || network::socket_inside(&netns, family)).await?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

/// What comes out of a pipe, cut off at `limit`; the rest is read and dropped.
async fn kept(mut from: pipe::Receiver, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What cannot be read is at its end.
    let _ = (&mut from).take(limit as u64).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    bytes
}

/// The id of the container if it runs.
fn running_id(status: &PodStatus, name: &str) -> Option<String> {
    let init = status.init_container_statuses.iter().chain(&status.container_statuses);
    let mut all = init.chain(&status.ephemeral_container_statuses).flatten();
    let found: &ContainerStatus = all.find(|status| status.name == name)?;
    found.state.as_ref()?.running.as_ref()?;
    found.container_id.clone()
}
