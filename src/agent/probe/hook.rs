//! A container's hooks (upstream: `lifecycle.handlerRunner`).

use std::time::Duration;

use copepod_pod::Record;
use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, LifecycleHandler, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::exec::said;
use super::http::{self, GetError, Request};
use super::{Commands, OUTPUT_MAX, Target, text};
use crate::telemetry::chain;

/// How a hook ended.
#[derive(Debug)]
pub(crate) struct HookEnd {
    /// How it failed, in upstream's words for a container's status.
    pub(crate) result: Result<(), String>,
    /// What people are to be told besides.
    pub(crate) told: Option<Record>,
}

/// What is said of a hook that was cut short: of a command what upstream says when its context ends.
/// A request of upstream's has none.
pub(crate) fn canceled(handler: &LifecycleHandler, target: Target<'_>) -> String {
    match &handler.exec {
        Some(action) => {
            exec_failed(action, target, "rpc error: code = Canceled desc = context canceled", b"")
        }
        None => get_failed(handler.http_get.as_ref(), target, "context canceled"),
    }
}

/// Runs a hook to its end, however long that takes.
pub(crate) async fn hook(
    handler: &LifecycleHandler,
    target: Target<'_>,
    commands: &impl Commands,
) -> HookEnd {
    if let Some(action) = &handler.exec {
        return HookEnd { result: exec(action, target, commands).await, told: None };
    }
    if let Some(action) = &handler.http_get {
        let (result, told) = get(action, target).await;
        let result = result.map_err(|error| get_failed(Some(action), target, &error));
        return HookEnd { result, told };
    }
    // A `sleep` is waited for by `copepod_pod::step`.
    let result = match handler.sleep {
        Some(_) => Ok(()),
        None => Err(format!("Cannot run handler: invalid handler: {}", shown(handler))),
    };
    HookEnd { result, told: None }
}

fn get_failed(action: Option<&HTTPGetAction>, target: Target<'_>, error: &str) -> String {
    let path = action.and_then(|action| action.path.as_deref()).unwrap_or_default();
    let (name, pod) = (&target.container.name, text::pod(target.pod));
    format!(
        "HTTP lifecycle hook ({path}) for Container {name:?} in Pod {pod:?} failed - error: {error}"
    )
}

/// `message`: all that the command wrote.
fn exec_failed(action: &ExecAction, target: Target<'_>, error: &str, message: &[u8]) -> String {
    let command = text::list(action.command.as_deref().unwrap_or_default());
    let (name, pod) = (&target.container.name, text::pod(target.pod));
    let message = copepod_pod::go_quoted(message);
    format!(
        "Exec lifecycle hook ({command}) for Container {name:?} in Pod {pod:?} failed - error: \
         {error}, message: {message}"
    )
}

async fn exec(
    action: &ExecAction,
    target: Target<'_>,
    commands: &impl Commands,
) -> Result<(), String> {
    // As it was given: no variables are put in.
    let command = action.command.clone().unwrap_or_default();
    let failed = |error: &str, message: &[u8]| exec_failed(action, target, error, message);
    let output = commands.run(command.clone(), Duration::ZERO).await;
    let output = output.map_err(|error| failed(&chain(&error), b""))?;
    if output.code == 0 {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = format!("command '{}' exited with {}: {stderr}", command.join(" "), output.code);
    Err(failed(&error, &said(output, 2 * OUTPUT_MAX)))
}

/// Any answer is a success. A server that answers in the open though it was asked by HTTPS is asked
/// again in the open, without what is secret.
async fn get(action: &HTTPGetAction, target: Target<'_>) -> (Result<(), String>, Option<Record>) {
    let request = match Request::new(action, target, "lifecycle") {
        Ok(request) => request,
        Err(error) => return (Err(error), None),
    };
    let mut at = request.url.to_string();
    let open = request.clone().in_the_open();
    let first = match http::get(request, &mut at).await {
        Ok(mut answer) => {
            http::discard(&mut answer).await;
            return (Ok(()), None);
        }
        Err(error) => error,
    };
    if !matches!(first, GetError::NoTls) {
        return (Err(http::failed(&at, &first)), None);
    }
    let host = open.url.authority();
    // If that fails too, it is the first failure that is told.
    match http::get(open, &mut String::new()).await {
        Ok(mut answer) => http::discard(&mut answer).await,
        Err(_) => return (Err(http::failed(&at, &first)), None),
    }
    let message = format!(
        "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
    );
    let reason = "LifecycleHTTPFallback".to_owned();
    (Ok(()), Some(Record { warning: true, reason, message, container: None }))
}

/// A handler that is none, as Go prints it.
fn shown(handler: &LifecycleHandler) -> String {
    let socket = match &handler.tcp_socket {
        None => "nil".to_owned(),
        Some(TCPSocketAction { host, port }) => {
            let port = match port {
                IntOrString::Int(number) => format!("{{0 {number} }}"),
                IntOrString::String(name) => format!("{{1 0 {name}}}"),
            };
            format!("&TCPSocketAction{{Port:{port},Host:{},}}", host.as_deref().unwrap_or_default())
        }
    };
    format!("&LifecycleHandler{{Exec:nil,HTTPGet:nil,TCPSocket:{socket},Sleep:nil,}}")
}

#[cfg(test)]
#[path = "hook_test.rs"]
mod tests;
