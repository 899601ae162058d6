//! A TCP connection to where a client of the pod would make one.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use thiserror::Error;
use tokio::net::TcpStream;

use super::text::errno;
use crate::telemetry::chain;

/// Addresses of a name that are tried: who probes through a name has one or two.
const ADDRESSES_MAX: usize = 4;

/// Why there is no connection, in Go's words.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// Nobody is called so.
    #[error("dial tcp: lookup {host}{}: no such host", on(*asked))]
    NoHost {
        /// The name.
        host: String,
        /// The name server that was asked first.
        asked: Option<IpAddr>,
    },
    /// The name servers cannot be asked.
    #[error("dial tcp: lookup {host}{}: {}", on(*asked), chain(why))]
    Lookup {
        /// The name.
        host: String,
        /// The name server that was asked first.
        asked: Option<IpAddr>,
        /// Why not.
        why: Box<NetError>,
    },
    /// Nobody answers there.
    #[error("dial tcp {address}: connect: {}", errno(why))]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        why: io::Error,
    },
}

/// Connects to a name or an address. Waits as long as that takes.
///
/// Upstream sets `SO_LINGER` to a second on its probes' sockets. On Linux that makes a close wait for so
/// long, which here would hold up the event loop, and shortens nothing: `TIME_WAIT` is as long as before.
///
/// # Errors
/// [`DialError`]; of a name's addresses, that of the first.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let mut failure = None;
    for ip in addresses(host).await? {
        let address = SocketAddr::new(ip, port);
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(why) => drop(failure.get_or_insert(DialError::Connect { address, why })),
        }
    }
    Err(failure.unwrap_or_else(|| DialError::NoHost { host: host.into(), asked: None }))
}

async fn addresses(host: &str) -> Result<Vec<IpAddr>, DialError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    let (config, options) = read_system_conf().unwrap_or_default();
    let asked = config.name_servers().first().map(|server| server.ip);
    let failed = |why: NetError| match why.is_no_records_found() || why.is_nx_domain() {
        true => DialError::NoHost { host: host.into(), asked },
        false => DialError::Lookup { host: host.into(), asked, why: Box::new(why) },
    };
    let found = resolver(config, options).map_err(failed)?.lookup_ip(host).await;
    Ok(found.map_err(failed)?.iter().take(ADDRESSES_MAX).collect())
}

/// Made anew for each name, of which there are few: `/etc/resolv.conf` and `/etc/hosts` may have
/// changed. Without the former only the latter counts.
fn resolver(config: ResolverConfig, options: ResolverOpts) -> Result<TokioResolver, NetError> {
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let mut builder: ResolverBuilder<TokioRuntimeProvider> = builder.with_options(options);
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    builder.build()
}

/// Whom Go names beside a name.
fn on(server: Option<IpAddr>) -> String {
    // Of another port nobody knows.
    server.map_or_else(String::new, |ip| format!(" on {}", SocketAddr::new(ip, 53)))
}
