//! The handshake: from a request's headers to what is spoken over its connection.

use std::time::Duration;

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::super::answer::{Answer, Refusal, full, text};
use super::websocket::{Channels, Codec};
use super::{Client, Wanted, spdy};

/// The protocols that a SPDY client offers.
pub(in crate::server) const STREAM_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-stream-protocol-version");
/// Those that it might have offered instead.
pub(in crate::server) const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Spoken {
    /// SPDY, with this version of the streams' protocol.
    Spdy(u8),
    /// Channels over a WebSocket.
    WebSocket(Codec),
}

/// The protocols of one kind of request, by name.
#[derive(Debug)]
pub(in crate::server) struct Protocols {
    spdy: &'static [(&'static str, u8)],
    websocket: &'static [(&'static str, Codec)],
}

const fn codec(base64: bool, version: u8) -> Codec {
    Codec { base64, version }
}

/// Those of commands (upstream's `SupportedStreamingProtocols` and `createWebSocketStreams`); `v5` is
/// what kubectl speaks to the API server.
pub(in crate::server) const OF_COMMANDS: Protocols = Protocols {
    spdy: &[
        ("v4.channel.k8s.io", 4),
        ("v3.channel.k8s.io", 3),
        ("v2.channel.k8s.io", 2),
        ("channel.k8s.io", 1),
    ],
    websocket: &[
        ("", codec(false, 1)),
        ("channel.k8s.io", codec(false, 1)),
        ("base64.channel.k8s.io", codec(true, 1)),
        ("v4.channel.k8s.io", codec(false, 4)),
        ("v4.base64.channel.k8s.io", codec(true, 4)),
        ("v5.channel.k8s.io", codec(false, 5)),
    ],
};

/// Those of forwarded ports (upstream's `SupportedProtocols` and `handleWebSocketStreams`).
pub(in crate::server) const OF_PORTS: Protocols = Protocols {
    spdy: &[("portforward.k8s.io", 1)],
    websocket: &[
        ("", codec(false, 1)),
        ("v4.channel.k8s.io", codec(false, 4)),
        ("v4.base64.channel.k8s.io", codec(true, 4)),
    ],
};

/// The values of a header, where several may stand in a line.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

/// Whether the request asks for an upgrade to a WebSocket.
pub(in crate::server) fn is_websocket(headers: &HeaderMap) -> bool {
    wants(headers, "websocket")
}

fn wants(headers: &HeaderMap, protocol: &str) -> bool {
    let has = |name, wanted: &str| values(headers, &name).any(|v| v.eq_ignore_ascii_case(wanted));
    has(CONNECTION, "upgrade") && has(UPGRADE, protocol)
}

/// Agrees on one of the protocols, the first of the client's that is known here, and gives the answer
/// with which the connection changes over to it.
///
/// # Errors
/// Upstream's refusals: no upgrade, or no protocol in common (403).
pub(in crate::server) fn agree(
    headers: &HeaderMap,
    protocols: &Protocols,
) -> Result<(Spoken, Response<Answer>), Refusal> {
    if is_websocket(headers) {
        return agree_websocket(headers, protocols.websocket);
    }
    if !wants(headers, SPDY) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Upgrade request required\n"));
    }
    if !headers.contains_key(STREAM_PROTOCOLS) {
        let text = format!(
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {} headers\n",
            headers.len()
        );
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let offered: Vec<&str> = values(headers, &STREAM_PROTOCOLS).collect();
    let known = |name: &&str| protocols.spdy.iter().find(|(known, _)| known == name);
    let Some((name, version)) = offered.iter().find_map(known) else {
        let accepted: Vec<_> = protocols.spdy.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]\n",
            offered.join(" "),
            accepted.join(" ")
        );
        return Err(Refusal { accepted, ..Refusal::new(StatusCode::FORBIDDEN, text) });
    };
    let mut answer = switching(SPDY);
    answer.headers_mut().insert(STREAM_PROTOCOLS, HeaderValue::from_static(name));
    Ok((Spoken::Spdy(*version), answer))
}

fn agree_websocket(
    headers: &HeaderMap,
    known: &'static [(&'static str, Codec)],
) -> Result<(Spoken, Response<Answer>), Refusal> {
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        let text = "unable to upgrade: expected a WebSocket\n";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    };
    let mut offered: Vec<&str> = values(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        offered.push("");
    }
    let of = |name: &&str| known.iter().find(|(known, _)| known == name);
    let Some((name, codec)) = offered.iter().find_map(of) else {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "requested protocol(s) are not supported: [{}]; supports [{}]\n",
            offered.join(" "),
            names.join(" ").trim_start()
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    let mut answer = switching("websocket");
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((Spoken::WebSocket(*codec), answer))
}

