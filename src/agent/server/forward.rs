//! `/portForward`: connections to ports of a pod, made in its network. Pods whose network is another
//! runtime's are forwarded by that: the request is passed on ([`proxy`](super::proxy)).

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, Refusal};
use super::exec::refused;
use super::route::{Query, Target};
use super::stream::spdy::{self, OPENING, Opened};
use super::stream::upgrade::{OF_PORTS, Spoken, agree, alongside, is_websocket};
use super::stream::websocket::{Channels, Codec};
use super::stream::{CHUNK, Gone, Incoming, Outgoing, Reset};
use super::{Pods, Served, Shared};

/// Ports of one request over a WebSocket: each has two channels, which a byte names.
const PORTS: usize = 100;
/// Connections of one client at a time.
const CONNECTIONS: usize = 256;

/// The ports that a query names (upstream's `NewV4Options`).
///
/// # Errors
/// Upstream's refusals.
fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let mut ports = Vec::new();
    for given in query.all("port") {
        if given.is_empty() {
            return Err(bad("query parameter \"port\" cannot be empty".into()));
        }
        for text in given.split(',') {
            ports.push(port(text).map_err(bad)?);
        }
    }
    match ports.len() {
        0 => Err(bad("query parameter \"port\" is required".into())),
        1..=PORTS => Ok(ports),
        _ => Err(bad(format!("at most {PORTS} ports can be forwarded over one WebSocket"))),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(error) => Err(format!("unable to parse {text:?} as a port: {error}")),
    }
}

impl<P: Pods> Shared<P> {
    /// Answers with a connection over which connections to the pod go.
    pub(super) async fn port_forward<B>(
        self: &Arc<Self>,
        target: &Target,
        query: &Query,
        mut request: Request<B>,
    ) -> Result<Response<Answer>, Refusal> {
        let ports = if is_websocket(request.headers()) { ports(query)? } else { Vec::new() };
        let served = self.pod(target)?;
        if target.uid.as_deref().is_some_and(|wanted| !served.is_of(wanted)) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "pod not found"));
        }
        let url = self.pods.port_forward_url(&served, &ports).await;
        if let Some(url) = url.map_err(|e| refused(&e))? {
            return self.pass_on(&url, request).await;
        }
        let (spoken, answer) = agree(request.headers(), &OF_PORTS)?;
        let permit = self.stream_permit()?;
        let upgrade = hyper::upgrade::on(&mut request);
        let forward = Forward { shared: Arc::clone(self), served };
        tokio::spawn(async move {
            let _permit = permit;
            match upgrade.await {
                Ok(upgraded) => forward.serve(spoken, upgraded, ports).await,
                Err(error) => tracing::debug!(%error, "a client went away"),
            }
        });
        Ok(answer)
    }
}

/// One client's connections to a pod.
struct Forward<P> {
    shared: Arc<Shared<P>>,
    served: Served,
}

/// The streams of one connection, of which one may not be there yet.
struct Pair {
    port: u16,
    data: Option<(Incoming, Outgoing)>,
    error: Option<Outgoing>,
    until: Instant,
}

impl<P: Pods> Forward<P> {
    async fn serve(&self, spoken: Spoken, upgraded: Upgraded, ports: Vec<u16>) {
        let (io, idle) = (TokioIo::new(upgraded), self.shared.stream_idle);
        match spoken {
            Spoken::Spdy(_) => {
                let (drive, opened, out) = spdy::connect(io, idle);
                let work = async move {
                    self.pairs(opened).await;
                    drop(out);
                };
                alongside(drive, work).await;
            }
            Spoken::WebSocket(codec) => self.channels(io, codec, ports, idle).await,
        }
    }

    /// Two channels for each port, there from the beginning.
    async fn channels(&self, io: TokioIo<Upgraded>, codec: Codec, ports: Vec<u16>, idle: Duration) {
        let mut channels = Channels::new();
        let forwards: FuturesUnordered<_> = ports
            .into_iter()
            .map(|port| {
                let (data, error) = (channels.both(), channels.outgoing());
                async move {
                    // Their first message names the port.
                    let name = port.to_le_bytes().to_vec();
                    data.1.send(name.clone()).await?;
                    error.send(name).await?;
                    self.forward(port, data, error).await
                }
            })
            .collect();
        let drive = channels.drive(io, codec, idle);
        alongside(drive, forwards.for_each(|_| std::future::ready(()))).await;
    }

    /// Pairs the streams that the client opens, and connects each pair, until the client is gone.
    async fn pairs(&self, mut opened: mpsc::Receiver<Opened>) {
        let mut waiting: HashMap<String, Pair> = HashMap::new();
        let mut forwards = FuturesUnordered::new();
        loop {
            let late = waiting.iter().min_by_key(|(_, pair)| pair.until);
            let late = late.map(|(id, pair)| (id.clone(), pair.until));
            let until = late.as_ref().map_or_else(Instant::now, |(_, until)| *until);
            tokio::select! {
                stream = opened.recv() => {
                    let Some(stream) = stream else { return };
                    let full = waiting.len() + forwards.len() >= CONNECTIONS;
                    let Some((port, data, error)) = paired(stream, &mut waiting, full).await else {
                        continue;
                    };
                    forwards.push(self.forward(port, data, error));
                }
                // Whether it went well is the client's to know.
                Some(_) = forwards.next() => {}
                () = sleep_until(until), if late.is_some() => {
                    if let Some((id, _)) = late
                        && let Some(Pair { error: Some(error), .. }) = waiting.remove(&id)
                    {
                        // Gone: all of them end.
                        let text = format!("(request={id}) timed out waiting for streams");
                        let _ = error.send(text).await;
                    }
                }
            }
        }
    }

