//! `/exec`: a command beside a running container, its streams over a WebSocket.
//!
//! The first byte of each message names its channel (Kubernetes' `v4.channel.k8s.io`, and `v5`,
//! which can also say that a channel is closed).

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::answer::{Answer, Refusal, full, text};
use super::route::{Query, Target};
use super::{Pods, Served, Shared};
use crate::runtime::{ExecError, ExecExit};
use crate::telemetry::chain;

/// The protocols that are spoken, the better one first.
pub(crate) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Longest message that a client may send; kubectl's have 32 KiB.
const MESSAGE_MAX: usize = 1 << 20;
/// Bytes of output read and sent at once.
const CHUNK: usize = 32 << 10;
/// How often a client is asked whether it is there: a command whose client is gone is ended.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a client may take to close its half once all is said.
const PARTING: Duration = Duration::from_secs(1);

/// The channels of the protocol, by the byte before each message.
pub(crate) mod channel {
    /// What the command reads.
    pub(crate) const STDIN: u8 = 0;
    /// What it writes.
    pub(crate) const STDOUT: u8 = 1;
    /// What it writes of errors.
    pub(crate) const STDERR: u8 = 2;
    /// How it ended, as a `Status`.
    pub(crate) const ERROR: u8 = 3;
    /// The channel named by the next byte is at its end.
    pub(crate) const CLOSE: u8 = 255;
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    command: Vec<String>,
    input: bool,
    output: bool,
    error: bool,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let command: Vec<String> = query.all("command").map(String::from).collect();
        let [input, output, error] = ["input", "output", "error"].map(|name| query.is_set(name));
        let bad = |text: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        if !(input || output || error) {
            return bad("you must specify at least 1 of stdin, stdout, stderr");
        }
        if command.is_empty() {
            return bad("you must specify at least one command for the container");
        }
        Ok(Self { command, input, output, error })
    }
}

impl<P: Pods> Shared<P> {
    /// Answers with a WebSocket over which the command's streams go.
    pub(super) fn exec<B>(
        self: &std::sync::Arc<Self>,
        target: &Target,
        query: &Query,
        mut request: Request<B>,
    ) -> Result<Response<Answer>, Refusal> {
        let wanted = Wanted::of(query)?;
        let Some(served) = self.find(target) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "pod does not exist"));
        };
        let uid = served.pod.metadata.uid.as_deref();
        if target.uid.as_deref().is_some_and(|wanted| uid != Some(wanted))
            || !served.has_container(&target.container)
        {
            // Upstream's code, which its runtime's errors have as well.
            let text = format!("container not found ({:?})", target.container);
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let (accept, protocol) = handshake(request.headers())?;
        let permit = self.stream_permit()?;
        let (shared, container) = (std::sync::Arc::clone(self), target.container.clone());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let command = Command { served, container, wanted, permit };
                    command.run(&shared.pods, TokioIo::new(upgraded)).await;
                }
                Err(error) => tracing::debug!(%error, "a client went away"),
            }
        });
        let mut answer = text(full(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.clear();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        Ok(answer)
    }
}

/// Reads a client's half of the WebSocket handshake: the answer to its key, and the protocol.
fn handshake(headers: &HeaderMap) -> Result<(HeaderValue, &'static str), Refusal> {
    let has = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|v| v.trim().eq_ignore_ascii_case(wanted))
    };
    if has(UPGRADE, "SPDY/3.1") {
        let text = "unable to upgrade: SPDY/3.1 is not spoken here yet, only WebSocket";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|_| has(CONNECTION, "upgrade") && has(UPGRADE, "websocket"));
    let Some(key) = key else {
        let text = "unable to upgrade: expected a WebSocket";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    };
    let Some(protocol) = PROTOCOLS.into_iter().find(|name| has(SEC_WEBSOCKET_PROTOCOL, name))
    else {
        let text = format!("unable to upgrade: expected one of {}", PROTOCOLS.join(", "));
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    Ok((accept, protocol))
}

