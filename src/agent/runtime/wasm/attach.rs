//! A running container's own streams for a client: its sandbox is sent the ends of pipes, copies
//! what the guest writes into them and gives the guest what comes out of them.
//!
//! It belongs to whoever waits for it: a pipe whose other end is closed is let go of by the sandbox.
//! So an agent that is started again has nobody attached, and need not know that anybody was.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use copepod_wasm::frame::{Attached, ToSandbox};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Attach, ExecError, Table, Wasm};
use crate::linux;

/// Clients that may be attached to one container at a time: its sandbox copies to each of them.
pub(super) const AT_ONCE: usize = 8;

/// What an attached client has of its container.
struct Place {
    link: Arc<OwnedWriteHalf>,
    /// Closed when the container has ended.
    container: mpsc::Sender<Duration>,
    _permit: OwnedSemaphorePermit,
}

impl Table {
    fn attach(&self, id: &str) -> Result<Place, ExecError> {
        self.running(id, |entry| {
            let link = entry.link.clone()?;
            let permit = entry.attached.clone().try_acquire_owned();
            Some(permit.map_err(|_| ExecError::TooMany(AT_ONCE)).map(|permit| Place {
                link,
                container: entry.stop.clone(),
                _permit: permit,
            }))
        })
    }
}

/// Connects the container `id` to pipes and waits for its end.
pub(super) async fn attach(wasm: &Wasm, id: &str, attach: Attach) -> Result<(), ExecError> {
    let place = wasm.table.attach(id)?;
    {
        let Attach { stdin, stdout, stderr } = &attach;
        let which =
            Attached { stdin: stdin.is_some(), stdout: stdout.is_some(), stderr: stderr.is_some() };
        let ends = [stdin, stdout, stderr].into_iter().flatten();
        let ends: Vec<BorrowedFd<'_>> = ends.map(|end| end.as_fd()).collect();
        let failed = |e| ExecError::Connect(e);
        let frame = ToSandbox::Attach(which).encode();
        let frame = frame.map_err(|e| failed(std::io::Error::other(e)))?;
        let socket: &tokio::net::UnixStream = (*place.link).as_ref();
        linux::send_with_fds(socket, &frame, &ends).map_err(failed)?;
    }
    // The sandbox has them; with ours open, no pipe would ever end.
    drop(attach);
    place.container.closed().await;
    Ok(())
}
