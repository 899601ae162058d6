//! Takes connections, as many as there may be: in all, and of one peer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long nothing is accepted after that has failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long open answers may go on once the server ends: a stop's answer and the last lines of a
/// log come at once, and a reader that stalls is not waited for.
const DRAIN: Duration = Duration::from_secs(2);

/// How many of a listener's connections there may be at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// In all.
    pub(super) connections: usize,
    /// Of one peer's address.
    pub(super) of_peer: usize,
}

/// Where connections come from.
pub(super) trait Listen: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;
    /// Whether one too many is closed at once; else it waits in the kernel, which only users that
    /// wait for each other anyhow can be made to.
    const CLOSES: bool;

    /// The next connection, and the address that it comes from if it has one.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;
}

impl Listen for UnixListener {
    type Stream = UnixStream;
    const CLOSES: bool = false;

    async fn next(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((self.accept().await?.0, None))
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;
    const CLOSES: bool = true;

    async fn next(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, from) = self.accept().await?;
        Ok((stream, Some(from.ip())))
    }
}

/// Gives each connection to `serve` until `end`; then waits a moment for what is open, and for
/// `streams`, which have left their connections. The receiver that `serve` gets closes at the end.
pub(super) async fn accept<L: Listen, F: Future<Output = ()> + Send + 'static>(
    listener: L,
    limits: Limits,
    mut end: oneshot::Receiver<()>,
    streams: impl Future<Output = ()>,
    serve: impl Fn(L::Stream, watch::Receiver<()>) -> F,
) {
    let mut connections = JoinSet::new();
    let peers = Peers::default();
    let (ending, ended) = watch::channel(());
    loop {
        let full = connections.len() >= limits.connections;
        tokio::select! {
            _ = &mut end => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.next(), if L::CLOSES || !full => match accepted {
                Ok((_, peer)) if full => {
                    tracing::debug!(?peer, "too many connections: one is closed");
                }
                Ok((stream, peer)) => match peers.seat(peer, limits.of_peer) {
                    Some(seat) => {
                        let served = serve(stream, ended.clone());
                        connections.spawn(async move {
                            served.await;
                            drop(seat);
                        });
                    }
                    None => tracing::debug!(?peer, "too many connections of one peer: one is closed"),
                },
                Err(error) => {
                    // No descriptor is left, or no memory: not better at once.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop((listener, ending, ended));
    let drained = async {
        while connections.join_next().await.is_some() {}
        streams.await;
    };
    let _ = timeout(DRAIN, drained).await;
}

/// How many connections each peer has. Locked for a look-up only.
#[derive(Clone, Debug, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place among those of its peer.
struct Seat {
    peers: Peers,
    peer: Option<IpAddr>,
}

impl Peers {
    /// A place for one more connection of the peer, if there is one.
    fn seat(&self, peer: Option<IpAddr>, most: usize) -> Option<Seat> {
        let peer = peer.map(one_peer);
        if let Some(peer) = peer {
            let mut peers = self.lock();
            let taken = peers.entry(peer).or_default();
            if *taken >= most {
                return None;
            }
            *taken += 1;
        }
        Some(Seat { peers: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // A panic elsewhere leaves the counts whole: each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut peers = self.peers.lock();
        if let Some(taken) = peers.get_mut(&peer) {
            *taken -= 1;
            if *taken == 0 {
                peers.remove(&peer);
            }
        }
    }
}

/// Of IPv6 the network of 64 bits, all of whose addresses one machine may have.
fn one_peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_number_of_places() {
        let peers = Peers::default();
        let seat = |peer: &str| peers.seat(Some(peer.parse().expect("an address")), 2);
        let one = seat("10.0.0.1").expect("a place");
        let two = seat("::ffff:10.0.0.1").expect("the same, written otherwise");
        assert!(seat("10.0.0.1").is_none());
        let other = [seat("10.0.0.2"), seat("fd00::1"), seat("fd00::2")];
        assert!(other.iter().all(Option::is_some));
        assert!(seat("fd00::3").is_none(), "the same network");
        assert!(seat("fd00:0:0:1::3").is_some());
        drop(one);
        drop(seat("10.0.0.1").expect("a place again"));
        drop((two, other));
        assert!(peers.lock().is_empty(), "nothing is kept of peers that are gone");
        assert!(peers.seat(None, 0).is_some(), "no address, no number");
    }
}
