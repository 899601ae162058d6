//! Requests for streams that a container runtime serves itself: the upgrade is asked of it at the
//! address that it gave, its answer is the client's, and from then on bytes go both ways as they come.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{interval, timeout};

use super::answer::{Answer, Refusal};
use super::stream::upgrade::STREAM_PROTOCOLS;
use super::stream::{Activity, CHUNK, PARTING};
use crate::telemetry::chain;

/// How long the runtime, which is on this machine, may take to be connected to and to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of an answer that is no upgrade: a text for people.
const BODY_MAX: usize = 64 << 10;
/// How often a connection is looked at whether it is still used.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The headers that make an upgrade; all others are between the client and this server.
fn is_of_upgrade(name: &HeaderName) -> bool {
    [CONNECTION, UPGRADE, STREAM_PROTOCOLS].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}

fn failed(error: impl ToString) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", error.to_string()))
}

/// Asks the runtime for what the client asks for, and gives its answer; if that is an upgrade, both
/// are connected until either is gone or nothing comes for `idle`.
///
/// # Errors
/// A [`Refusal`] if the runtime cannot be asked. What it answers itself is no error.
pub(super) async fn pass_on<B>(
    url: &str,
    mut request: Request<B>,
    permit: OwnedSemaphorePermit,
    idle: Duration,
) -> Result<Response<Answer>, Refusal> {
    if !request.headers().contains_key(UPGRADE) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Upgrade request required\n"));
    }
    let url: Uri = url.parse().map_err(failed)?;
    if url.scheme_str() != Some("http") {
        return Err(failed(format!("the runtime streams at {url}: only http is known")));
    }
    let address = url.authority().map(ToString::to_string).unwrap_or_default();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut asked = Request::builder().method(request.method()).uri(path).header(HOST, &address);
    for (name, value) in request.headers().iter().filter(|(name, _)| is_of_upgrade(name)) {
        asked = asked.header(name, value);
    }
    let asked = asked.body(Empty::<Bytes>::new()).map_err(failed)?;
    let answered = timeout(ANSWER, ask(&address, asked)).await;
    let mut answer = answered.map_err(|_| failed("the container runtime does not answer"))??;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = answer.into_parts();
        let body = timeout(ANSWER, Limited::new(body, BODY_MAX).collect()).await;
        let body = body.map_err(failed)?.map_err(failed)?.to_bytes();
        return Ok(Response::from_parts(head, super::answer::full(body)));
    }
    let runtime = hyper::upgrade::on(&mut answer);
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _permit = permit;
        connect(client, runtime, idle).await;
    });
    let (head, _) = answer.into_parts();
    Ok(Response::from_parts(head, super::answer::full("")))
}

async fn ask(
    address: &str,
    request: Request<Empty<Bytes>>,
) -> Result<Response<hyper::body::Incoming>, Refusal> {
    let stream = TcpStream::connect(address).await;
    let stream = stream
        .map_err(|e| failed(format!("error dialing backend: dial tcp {address}: connect: {e}")))?;
    // Small frames at once; a socket that cannot do that works all the same.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends with the answer, or with the upgrade.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(failed)
}

async fn connect(client: OnUpgrade, runtime: OnUpgrade, idle: Duration) {
    let (client, runtime) = match tokio::try_join!(client, runtime) {
        Ok((client, runtime)) => (TokioIo::new(client), TokioIo::new(runtime)),
        Err(error) => return tracing::debug!(error = chain(&error), "a client went away"),
    };
    if let Err(error) = copy_both(client, runtime, idle).await {
        tracing::debug!(%error, "a stream of the container runtime ended early");
    }
}

/// Copies both ways until either has said all: the runtime's last is still given to the client.
async fn copy_both(
    client: impl AsyncRead + AsyncWrite,
    runtime: impl AsyncRead + AsyncWrite,
    idle: Duration,
) -> io::Result<()> {
    let activity = Activity::new(idle);
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let idled = async {
        let mut look = interval(LOOK_EVERY.min(idle));
        loop {
            look.tick().await;
            if activity.is_over() {
                return;
            }
        }
    };
    {
        let mut up = pin!(copy(&mut from_client, &mut to_runtime, &activity));
        tokio::select! {
            gone = &mut up => return gone,
            said = copy(&mut from_runtime, &mut to_client, &activity) => said?,
            () = idled => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    to_client.shutdown().await?;
    // With what the client still says unread, the kernel would throw away what is on its way there.
    let _ = timeout(PARTING, tokio::io::copy(&mut from_client, &mut tokio::io::sink())).await;
    Ok(())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        let len = from.read(&mut bytes).await?;
        if len == 0 {
            return Ok(());
        }
        activity.touch();
        to.write_all(&bytes[..len]).await?;
        to.flush().await?;
    }
}
