//! Whether an HTTP server can have its port.

use std::io;
use std::net::{IpAddr, TcpListener};

use crate::linux::listener;

/// Why nobody can listen there, to follow the port's name; `None` if somebody can. Another process
/// may still be faster than the guest.
pub(super) fn trouble(addresses: &[IpAddr], port: u16) -> Option<String> {
    let error = addresses.iter().find_map(|ip| TcpListener::bind((*ip, port)).err())?;
    if error.kind() != io::ErrorKind::AddrInUse {
        return Some(format!("cannot be listened on: {error}"));
    }
    let by = listener::of_port(port).map(|by| format!(": {} (process {})", by.name, by.pid));
    Some(format!("is taken by another process{}", by.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_taken_port_names_its_process() {
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST)];
        let held = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("binds");
        let port = held.local_addr().expect("is bound").port();
        let text = trouble(&addresses, port).expect("is taken");
        let pid = std::process::id();
        assert!(text.starts_with("is taken by another process: copepod"), "{text}");
        assert!(text.ends_with(&format!("(process {pid})")), "{text}");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = free.local_addr().expect("is bound").port();
        drop(free);
        assert_eq!(trouble(&addresses, port), None);
    }
}
