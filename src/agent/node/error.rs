//! Why a node does not start.

use std::io;

use thiserror::Error;

use crate::cluster::kubeconfig::KubeconfigError;
use crate::image::ImageError;
use crate::ledger::LedgerError;
use crate::linux::cgroup::UnknownDriver;
use crate::metrics::MetricsError;
use crate::runtime::cri::CriError;
use crate::runtime::wasm::AdoptError;
use crate::server::StartError;
use crate::worker::UserIdsError;

/// Why a node does not start.
#[derive(Debug, Error)]
pub(crate) enum NodeError {
    /// Signals cannot be heard.
    #[error("cannot take signals")]
    Signals(#[source] io::Error),
    /// The kubeconfig is not one of this node.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The root directory, which another agent may have.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The directory of images.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// What an earlier agent left cannot be taken over.
    #[error("cannot take over what an earlier copepod started")]
    Adopt(#[from] AdoptError),
    /// The container runtime's endpoint.
    #[error("cannot use the container runtime")]
    Runtime(#[from] CriError),
    /// Nobody knows who makes control groups.
    #[error(transparent)]
    Driver(#[from] UnknownDriver),
    /// Which ids pods are given.
    #[error("cannot give pods user namespaces")]
    UserIds(#[from] UserIdsError),
    /// The program that knows which of them are the kubelet's.
    #[error("cannot ask getsubids")]
    SubIds(#[source] io::Error),
    /// What it says of users and of groups is not the same; upstream's words.
    #[error("mismatched subuids and subgids for user \"kubelet\"")]
    SubIdsDiffer,
    /// What is counted.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// One of the servers.
    #[error(transparent)]
    Server(#[from] StartError),
}
