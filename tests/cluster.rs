//! A real cluster for tests: etcd, API server, controller manager and scheduler of the pinned
//! version ([`ControlPlane`]), nodes that are `copepod node` ([`Node`]) each with a network of its
//! own and, if asked for, a containerd ([`Containerd`]), clients that ask as fast as a test can look, and the watch over what is left behind.
//!
//! All names that leave a run's own directory (bridges, control groups) carry the process id of the
//! run, and [`ControlPlane::start`] removes what a killed run has left.

pub mod api;
pub mod containerd;
pub mod cri;
pub mod images;
pub mod kubelet;
pub mod leaks;
pub mod metrics;
pub mod network;
pub mod node;
pub mod pki;
pub mod plane;
pub mod program;
pub mod rules;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

pub use api::Api;
pub use containerd::{Build, Containerd};
pub use cri::Cri;
pub use node::{Node, NodeOptions};
pub use plane::{ControlPlane, Options};

/// Ports that tests hand out: below those that the kernel gives to outgoing connections (32768 and
/// up), since who connects again and again to such a port of its own machine meets itself one day,
/// and a server that comes back must find its port free.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// The program that holds the control plane and kubectl, as `make kubernetes` made it
/// (`COPEPOD_KUBERNETES`).
pub fn kubernetes() -> PathBuf {
    crate::variable("COPEPOD_KUBERNETES")
}

/// A port on which nothing listens at this address, given once in a run.
pub fn free_port(ip: IpAddr) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in PORTS {
        // Runs beside one another begin at different places.
        let start = u16::try_from(std::process::id() % 311).expect("below 311") * 64;
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + start.wrapping_add(step) % (PORTS.end - PORTS.start);
        if TcpListener::bind(SocketAddr::new(ip, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port at {ip}");
}
