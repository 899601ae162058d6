//! Commands and streams of the runtime's containers: it serves them itself, at addresses that it
//! gives; and commands that nobody watches.

use std::time::Duration;

use copepod_cri::{AttachRequest, ExecRequest, ExecSyncRequest, PortForwardRequest};
use tonic::Code;

use super::Cri;
use super::client::{CriError, call, within};
use crate::runtime::{ExecError, ExecOutput, RefusalKind, StreamKind, StreamRequest};

/// What a command of unbounded time may take (upstream gives CRI zero, which is no limit; a probe or
/// a hook always has one).
const EXEC_MAX: Duration = Duration::from_secs(24 * 3600);

impl Cri {
    /// Where the runtime streams what is asked for of a container.
    ///
    /// # Errors
    /// [`ExecError`].
    pub(crate) async fn stream_url(
        &self,
        id: &str,
        request: &StreamRequest,
    ) -> Result<String, ExecError> {
        let Some(id) = self.own_id(id) else { return Err(ExecError::NotRunning(id.into())) };
        let limit = self.0.client.patience;
        let mut runtime = self.0.client.runtime();
        let StreamRequest { stdin, stdout, stderr, tty, .. } = *request;
        let url = match &request.kind {
            StreamKind::Exec(command) => {
                let request = ExecRequest {
                    container_id: id.into(),
                    cmd: command.clone(),
                    tty,
                    stdin,
                    stdout,
                    stderr,
                };
                call("Exec", limit, runtime.exec(within(limit, request))).await.map(|a| a.url)
            }
            StreamKind::Attach => {
                let request = AttachRequest { container_id: id.into(), stdin, tty, stdout, stderr };
                call("Attach", limit, runtime.attach(within(limit, request))).await.map(|a| a.url)
            }
        };
        url.map_err(|error| refusal(&error))
    }

    /// Where the runtime forwards ports of the pod; `None`: it has no sandbox of it.
    ///
    /// # Errors
    /// [`ExecError`].
    pub(crate) async fn port_forward_url(
        &self,
        pod_uid: &str,
        ports: &[u16],
    ) -> Result<Option<String>, ExecError> {
        let sandbox = {
            let table = self.0.table.lock();
            table.newest_sandbox(pod_uid).filter(|(_, one)| one.ready).map(|(id, _)| id.clone())
        };
        let Some(pod_sandbox_id) = sandbox else { return Ok(None) };
        let port = ports.iter().map(|port| i32::from(*port)).collect();
        let request = PortForwardRequest { pod_sandbox_id, port };
        let limit = self.0.client.patience;
        let mut runtime = self.0.client.runtime();
        let answer = call("PortForward", limit, runtime.port_forward(within(limit, request))).await;
        answer.map(|answer| Some(answer.url)).map_err(|error| refusal(&error))
    }

    /// Runs a command and gives what it wrote, at most `limit` bytes of each stream. Zero is no
    /// `timeout`.
    ///
    /// # Errors
    /// [`ExecError`].
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
        limit: usize,
    ) -> Result<ExecOutput, ExecError> {
        let Some(id) = self.own_id(id) else { return Err(ExecError::NotRunning(id.into())) };
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd: command.to_vec(),
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let patience = patience(timeout, self.0.client.patience);
        let mut runtime = self.0.client.runtime();
        let answer = call("ExecSync", patience, runtime.exec_sync(within(patience, request))).await;
        let answer = answer.map_err(|error| exec_refusal(&error, command, timeout))?;
        let cut = |mut bytes: Vec<u8>| {
            bytes.truncate(limit);
            bytes
        };
        Ok(ExecOutput {
            code: answer.exit_code,
            stdout: cut(answer.stdout),
            stderr: cut(answer.stderr),
        })
    }
}

/// How long the answer to a command is waited for, of which the call itself may take `slack`: a
/// runtime that is slow to start it or to clear it away is no command that was slow (upstream:
/// `ExecSync`).
fn patience(timeout: Duration, slack: Duration) -> Duration {
    if timeout.is_zero() { EXEC_MAX } else { timeout.saturating_add(slack) }
}

/// As [`refusal`], of a command that has a time of its own (upstream's `ExecSync`).
fn exec_refusal(error: &CriError, command: &[String], within: Duration) -> ExecError {
    match error.code() == Code::DeadlineExceeded {
        true => ExecError::timed_out(command, within),
        false => refusal(error),
    }
}

fn refusal(error: &CriError) -> ExecError {
    let code = error.code();
    let kind = if code == Code::NotFound {
        RefusalKind::NotFound
    } else if code == Code::ResourceExhausted {
        RefusalKind::Exhausted
    } else {
        RefusalKind::Other
    };
    ExecError::Runtime { kind, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_its_time_and_its_call_the_clients_patience_besides() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(seconds(1), seconds(120)), seconds(121));
        assert_eq!(patience(Duration::ZERO, seconds(120)), EXEC_MAX);
    }
}
