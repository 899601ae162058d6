//! A new connection: name, address, TCP, TLS, HTTP/2.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Options, STREAMS_MAX};
use crate::cluster::kubeconfig::Kubeconfig;

/// What is tried of a name's addresses: a control plane has three or five.
const ADDRESSES_MAX: usize = 8;
/// Head start of an address before the next one is tried beside it (RFC 8305 has 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);
/// What a stream may send before it is read: more than nearly every object.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for the connection: all of its streams may stall and none holds up another.
#[expect(clippy::cast_possible_truncation, reason = "90")]
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (STREAMS_MAX as u32 + 1);

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// The server's name has no address.
    #[error("cannot find an address of {host}")]
    Resolve {
        /// The name.
        host: String,
        /// Why not.
        #[source]
        source: Box<NetError>,
    },
    /// The server's name has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// Nobody answers there.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Neither TCP nor TLS came about in time.
    #[error("cannot connect to {address}: no answer within {} s", time.as_secs_f32())]
    Time {
        /// Where.
        address: SocketAddr,
        /// What was waited.
        time: Duration,
    },
    /// Who answers there is not who should, or does not take us for who we are.
    #[error("no TLS with {address}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Who answers there speaks something else.
    #[error("{0} does not speak HTTP/2 (ALPN h2)")]
    Protocol(SocketAddr),
    /// HTTP/2 did not come about.
    #[error("no HTTP/2")]
    Http(#[source] hyper::Error),
    /// A new connection without a stream: cannot be.
    #[error("no stream on a new connection")]
    Streams,
}

/// Where the server is, and how to speak to it.
pub(super) struct Endpoint {
    /// A name or an address.
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
    options: Options,
}

impl Endpoint {
    pub(super) fn new(kubeconfig: &Kubeconfig, options: Options) -> Self {
        Self {
            host: kubeconfig.host.clone(),
            port: kubeconfig.port,
            name: kubeconfig.server_name.clone(),
            tls: TlsConnector::from(Arc::clone(&kubeconfig.tls)),
            options,
        }
    }

    /// A new connection and a task that drives it, until all of its requests and every copy of
    /// what is returned are gone.
    ///
    /// # Errors
    /// [`DialError`]; where several addresses were tried, that of the last one to fail.
    pub(super) async fn dial(&self) -> Result<SendRequest<Body>, DialError> {
        let stream = self.race(self.addresses().await?).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.options.ping_interval)
            .keep_alive_timeout(self.options.ping_time)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(DialError::Http)?;
        tokio::spawn(async move {
            match connection.await {
                Ok(()) => tracing::debug!("a connection to the API server ended"),
                Err(error) => {
                    let error = crate::telemetry::chain(&error);
                    tracing::debug!(error, "a connection to the API server broke");
                }
            }
        });
        Ok(sender)
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, DialError> {
        let at = |ip: IpAddr| SocketAddr::new(ip, self.port);
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![at(ip)]);
        }
        let failed =
            |e: NetError| DialError::Resolve { host: self.host.clone(), source: Box::new(e) };
        let found = resolver().map_err(failed)?.lookup_ip(self.host.as_str()).await;
        let found = found.map_err(failed)?;
        let addresses: Vec<SocketAddr> = found.iter().map(at).take(ADDRESSES_MAX).collect();
        match addresses.is_empty() {
            true => Err(DialError::NoAddress(self.host.clone())),
            false => Ok(addresses),
        }
    }

    /// The first address that answers; each gets a head start before the next.
    async fn race(&self, addresses: Vec<SocketAddr>) -> Result<TlsStream<TcpStream>, DialError> {
        let mut waiting = addresses.into_iter();
        let mut tried = FuturesUnordered::new();
        let mut failure = None;
        loop {
            if let Some(address) = waiting.next() {
                tried.push(self.try_address(address));
            }
            let ended = match waiting.len() {
                0 => tried.next().await,
                _ => match timeout(HEAD_START, tried.next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                },
            };
            match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failure = Some(error),
                None => {
                    return Err(failure.unwrap_or_else(|| DialError::NoAddress(self.host.clone())));
                }
            }
        }
    }

    async fn try_address(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, DialError> {
        let connect = async {
            let connected = TcpStream::connect(address).await;
            let tcp = connected.map_err(|source| DialError::Connect { address, source })?;
            // Small frames go at once; where that cannot be set they go later.
            let _ = tcp.set_nodelay(true);
            let spoken = self.tls.connect(self.name.clone(), tcp).await;
            spoken.map_err(|source| DialError::Tls { address, source })
        };
        let time = self.options.connect_time;
        let stream = tokio::select! {
            stream = connect => stream?,
            () = sleep(time) => return Err(DialError::Time { address, time }),
        };
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(stream),
            Some(_) | None => Err(DialError::Protocol(address)),
        }
    }
}

/// Made anew for each connection, of which there are few: `/etc/resolv.conf` and `/etc/hosts` may
/// have changed. Without the former only the latter counts.
fn resolver() -> Result<TokioResolver, NetError> {
    let builder = TokioResolver::builder_tokio();
    let mut builder: ResolverBuilder<TokioRuntimeProvider> = builder.unwrap_or_else(|_| {
        TokioResolver::builder_with_config(ResolverConfig::default(), Default::default())
    });
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}