/// The limits of both ends of a connection.
pub(crate) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        // Sent as it comes: what waits is bounded by one message.
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_MAX + CHUNK)
}

/// A command that a client waits for.
struct Command {
    served: Served,
    container: String,
    wanted: Wanted,
    permit: OwnedSemaphorePermit,
}

/// Our ends of a command's streams.
struct Streams {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Command {
    /// Runs until the command has ended and all is said, or the client is gone: the command is
    /// killed then.
    async fn run(self, pods: &impl Pods, stream: TokioIo<Upgraded>) {
        let Self { served, container, wanted, permit: _permit } = self;
        let socket = Socket::from_raw_socket(stream, Role::Server, Some(limits())).await;
        let (mut to, from) = socket.split();
        let (theirs, Streams { stdin, stdout, stderr }) = match streams(&wanted) {
            Ok(made) => made,
            Err(error) => {
                let status = failure(&format!("cannot make the command's streams: {error}"));
                let _ = say(&mut to, channel::ERROR, &status).await;
                return;
            }
        };
        let exec = pods.exec(&served, &container, wanted.command.clone(), theirs);
        let said = async {
            let exit = relay(&mut to, exec, stdout, stderr).await?;
            if let Ok(ExecExit { message, .. }) = &exit
                && wanted.error
                && !message.is_empty()
            {
                // Where people look; a status with an exit code is read for that code alone.
                let line = format!("{}\n", message.trim_end());
                say(&mut to, channel::STDERR, line.as_bytes()).await?;
            }
            say(&mut to, channel::ERROR, &status(exit)).await?;
            to.close().await
        };
        let mut feed = pin!(feed(from, stdin));
        tokio::select! {
            () = &mut feed => return,
            said = said => if let Err(error) = said {
                return tracing::debug!(%error, "a client went away");
            }
        }
        // What it still sends is taken until it closes too: with that unread the kernel would
        // throw away what is on its way to the client.
        let _ = timeout(PARTING, feed).await;
    }
}

type Sender = SplitSink<Socket, Message>;
type Sent<T> = Result<T, tokio_tungstenite::tungstenite::Error>;

async fn say(to: &mut Sender, channel: u8, bytes: &[u8]) -> Sent<()> {
    let mut message = Vec::with_capacity(1 + bytes.len());
    message.push(channel);
    message.extend_from_slice(bytes);
    to.send(Message::binary(message)).await
}

/// Sends what the command writes until it has ended and all of that is sent.
async fn relay<E>(
    to: &mut Sender,
    exec: impl Future<Output = E>,
    mut stdout: Option<pipe::Receiver>,
    mut stderr: Option<pipe::Receiver>,
) -> Sent<E> {
    let mut exec = pin!(exec);
    let mut ended = None;
    let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            exit = &mut exec, if ended.is_none() => ended = Some(exit),
            len = read(stdout.as_mut(), &mut out), if stdout.is_some() => match len {
                0 => stdout = None,
                len => say(to, channel::STDOUT, &out[..len]).await?,
            },
            len = read(stderr.as_mut(), &mut err), if stderr.is_some() => match len {
                0 => stderr = None,
                len => say(to, channel::STDERR, &err[..len]).await?,
            },
            _ = ping.tick() => to.send(Message::Ping(Vec::new().into())).await?,
        }
        if stdout.is_none()
            && stderr.is_none()
            && let Some(ended) = ended.take()
        {
            return Ok(ended);
        }
    }
}

/// Bytes that came from a pipe; none at its end.
async fn read(from: Option<&mut pipe::Receiver>, into: &mut [u8]) -> usize {
    match from {
        // An error is an end too: nothing more can be read.
        Some(from) => from.read(into).await.unwrap_or(0),
        None => pending().await,
    }
}

