//! `/exec` and `/attach`: a command beside a running container, or the container itself, with a
//! client's streams. Containers of another runtime are streamed by that: the request is passed on
//! ([`proxy`](super::proxy)).

use std::sync::Arc;

use hyper::{Request, Response, StatusCode};

use super::answer::{Answer, Refusal};
use super::route::{Query, Target};
use super::stream::Wanted;
use super::stream::relay::{self, Ended, Failed};
use super::stream::status::End;
use super::stream::upgrade::{OF_COMMANDS, agree, with_client};
use super::stream::{Client, Gone};
use super::{Pods, Served, Shared, proxy};
use crate::runtime::{ExecError, ExecExit, RefusalKind, StreamKind, StreamRequest};
use crate::telemetry::chain;

impl Wanted {
    /// The streams that a query asks for.
    ///
    /// # Errors
    /// Upstream's refusal of none.
    fn of(query: &Query) -> Result<Self, Refusal> {
        let is = |name: &str| query.is_set(name);
        let tty = is("tty");
        let stderr = is("error") && !tty;
        let wanted = Self { stdin: is("input"), stdout: is("output"), stderr, tty };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            let text = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        Ok(wanted)
    }

    fn request(self, kind: StreamKind) -> StreamRequest {
        let Self { stdin, stdout, stderr, tty } = self;
        StreamRequest { kind, stdin, stdout, stderr, tty }
    }
}

