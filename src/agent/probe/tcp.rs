//! A probe by a connection that is made and closed.

use std::time::Duration;

use copepod_pod::ProbeOutcome;
use k8s_openapi::api::core::v1::TCPSocketAction;
use tokio::time::timeout;

use super::dial::dial;
use super::{Target, host, port, text};

/// Connects, and is content with that.
pub(super) async fn probe(
    action: &TCPSocketAction,
    target: Target<'_>,
    within: Duration,
) -> ProbeOutcome {
    let port = match port::resolve(&action.port, target.container) {
        Ok(port) => port,
        Err(error) => return ProbeOutcome::Error(error.to_string()),
    };
    let host = match host(action.host.as_ref(), target.ip) {
        Ok(host) => host,
        Err(error) => return ProbeOutcome::Error(error.into()),
    };
    match timeout(within, dial(&host, port)).await {
        Ok(Ok(_stream)) => ProbeOutcome::Success,
        Ok(Err(error)) => ProbeOutcome::Failure(error.to_string()),
        Err(_) => {
            let address = text::joined(&host, port);
            ProbeOutcome::Failure(format!("dial tcp {address}: i/o timeout"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::json;

    use super::*;
    use crate::probe::test_server::{ClosedPort, Does, FullPort, Server, probe};

    #[tokio::test]
    async fn a_connection_is_enough() {
        let server = Server::start(vec![Does::Resets]).await;
        let ask = |at: SocketAddr, seconds: u32| {
            probe(json!({"tcpSocket": {"port": at.port()}, "timeoutSeconds": seconds}))
        };
        assert_eq!(ask(server.address, 60).await, ProbeOutcome::Success);
        let closed = ClosedPort::new();
        let text = format!("dial tcp {}: connect: connection refused", closed.address);
        assert_eq!(ask(closed.address, 60).await, ProbeOutcome::Failure(text));
        let full = FullPort::new().await;
        let text = format!("dial tcp {}: i/o timeout", full.address);
        assert_eq!(ask(full.address, 1).await, ProbeOutcome::Failure(text));
        let port = closed.address.port();
        let host = json!({"port": port, "host": "127.0.0.2"});
        let text = format!("dial tcp 127.0.0.2:{port}: connect: connection refused");
        let outcome = probe(json!({"tcpSocket": host, "timeoutSeconds": 60})).await;
        assert_eq!(outcome, ProbeOutcome::Failure(text));
    }
}