/// Gives the command what the client sends, until the client is gone.
async fn feed(mut from: SplitStream<Socket>, mut stdin: Option<pipe::Sender>) {
    while let Some(Ok(message)) = from.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match *bytes {
            [channel::STDIN, ref data @ ..] => {
                if let Some(to) = &mut stdin
                    && to.write_all(data).await.is_err()
                {
                    // The command reads no more.
                    stdin = None;
                }
            }
            [channel::CLOSE, channel::STDIN] => stdin = None,
            // A terminal's size, and what no protocol has.
            _ => {}
        }
    }
}

/// The command's streams, and our ends of those that are wanted.
fn streams(wanted: &Wanted) -> io::Result<([OwnedFd; 3], Streams)> {
    let null = || {
        let file = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        Ok::<_, io::Error>(OwnedFd::from(file))
    };
    let (theirs_in, stdin) = if wanted.input {
        let (to, from) = pipe::pipe()?;
        (from.into_blocking_fd()?, Some(to))
    } else {
        (null()?, None)
    };
    let output = |wanted: bool| {
        if !wanted {
            return Ok((null()?, None));
        }
        let (to, from) = pipe::pipe()?;
        Ok::<_, io::Error>((to.into_blocking_fd()?, Some(from)))
    };
    let ((theirs_out, stdout), (theirs_err, stderr)) =
        (output(wanted.output)?, output(wanted.error)?);
    Ok(([theirs_in, theirs_out, theirs_err], Streams { stdin, stdout, stderr }))
}

/// How the command ended, as upstream tells it on the error channel.
fn status(exit: Result<ExecExit, ExecError>) -> Vec<u8> {
    match exit {
        Ok(ExecExit { code: 0, .. }) => {
            let status = Status { status: Some("Success".into()), ..Status::default() };
            serde_json::to_vec(&status).unwrap_or_default()
        }
        Ok(ExecExit { code, .. }) => {
            let cause = StatusCause {
                reason: Some("ExitCode".into()),
                message: Some(code.to_string()),
                ..StatusCause::default()
            };
            let status = Status {
                status: Some("Failure".into()),
                reason: Some("NonZeroExitCode".into()),
                message: Some(format!(
                    "command terminated with non-zero exit code: exit status {code}"
                )),
                details: Some(StatusDetails {
                    causes: Some(vec![cause]),
                    ..StatusDetails::default()
                }),
                ..Status::default()
            };
            serde_json::to_vec(&status).unwrap_or_default()
        }
        Err(error) => failure(&chain(&error)),
    }
}

fn failure(text: &str) -> Vec<u8> {
    let status = Status {
        status: Some("Failure".into()),
        reason: Some("InternalError".into()),
        message: Some(text.into()),
        ..Status::default()
    };
    serde_json::to_vec(&status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_read() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            handshake(&headers).map_err(|refusal| refusal.code.as_u16())
        };
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            // RFC 6455's own example.
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v4.channel.k8s.io, v5.channel.k8s.io"),
        ];
        let (accept, protocol) = headers(&good).expect("is one");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(protocol, "v5.channel.k8s.io");
        assert_eq!(headers(&good[..3]), Err(403));
        assert_eq!(headers(&good[1..]), Err(400));
        assert_eq!(headers(&[]), Err(400));
        assert_eq!(headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]), Err(400));
    }

    #[test]
    fn statuses_are_upstreams() {
        let text = |exit| String::from_utf8(status(exit)).expect("UTF-8");
        let exit = |code| Ok(ExecExit { code, message: "trap".into() });
        assert!(text(exit(0)).contains(r#""status":"Success""#));
        let failed = text(exit(3));
        assert!(failed.contains(r#""reason":"NonZeroExitCode""#), "{failed}");
        assert!(failed.contains(r#"{"message":"3","reason":"ExitCode"}"#), "{failed}");
        let error = text(Err(ExecError::NotRunning("c".into())));
        assert!(error.contains(r#""message":"container not running (c)""#), "{error}");
    }
}
