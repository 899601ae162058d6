//! Other resources for a sandbox that runs: its control group's limits, and what the engine lets its
//! guest's memories hold.
//!
//! What the sandbox is told it hears when its guest waits for something or wants more memory than it
//! has (`copepod-sandbox`, `limit`), so that nobody waits for an answer: until then the group alone
//! holds a guest that has more than it is to have. What was started is kept anew, for commands beside
//! it and for the next agent.

use std::io;
use std::sync::Arc;

use copepod_pod::AttemptState;
use copepod_wasm::frame::ToSandbox;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;

use super::super::resize::Resources;
use super::{Container, Table, Wasm};
use crate::ledger::write_whole;
use crate::linux;
use crate::linux::cgroup::CgroupError;

/// Why a container was not resized.
#[derive(Debug, Error)]
pub(super) enum ResizeError {
    /// Its control group does not take the limits.
    #[error("cannot resize container {id:?}")]
    Cgroup {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: CgroupError,
    },
    /// What it runs cannot be written.
    #[error("cannot keep the memory limit of container {id:?}")]
    Keep {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its sandbox is not to be reached.
    #[error("cannot tell container {id:?} its memory limit")]
    Tell {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What is known of a container that runs.
struct Place {
    pod_uid: String,
    container: Option<Arc<Container>>,
    link: Option<Arc<tokio::net::unix::OwnedWriteHalf>>,
}

impl Table {
    /// None for one that does not run.
    fn living(&self, id: &str) -> Option<Place> {
        let entries = self.lock();
        let entry = entries.get(id)?;
        match entry.attempt.state {
            AttemptState::Starting | AttemptState::Running { .. } => Some(Place {
                pod_uid: entry.pod_uid.clone(),
                container: entry.container.clone(),
                link: entry.link.clone(),
            }),
            AttemptState::Exited(_) => None,
        }
    }

    fn set_memory_limit(&self, id: &str, bytes: Option<u64>) {
        if let Some(container) = self.lock().get_mut(id).and_then(|e| e.container.as_mut()) {
            Arc::make_mut(container).memory_limit_bytes = bytes;
        }
    }
}

/// Gives the container `id` other resources. One that has ended needs none.
pub(super) async fn resize(wasm: &Wasm, id: &str, resources: Resources) -> Result<(), ResizeError> {
    let Some(place) = wasm.table.living(id) else { return Ok(()) };
    let Resources { cgroup, memory_limit_bytes, ordinary: _ } = resources;
    if let Some(spec) = cgroup {
        let (uid, own) = (place.pod_uid, id.to_owned());
        let limit = move || spec.limit(&uid, &own);
        let done = spawn_blocking(limit).await;
        let done = done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        done.map_err(|source| ResizeError::Cgroup { id: id.into(), source })?;
    }
    let had = place.container.as_ref().map(|container| container.memory_limit_bytes);
    if had == Some(memory_limit_bytes) {
        return Ok(());
    }
    let told = tell(place.link.as_deref().map(AsRef::as_ref), memory_limit_bytes);
    told.map_err(|source| ResizeError::Tell { id: id.into(), source })?;
    let Some(container) = place.container else { return Ok(()) };
    let container = Container { memory_limit_bytes, ..(*container).clone() };
    let path = wasm.ledger.description(id);
    if !container.die_with_agent {
        let json = serde_json::to_vec(&container).map_err(io::Error::from);
        let kept = json.and_then(|json| write_whole(&path, &json));
        kept.map_err(|source| ResizeError::Keep { id: id.into(), source })?;
    }
    wasm.table.set_memory_limit(id, memory_limit_bytes);
    Ok(())
}

fn tell(to: Option<&UnixStream>, bytes: Option<u64>) -> io::Result<()> {
    let to = to.ok_or(io::ErrorKind::NotConnected)?;
    let frame = ToSandbox::Limit(bytes).encode().map_err(io::Error::other)?;
    linux::send_with_fds(to, &frame, &[])
}
