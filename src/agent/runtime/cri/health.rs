//! The runtime's own health, for the node's conditions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_cri::{RuntimeConfigRequest, RuntimeHandler, StatusRequest, VersionRequest};
use tokio::time::sleep;

use super::client::{Client, CriError, call, within};
use super::{Cri, Inner};
use crate::telemetry::chain;

/// How often the runtime is asked (upstream: `updateRuntimeUp`, 5 s).
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer is waited for: a condition is to be true of now.
const PATIENCE: Duration = Duration::from_secs(10);
/// The relist is stuck after so long (upstream: `relistThreshold`).
const RELIST_MAX: Duration = Duration::from_secs(180);
/// For how long a runtime that does not answer is taken to be as it was (upstream:
/// `maxWaitForContainerRuntime`): a restart of it is no matter.
const FORGIVEN: Duration = Duration::from_secs(30);
/// The conditions that a runtime has to have (upstream: `updateRuntimeUp`).
const CONDITIONS: [&str; 2] = ["RuntimeReady", "NetworkReady"];
/// What upstream calls what each of them is of.
const RUNTIME: &str = "container runtime";
const NETWORK: &str = "container runtime network";

/// What the runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Health {
    /// What keeps the node from being ready, in upstream's words; empty: nothing.
    pub(crate) problems: Vec<String>,
    /// Whether it was asked at all.
    pub(crate) asked: bool,
    /// `NAME://VERSION`.
    pub(crate) version: String,
    /// Its handlers and what they can do.
    pub(crate) handlers: Vec<RuntimeHandler>,
    /// Whether it honours `supplementalGroupsPolicy`.
    pub(crate) supplemental_groups_policy: bool,
}

impl Health {
    /// Why pods have no network, if the runtime says that they have none.
    pub(crate) fn network_problem(&self) -> Option<&str> {
        let mut problems = self.problems.iter();
        problems.find(|problem| problem.starts_with(NETWORK)).map(String::as_str)
    }
}

/// Which runtime it is: its name and `NAME://VERSION`.
///
/// # Errors
/// [`CriError`].
pub(crate) async fn version(client: &Client) -> Result<(String, String), CriError> {
    let mut runtime = client.runtime();
    let request = VersionRequest { version: "v1".into() };
    let answer = call("Version", PATIENCE, runtime.version(within(PATIENCE, request))).await?;
    let version = format!("{}://{}", answer.runtime_name, answer.runtime_version);
    Ok((answer.runtime_name, version))
}

/// Who makes its control groups, as CRI numbers them; `None`: it does not say.
///
/// # Errors
/// [`CriError`].
pub(crate) async fn cgroup_driver(client: &Client) -> Result<Option<i32>, CriError> {
    let mut runtime = client.runtime();
    let request = within(PATIENCE, RuntimeConfigRequest {});
    match call("RuntimeConfig", PATIENCE, runtime.runtime_config(request)).await {
        Ok(answer) => Ok(answer.linux.map(|linux| linux.cgroup_driver)),
        // Older than Kubernetes 1.28.
        Err(error) if error.is_unimplemented() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Cri {
    /// What the runtime says of itself, as it changes.
    pub(crate) fn health(&self) -> tokio::sync::watch::Receiver<Health> {
        self.0.health.subscribe()
    }
}

/// Asks again and again, for as long as the agent lives.
pub(super) async fn run(inner: Arc<Inner>) {
    let begun = Instant::now();
    let mut answered: Option<Instant> = None;
    loop {
        let health = match ask(&inner.client).await {
            Ok(health) => {
                answered = Some(Instant::now());
                health
            }
            Err(error) => {
                let known = inner.health.borrow().clone();
                tracing::debug!(error = chain(&error), "the container runtime does not answer");
                if answered.is_some_and(|at| at.elapsed() < FORGIVEN) {
                    sleep(EVERY).await;
                    continue;
                }
                // Upstream's words for a runtime that does not say that it is up.
                Health { problems: vec!["container runtime is down".into()], asked: true, ..known }
            }
        };
        let health = with_relist(inner.looked.borrow().at, begun, health);
        inner.health.send_if_modified(|old| {
            let changed = *old != health;
            *old = health;
            changed
        });
        sleep(EVERY).await;
    }
}

/// Upstream: `PLEG is not healthy`. The last relist was at `at`; one that there never was is waited for
/// a while, since it begins with this.
fn with_relist(at: Option<Instant>, begun: Instant, mut health: Health) -> Health {
    let why = match at {
        None if begun.elapsed() > FORGIVEN => "pleg has yet to be successful".to_owned(),
        Some(at) if at.elapsed() > RELIST_MAX => {
            format!("pleg was last seen active {}s ago; threshold is 3m0s", at.elapsed().as_secs())
        }
        None | Some(_) => return health,
    };
    health.problems.push(format!("PLEG is not healthy: {why}"));
    health
}

async fn ask(client: &Client) -> Result<Health, CriError> {
    let (_, version) = version(client).await?;
    let mut runtime = client.runtime();
    let request = StatusRequest { verbose: false };
    let status = call("Status", PATIENCE, runtime.status(within(PATIENCE, request))).await?;
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    let mut problems = Vec::new();
    for (name, word) in CONDITIONS.into_iter().zip([RUNTIME, NETWORK]) {
        let found = conditions.iter().find(|condition| condition.r#type == name);
        match found {
            Some(condition) if condition.status => {}
            Some(condition) => problems.push(format!(
                "{word} not ready: {name}=false reason:{} message:{}",
                condition.reason, condition.message
            )),
            None => problems.push(format!("{word} not ready: {name} condition is not set")),
        }
    }
    let groups = status.features.is_some_and(|features| features.supplemental_groups_policy);
    Ok(Health {
        problems,
        asked: true,
        version,
        handlers: status.runtime_handlers,
        supplemental_groups_policy: groups,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relist_that_is_stuck_or_never_was_is_a_problem() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).expect("a time");
        let problems = |at, begun| with_relist(at, begun, Health::default()).problems;
        assert_eq!(problems(None, ago(25)), <[String; 0]>::default());
        let never = "PLEG is not healthy: pleg has yet to be successful";
        assert_eq!(problems(None, ago(31)), [never]);
        assert_eq!(problems(Some(ago(170)), ago(1000)), <[String; 0]>::default());
        let stuck = "PLEG is not healthy: pleg was last seen active 200s ago; threshold is 3m0s";
        assert_eq!(problems(Some(ago(200)), ago(1000)), [stuck]);
    }

    #[test]
    fn only_the_network_is_the_networks_problem() {
        let health = |problems: &[&str]| Health {
            problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
            ..Health::default()
        };
        let network = "container runtime network not ready: NetworkReady=false reason:a message:b";
        let runtime = "container runtime not ready: RuntimeReady=false reason:a message:b";
        assert_eq!(health(&[runtime, network]).network_problem(), Some(network));
        assert_eq!(health(&[runtime, "container runtime is down"]).network_problem(), None);
    }
}
