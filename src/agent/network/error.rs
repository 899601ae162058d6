//! What may go wrong with a pod's network; with its sources, each reads as containerd words it.

use std::io;

use thiserror::Error;

use super::capability::OptionsError;
use super::chain::ChainError;
use super::conf::ConfError;
use super::record::RecordError;
use super::result::ResultError;

/// Why a pod has no network, or still has one.
#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    /// A pod without a uid that can name a file; the API server gives no other.
    #[error("pod uid {0:?}: expected a file name")]
    Uid(String),
    /// It could not be attached.
    #[error("failed to setup network for sandbox {id:?}")]
    Setup {
        /// The container id that plugins know it by.
        id: String,
        /// Why.
        #[source]
        source: SetupError,
    },
    /// What was attached could not be detached.
    #[error("failed to destroy network for sandbox {id:?}")]
    Destroy {
        /// The container id that plugins know it by.
        id: String,
        /// Why.
        #[source]
        source: ChainError,
    },
    /// A plugin of an agent before this one still runs.
    #[error("plugins for sandbox {id:?} that an earlier agent has started run on")]
    Left {
        /// The container id that they were given.
        id: String,
        /// Why they could not be ended.
        #[source]
        source: io::Error,
    },
    /// Its namespace stays.
    #[error("failed to remove network namespace of pod {uid}")]
    Remove {
        /// The pod.
        uid: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its record.
    #[error("failed to keep the pod's network")]
    Record(#[from] RecordError),
    /// The agent ends.
    #[error("the agent ends before the pod's network is done")]
    Ended,
}

/// Why a pod could not be attached.
#[derive(Debug, Error)]
pub(crate) enum SetupError {
    /// There is no network to attach it to. (Its text is the whole one.)
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// It asks for what cannot be.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Its namespace.
    #[error("failed to create network namespace")]
    Namespace(#[source] io::Error),
    /// A plugin.
    #[error(transparent)]
    Plugin(#[from] ChainError),
    /// What the plugins gave it.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// Its sysctls.
    #[error("failed to apply sysctls")]
    Sysctl(#[source] io::Error),
}
