//! A probe by a command in the container.

use std::time::Duration;

use copepod_pod::{ProbeOutcome, argv};
use k8s_openapi::api::core::v1::{Container, ExecAction};

use super::{Commands, OUTPUT_MAX, Target};
use crate::runtime::{ExecError, ExecOutput};
use crate::telemetry::chain;

/// Runs the command; its exit code is the answer.
pub(super) async fn probe(
    action: &ExecAction,
    target: Target<'_>,
    within: Duration,
    commands: &impl Commands,
) -> ProbeOutcome {
    match commands.run(command(action, target.container), within).await {
        Ok(output) if output.code == 0 => ProbeOutcome::Success,
        Ok(output) => {
            let said = said(output, OUTPUT_MAX);
            ProbeOutcome::Failure(String::from_utf8_lossy(&said).into_owned())
        }
        Err(error) => match error {
            ExecError::TimedOut { .. } => ProbeOutcome::Failure(error.to_string()),
            ExecError::NoCommand
            | ExecError::NotRunning(_)
            | ExecError::TooMany(_)
            | ExecError::Start(_)
            | ExecError::NotStarted(_)
            | ExecError::Connect(_)
            | ExecError::Runtime { .. } => ProbeOutcome::Error(chain(&error)),
        },
    }
}

/// The command with the variables put in that the container's spec itself gives a value; one whose
/// value comes from elsewhere is empty (upstream: `ExpandContainerCommandOnlyStatic`).
fn command(action: &ExecAction, container: &Container) -> Vec<String> {
    let env = container.env.iter().flatten();
    let env: Vec<_> =
        env.map(|var| (var.name.clone(), var.value.clone().unwrap_or_default())).collect();
    let of_probe = Container { command: action.command.clone(), ..Container::default() };
    argv(&of_probe, &env).0
}

/// All that a command wrote, what it wrote of errors last, cut off at `limit`.
pub(super) fn said(output: ExecOutput, limit: usize) -> Vec<u8> {
    let mut said = output.stdout;
    said.extend(output.stderr);
    said.truncate(limit);
    said
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::probe::test_server::Scripted;

    fn pod_and_container() -> (k8s_openapi::api::core::v1::Pod, Container) {
        let container = json!({"name": "c", "env": [
            {"name": "A", "value": "one"}, {"name": "B", "value": "$(A)"},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]});
        (Default::default(), serde_json::from_value(container).unwrap())
    }

    async fn run(scripted: &Scripted, command: &[&str]) -> ProbeOutcome {
        let (pod, container) = pod_and_container();
        let target = Target { pod: &pod, container: &container, ip: None };
        let probe = json!({"exec": {"command": command}, "timeoutSeconds": 3});
        crate::probe::probe(&serde_json::from_value(probe).unwrap(), target, scripted).await
    }

    #[tokio::test]
    async fn the_exit_code_is_the_answer_and_only_static_variables_are_put_in() {
        let commands = Scripted::new(vec![
            Ok(ExecOutput::default()),
            Ok(ExecOutput { code: 3, stdout: b"out\n".into(), stderr: b"err".into() }),
        ]);
        assert_eq!(run(&commands, &["x", "$(A)$(B)$(C)$(D)"]).await, ProbeOutcome::Success);
        let failed = ProbeOutcome::Failure("out\nerr".into());
        assert_eq!(run(&commands, &["x"]).await, failed);
        let given: Vec<_> = commands.given();
        let within = Duration::from_secs(3);
        let asked = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(given, [(asked(&["x", "one$(A)$(D)"]), within), (asked(&["x"]), within)]);
    }

    #[tokio::test]
    async fn a_failure_counts_at_once_and_an_error_is_tried_again() {
        let late = || Err(ExecError::TimedOut { command: "x y".into(), within: "3s".into() });
        let commands = Scripted::new(vec![late(), Ok(ExecOutput::default())]);
        let failed = ProbeOutcome::Failure("command timed out: \"x y\" timed out after 3s".into());
        assert_eq!(run(&commands, &["x"]).await, failed);
        let none = || Err(ExecError::NotRunning("wasm://1".into()));
        let commands = Scripted::new(vec![none(), none(), Ok(ExecOutput::default()), none()]);
        assert_eq!(run(&commands, &["x"]).await, ProbeOutcome::Success);
        let commands = Scripted::new(vec![none(), none(), none(), none()]);
        let error = ProbeOutcome::Error("container not running (wasm://1)".into());
        assert_eq!((run(&commands, &["x"]).await, commands.given().len()), (error, 3));
    }

    #[tokio::test]
    async fn of_much_output_the_beginning_is_told() {
        let stdout = vec![b'a'; OUTPUT_MAX - 1];
        let much = ExecOutput { code: 1, stdout: stdout.clone(), stderr: b"bcd".into() };
        let commands = Scripted::new(vec![Ok(much)]);
        let ProbeOutcome::Failure(text) = run(&commands, &["x"]).await else {
            panic!("no failure")
        };
        assert_eq!(text.into_bytes(), [stdout, b"b".into()].concat());
    }
}