/// Upstream's refusal of a runtime's (`streaming.WriteError`).
pub(super) fn refused(error: &ExecError) -> Refusal {
    let code = match error {
        ExecError::Runtime { kind: RefusalKind::NotFound, .. } => StatusCode::NOT_FOUND,
        ExecError::Runtime { kind: RefusalKind::Exhausted, .. } => StatusCode::TOO_MANY_REQUESTS,
        ExecError::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        ExecError::NoCommand
        | ExecError::NotRunning(_)
        | ExecError::Start(_)
        | ExecError::NotStarted(_)
        | ExecError::TimedOut { .. }
        | ExecError::Connect(_)
        | ExecError::Runtime { kind: RefusalKind::Other, .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(code, chain(error))
}

impl<P: Pods> Shared<P> {
    /// The pod that is meant; upstream's refusal of one that is not here.
    pub(super) fn pod(&self, target: &Target) -> Result<Served, Refusal> {
        let found = self.find(target);
        found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "pod does not exist"))
    }

    /// Whether the pod is the one of the uid that is asked for, and has the container.
    pub(super) fn has(served: &Served, target: &Target) -> bool {
        target.uid.as_deref().is_none_or(|wanted| served.is_of(wanted))
            && served.has_container(&target.container)
    }

    /// Answers with a connection over which the command's streams go.
    pub(super) async fn exec<B>(
        self: &Arc<Self>,
        target: &Target,
        query: &Query,
        request: Request<B>,
    ) -> Result<Response<Answer>, Refusal> {
        let wanted = Wanted::of(query)?;
        let command: Vec<String> = query.all("command").map(String::from).collect();
        let served = self.pod(target)?;
        if !Self::has(&served, target) {
            // Upstream's code, which its runtime's errors have as well.
            let text = format!("container not found ({:?})", target.container);
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        if command.is_empty() {
            let text = "you must specify at least one command for the container";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        let streams = wanted.request(StreamKind::Exec(command.clone()));
        let container = target.container.clone();
        let url = self.pods.stream_url(&served, &container, streams).await;
        if let Some(url) = url.map_err(|e| refused(&e))? {
            return self.pass_on(&url, request).await;
        }
        let shared = Arc::clone(self);
        self.serve(request, wanted, async move |mut client| {
            let start = |streams| shared.pods.exec(&served, &container, command, streams);
            let ended = relay::command(&mut client, wanted.tty, start).await;
            let end = match ended {
                Err(Failed::Gone) => return Err(Gone),
                Err(Failed::Make(error)) => {
                    End::Failed(format!("cannot make the command's streams: {error}"))
                }
                Ok(Ended::Interrupted(code)) => End::Code(code),
                Ok(Ended::CutOff) => End::Success,
                Ok(Ended::Itself(Ok(ExecExit { code, message }))) => {
                    // Where people look; a status with an exit code is read for that code alone.
                    let shown = client.stderr.as_ref().or(client.stdout.as_ref());
                    if let Some(shown) = shown.filter(|_| !message.is_empty()) {
                        let end = if wanted.tty { "\r\n" } else { "\n" };
                        shown.send(format!("{}{end}", message.trim_end())).await?;
                    }
                    End::of_code(code)
                }
                Ok(Ended::Itself(Err(error))) => {
                    End::Failed(format!("error executing command in container: {}", chain(&error)))
                }
            };
            client.finish(&end).await
        })
    }

    /// Answers with a connection over which the container's own streams go.
    pub(super) async fn attach<B>(
        self: &Arc<Self>,
        target: &Target,
        query: &Query,
        request: Request<B>,
    ) -> Result<Response<Answer>, Refusal> {
        let wanted = Wanted::of(query)?;
        let served = self.pod(target)?;
        if !Self::has(&served, target) {
            let Target { container, pod, namespace, .. } = target;
            let text = format!("container {container} not found in pod {pod}_{namespace}");
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let container = target.container.clone();
        // The container's own setting counts for it; the client's says which streams it opens.
        let tty = served.has_terminal(&container);
        let stderr = wanted.stderr && !tty;
        let streams = Wanted { tty, stderr, ..wanted }.request(StreamKind::Attach);
        let url = self.pods.stream_url(&served, &container, streams).await;
        if let Some(url) = url.map_err(|e| refused(&e))? {
            return self.pass_on(&url, request).await;
        }
        let shared = Arc::clone(self);
        self.serve(request, wanted, async move |mut client| {
            let start = |attach| shared.pods.attach(&served, &container, attach);
            let end = match relay::attached(&mut client, tty, start).await {
                Err(Failed::Gone) => return Err(Gone),
                Err(Failed::Make(error)) => {
                    End::Failed(format!("cannot make the container's streams: {error}"))
                }
                Ok(Ended::Interrupted(_) | Ended::Itself(Some(Ok(())) | None)) => End::Success,
                Ok(Ended::CutOff) => End::Failed(
                    "error attaching to container: its output was not taken for too long".into(),
                ),
                Ok(Ended::Itself(Some(Err(error)))) => {
                    End::Failed(format!("error attaching to container: {}", chain(&error)))
                }
            };
            client.finish(&end).await
        })
    }

    /// Agrees with the client on a protocol, and has `work` done over its streams.
    fn serve<B, F>(
        &self,
        mut request: Request<B>,
        wanted: Wanted,
        work: impl FnOnce(Client) -> F + Send + 'static,
    ) -> Result<Response<Answer>, Refusal>
    where
        F: Future<Output = Result<(), Gone>> + Send,
    {
        let (spoken, answer) = agree(request.headers(), &OF_COMMANDS)?;
        let permit = self.stream_permit()?;
        let idle = self.stream_idle;
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let _permit = permit;
            match upgrade.await {
                Ok(upgraded) => {
                    let work = async move |client| {
                        if work(client).await.is_err() {
                            tracing::debug!("a client went away");
                        }
                    };
                    with_client(spoken, upgraded, wanted, idle, work).await;
                }
                Err(error) => tracing::debug!(%error, "a client went away"),
            }
        });
        Ok(answer)
    }

    /// Passes the request on to the runtime's own server.
    pub(super) async fn pass_on<B>(
        &self,
        url: &str,
        request: Request<B>,
    ) -> Result<Response<Answer>, Refusal> {
        let permit = self.stream_permit()?;
        proxy::pass_on(url, request, permit, self.stream_idle).await
    }
}