fn switching(protocol: &'static str) -> Response<Answer> {
    let mut answer = text(full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    answer
}

/// Gives a command's client and what it asked for to `work`, over an upgraded connection; ends with
/// the work or the client, whichever is first. Work that is not done then is dropped.
pub(in crate::server) async fn with_client<F: Future<Output = ()>>(
    spoken: Spoken,
    upgraded: Upgraded,
    wanted: Wanted,
    idle: Duration,
    work: impl FnOnce(Client) -> F,
) {
    let io = TokioIo::new(upgraded);
    match spoken {
        Spoken::Spdy(version) => {
            let (drive, opened, out) = spdy::connect(io, idle);
            let work = async {
                let client = spdy::client(opened, wanted, version, spdy::OPENING).await;
                drop(out);
                match client {
                    Some(client) => work(client).await,
                    None => tracing::debug!("a client did not open its streams"),
                }
            };
            alongside(drive, work).await;
        }
        Spoken::WebSocket(codec) => {
            let mut channels = Channels::new();
            let client = channels.of_client(wanted, codec);
            let drive = channels.drive(io, codec, idle);
            let work = async {
                // Upstream's sign that the connection is made, on the first channel that there is.
                let first = client.stdout.as_ref().or(client.stderr.as_ref());
                if first.unwrap_or(&client.error).send("").await.is_ok() {
                    work(client).await;
                }
            };
            alongside(drive, work).await;
        }
    }
}

/// Does the work while the connection lasts, then lets the connection send what is left.
pub(in crate::server) async fn alongside(
    drive: impl Future<Output = ()>,
    work: impl Future<Output = ()>,
) {
    let mut drive = std::pin::pin!(drive);
    tokio::select! {
        () = &mut drive => return,
        () = work => {}
    }
    drive.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn agreed(pairs: &[(&'static str, &'static str)]) -> Result<(Spoken, HeaderMap), Refusal> {
        let (spoken, answer) = agree(&headers(pairs), &OF_COMMANDS)?;
        assert_eq!(answer.status(), 101);
        Ok((spoken, answer.headers().clone()))
    }

    #[test]
    fn a_websocket_has_the_first_of_the_clients_protocols() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            // RFC 6455's own example.
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "x, v4.channel.k8s.io, v5.channel.k8s.io"),
        ];
        let (spoken, answer) = agreed(&good).expect("is one");
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
        assert_eq!(spoken, Spoken::WebSocket(codec(false, 4)));
        let (spoken, answer) = agreed(&good[..3]).expect("is one");
        assert_eq!(spoken, Spoken::WebSocket(codec(false, 1)));
        assert!(!answer.contains_key(SEC_WEBSOCKET_PROTOCOL));
        let other = [good[0], good[1], good[2], ("sec-websocket-protocol", "x")];
        assert_eq!(agreed(&other).expect_err("is refused").code, 403);
        for bad in [&good[1..], &good[..2], &[]] {
            assert_eq!(agreed(bad).expect_err("is refused").code, 400);
        }
    }

    #[test]
    fn spdy_has_the_first_of_the_clients_protocols() {
        let (connection, upgrade) = (("connection", "Upgrade"), ("upgrade", "SPDY/3.1"));
        let name = "x-stream-protocol-version";
        let offered = [(name, "v9.channel.k8s.io"), (name, "v3.channel.k8s.io, channel.k8s.io")];
        let (spoken, answer) =
            agreed(&[connection, upgrade, offered[0], offered[1]]).expect("is one");
        assert_eq!(spoken, Spoken::Spdy(3));
        assert_eq!(answer[UPGRADE], "SPDY/3.1");
        assert_eq!(answer[STREAM_PROTOCOLS], "v3.channel.k8s.io");
        let refused = agreed(&[connection, upgrade, offered[0]]).expect_err("is refused");
        assert_eq!(refused.code, 403);
        assert_eq!(
            refused.text,
            "unable to upgrade: unable to negotiate protocol: client supports \
            [v9.channel.k8s.io], server accepts [v4.channel.k8s.io v3.channel.k8s.io \
            v2.channel.k8s.io channel.k8s.io]\n"
        );
        assert_eq!(refused.answer().headers().get_all(ACCEPTED_PROTOCOLS).iter().count(), 4);
        assert_eq!(agreed(&[connection, upgrade]).expect_err("is refused").code, 400);
        assert_eq!(agreed(&[upgrade, offered[1]]).expect_err("is refused").code, 400);
    }
}