    /// Makes one connection and copies both ways until both have said all.
    async fn forward(
        &self,
        port: u16,
        (incoming, outgoing): (Incoming, Outgoing),
        error: Outgoing,
    ) -> Result<(), Gone> {
        let failure = match self.shared.pods.connect(&self.served, port).await {
            Ok(stream) => match copy_both(stream, incoming, &outgoing).await {
                Ok(()) => None,
                Err(Broken::Gone) => return Err(Gone),
                // The client has let it go.
                Err(Broken::Reset) => None,
                Err(Broken::Io(error)) => Some(error.to_string()),
            },
            Err(text) => Some(text),
        };
        let Some(text) = failure else {
            outgoing.end().await?;
            return error.end().await;
        };
        let metadata = &self.served.pod.metadata;
        let name = |field: &Option<String>| field.clone().unwrap_or_default();
        let (pod, uid) = (name(&metadata.name), name(&metadata.uid));
        let text = format!("error forwarding port {port} to pod {pod}, uid {uid}: {text}");
        tracing::debug!(text, "a port was not forwarded");
        error.send(text).await?;
        outgoing.reset().await?;
        error.reset().await
    }
}

/// The pair that the stream makes whole, if it does. One that is not what it should be is refused.
async fn paired(
    stream: Opened,
    waiting: &mut HashMap<String, Pair>,
    full: bool,
) -> Option<(u16, (Incoming, Outgoing), Outgoing)> {
    let Opened { id, headers, incoming, outgoing } = stream;
    let port = headers.get("port").and_then(|text| port(text).ok());
    let is_data = match headers.get("streamType") {
        Some("data") => Some(true),
        Some("error") => Some(false),
        Some(_) | None => None,
    };
    let (Some(port), Some(is_data)) = (port, is_data) else {
        outgoing.reset().await.ok()?;
        return None;
    };
    let request = match headers.get("requestID") {
        Some(request) if !request.is_empty() => request.to_owned(),
        // Clients that give none open the error stream first, and right after it the other.
        Some(_) | None => (if is_data { id.saturating_sub(2) } else { id }).to_string(),
    };
    if full && !waiting.contains_key(&request) {
        outgoing.reset().await.ok()?;
        return None;
    }
    let pair = waiting.entry(request.clone()).or_insert_with(|| Pair {
        port,
        data: None,
        error: None,
        until: Instant::now() + OPENING,
    });
    let taken = if is_data { pair.data.is_some() } else { pair.error.is_some() };
    if taken {
        outgoing.reset().await.ok()?;
        return None;
    }
    outgoing.reply().await.ok()?;
    if is_data {
        pair.port = port;
        pair.data = Some((incoming, outgoing));
    } else {
        pair.error = Some(outgoing);
    }
    if pair.data.is_none() || pair.error.is_none() {
        return None;
    }
    let Pair { port, data, error, .. } = waiting.remove(&request)?;
    Some((port, data?, error?))
}

/// Why a connection ended early.
enum Broken {
    Gone,
    Reset,
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn copy_both(
    stream: TcpStream,
    mut incoming: Incoming,
    outgoing: &Outgoing,
) -> Result<(), Broken> {
    // Small pieces at once; a socket that cannot do that works all the same.
    let _ = stream.set_nodelay(true);
    let (from, to) = stream.into_split();
    let mut down = pin!(down(from, outgoing));
    {
        let mut up = pin!(up(&mut incoming, to));
        tokio::select! {
            said = &mut up => said.map_err(|Reset| Broken::Reset)?,
            said = &mut down => {
                said?;
                // The pod has said all; the client may have not.
                outgoing.end().await.map_err(|Gone| Broken::Gone)?;
                return up.await.map_err(|Reset| Broken::Reset);
            }
        }
    }
    tokio::select! {
        said = down => said,
        () = incoming.reset() => Err(Broken::Reset),
    }
}

/// What the client sends, to the pod, until it has said all or the pod takes no more.
async fn up(from: &mut Incoming, mut to: OwnedWriteHalf) -> Result<(), Reset> {
    while let Some(bytes) = from.next().await? {
        if to.write_all(&bytes).await.is_err() {
            // What the pod has to say to that comes the other way.
            while from.next().await?.is_some() {}
            return Ok(());
        }
    }
    // Closed already, by the pod.
    let _ = to.shutdown().await;
    Ok(())
}

/// What the pod says, to the client.
async fn down(mut from: OwnedReadHalf, to: &Outgoing) -> Result<(), Broken> {
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(CHUNK);
        if from.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        to.send(bytes.split().freeze()).await.map_err(|Gone| Broken::Gone)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::route::Route;

    #[test]
    fn ports_are_read_as_upstream_does() {
        let of = |query: &str| {
            let uri = format!("/portForward/ns/p?{query}").parse().expect("an address");
            match Route::of(&hyper::Method::GET, &uri) {
                Ok(Route::PortForward { query, .. }) => ports(&query).map_err(|r| r.text),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(of("port=80,443&port=8080"), Ok(vec![80, 443, 8080]));
        assert_eq!(of("port=0"), Err(r#"port "0" must be > 0"#.into()));
        assert_eq!(of("port="), Err(r#"query parameter "port" cannot be empty"#.into()));
        assert_eq!(of("x=1"), Err(r#"query parameter "port" is required"#.into()));
        assert!(of("port=65536").is_err_and(|e| e.starts_with(r#"unable to parse "65536""#)));
        assert!(of(&format!("port=1{}", ",2".repeat(PORTS))).is_err());
    }
}
