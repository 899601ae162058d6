//! What a container's spec says of its life: when it starts again, how it is probed, what is done
//! after its start and before its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerRestartRule, Lifecycle, LifecycleHandler, PodSpec,
    Probe as ProbeSpec,
};

use crate::{ProbeKind, container::Role, definition, ephemeral::as_container, state::seconds_of};

/// A restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

impl Policy {
    /// The one of this name; upstream's default for what validation lets through beside.
    pub(crate) fn of(name: Option<&str>) -> Policy {
        match name {
            Some("Never") => Policy::Never,
            Some("OnFailure") => Policy::OnFailure,
            Some(_) | None => Policy::Always,
        }
    }
}

/// What a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Restart,
    RestartAll,
}

/// One of `restartPolicyRules`.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    ask: Ask,
    /// Whether the codes are those that match, or all others are.
    within: bool,
    codes: Vec<i32>,
}

impl Rule {
    fn of(rule: &ContainerRestartRule) -> Option<Rule> {
        let ask = match rule.action.as_str() {
            "Restart" => Ask::Restart,
            "RestartAllContainers" => Ask::RestartAll,
            _ => return None,
        };
        let codes = rule.exit_codes.as_ref()?;
        let within = match codes.operator.as_str() {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        };
        Some(Rule { ask, within, codes: codes.values.clone().unwrap_or_default() })
    }

    fn matches(&self, code: i32) -> bool {
        self.codes.contains(&code) == self.within
    }
}

/// What is done by a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookSpec {
    /// Time passes.
    Sleep(Duration),
    /// The agent does it.
    Act,
}

impl HookSpec {
    fn of(handler: Option<&LifecycleHandler>) -> Option<HookSpec> {
        let handler = handler?;
        let LifecycleHandler { exec, http_get, sleep, tcp_socket } = handler;
        if let Some(sleep) = sleep {
            return Some(HookSpec::Sleep(seconds_of(sleep.seconds)));
        }
        // Upstream has no tcpSocket hook and fails it: so does the agent.
        let is_given = exec.is_some() || http_get.is_some() || tcp_socket.is_some();
        is_given.then_some(HookSpec::Act)
    }
}

/// When a probe is made and what it takes to believe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    /// So many successes on end.
    pub(crate) success: u32,
    /// So many failures on end.
    pub(crate) failure: u32,
    /// The grace of the container that it stops; the pod's if none.
    pub(crate) grace: Option<Duration>,
}

impl Timing {
    /// With the API's defaults for what is missing.
    fn of(probe: &ProbeSpec) -> Timing {
        let seconds = |value: Option<i32>, default: u32| {
            let given = value.and_then(|value| u32::try_from(value).ok()).filter(|n| *n > 0);
            Duration::from_secs(u64::from(given.unwrap_or(default)))
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|n| *n > 0).unwrap_or(default)
        };
        Timing {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            success: count(probe.success_threshold, 1),
            failure: count(probe.failure_threshold, 3),
            grace: probe.termination_grace_period_seconds.map(seconds_of),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Life {
    policy: Policy,
    rules: Vec<Rule>,
    startup: Option<Timing>,
    liveness: Option<Timing>,
    readiness: Option<Timing>,
    pub(crate) post_start: Option<HookSpec>,
    pub(crate) pre_stop: Option<HookSpec>,
    /// See [`definition`](crate::definition).
    pub(crate) definition: u32,
}

impl Life {
    /// What the spec says, under the pod's policy.
    pub(crate) fn of(container: &ContainerSpec, policy: Policy) -> Life {
        let timing = |probe: Option<&ProbeSpec>| probe.map(Timing::of);
        let hook = |of: fn(&Lifecycle) -> Option<&LifecycleHandler>| {
            HookSpec::of(container.lifecycle.as_ref().and_then(of))
        };
        let own = container.restart_policy.as_deref();
        Life {
            policy: own.map_or(policy, |own| Policy::of(Some(own))),
            rules: container.restart_policy_rules.iter().flatten().filter_map(Rule::of).collect(),
            startup: timing(container.startup_probe.as_ref()),
            liveness: timing(container.liveness_probe.as_ref()),
            readiness: timing(container.readiness_probe.as_ref()),
            post_start: hook(|hooks| hooks.post_start.as_ref()),
            pre_stop: hook(|hooks| hooks.pre_stop.as_ref()),
            definition: definition::definition(container),
        }
    }

    /// That of a container of which the spec says nothing.
    pub(crate) fn unknown() -> Life {
        Life::of(&ContainerSpec::default(), Policy::Never)
    }

    pub(crate) fn timing(&self, probe: ProbeKind) -> Option<&Timing> {
        match probe {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }

    /// Whether an end with this code calls for another start (upstream:
    /// `ShouldContainerBeRestarted`): the first rule that matches, else the policy. A regular init
    /// container that succeeded is done, whatever is said.
    pub(crate) fn restarts(&self, role: Role, code: i32) -> bool {
        match role {
            Role::Ephemeral => fault!(EphemeralRestarts),
            Role::Unwanted => false,
            Role::Sidecar => true,
            Role::Init if code == 0 => false,
            Role::Init | Role::Main => {
                self.rules.iter().any(|rule| rule.matches(code))
                    || match self.policy {
                        Policy::Always => true,
                        Policy::OnFailure => code != 0,
                        Policy::Never => fault!(NeverRestarts),
                    }
            }
        }
    }

    /// Whether it starts again after it was stopped for a probe: rules count for nothing then.
    pub(crate) fn restarts_after_probe(&self, role: Role) -> bool {
        match role {
            Role::Ephemeral | Role::Unwanted => false,
            Role::Sidecar => true,
            Role::Init | Role::Main => self.policy != Policy::Never,
        }
    }

    /// Whether any end has the whole pod run anew.
    pub(crate) fn may_restart_all(&self) -> bool {
        self.rules.iter().any(|rule| rule.ask == Ask::RestartAll)
    }

    /// Whether an end with this code has the whole pod run anew (upstream:
    /// `ShouldAllContainersRestart`): the first rule that matches says so.
    pub(crate) fn restarts_all(&self, code: i32) -> bool {
        let first = self.rules.iter().find(|rule| rule.matches(code));
        first.is_some_and(|rule| rule.ask == Ask::RestartAll)
    }
}

/// Each container of the spec with its role, in the machine's order: those among the init
/// containers, the main ones, the ephemeral ones.
pub(crate) fn all(spec: &PodSpec) -> impl Iterator<Item = (&str, Role, Life)> {
    let policy = Policy::of(spec.restart_policy.as_deref());
    let inits = spec.init_containers.iter().flatten().map(move |container| {
        let is_sidecar = container.restart_policy.as_deref() == Some("Always");
        let role = if is_sidecar { Role::Sidecar } else { Role::Init };
        (container.name.as_str(), role, Life::of(container, policy))
    });
    let mains =
        spec.containers.iter().map(move |c| (c.name.as_str(), Role::Main, Life::of(c, policy)));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(move |container| {
        let life = Life::of(&as_container(container), policy);
        (container.name.as_str(), Role::Ephemeral, life)
    });
    inits.chain(mains).chain(ephemeral)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn life(container: serde_json::Value, policy: Policy) -> Life {
        Life::of(&serde_json::from_value(container).unwrap(), policy)
    }

    #[test]
    fn the_first_rule_counts_then_the_containers_policy_then_the_pods() {
        let rules = json!([
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42, 43]}},
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [43, 7]}},
        ]);
        let own = json!({"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules});
        let own = life(own, Policy::Always);
        for (code, restarts, all) in [(0, false, false), (42, true, false), (43, true, false)] {
            assert_eq!(own.restarts(Role::Main, code), restarts, "{code}");
            assert_eq!(own.restarts_all(code), all, "{code}");
        }
        assert!(own.restarts(Role::Main, 7) && own.restarts_all(7));
        assert!(!own.restarts_after_probe(Role::Main), "rules are for ends of its own");
        let but = json!([{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [1]}}]);
        let but = life(json!({"name": "a", "restartPolicyRules": but}), Policy::Never);
        assert!(but.restarts(Role::Main, 0) && !but.restarts(Role::Main, 1));
        assert!(!but.restarts(Role::Init, 0) && but.restarts(Role::Init, 2));
        let plain = life(json!({"name": "a"}), Policy::OnFailure);
        assert!(plain.restarts(Role::Main, 1) && !plain.restarts(Role::Main, 0));
        assert!(plain.restarts(Role::Sidecar, 0) && !plain.restarts(Role::Ephemeral, 1));
    }

    #[test]
    fn what_a_probe_leaves_out_is_the_apis_default() {
        let probe = json!({"tcpSocket": {"port": 1}});
        let given = json!({"tcpSocket": {"port": 1}, "initialDelaySeconds": 3, "periodSeconds": 2,
            "successThreshold": 4, "failureThreshold": 5, "terminationGracePeriodSeconds": 6});
        let both = life(
            json!({"name": "a", "livenessProbe": probe, "startupProbe": given}),
            Policy::Never,
        );
        let seconds = Duration::from_secs;
        let plain = Timing {
            initial_delay: seconds(0),
            period: seconds(10),
            success: 1,
            failure: 3,
            grace: None,
        };
        assert_eq!(both.timing(ProbeKind::Liveness), Some(&plain));
        let full = Timing {
            initial_delay: seconds(3),
            period: seconds(2),
            success: 4,
            failure: 5,
            grace: Some(seconds(6)),
        };
        assert_eq!(both.timing(ProbeKind::Startup), Some(&full));
        let zeros = json!({"tcpSocket": {"port": 1}, "initialDelaySeconds": 0, "periodSeconds": 0,
            "successThreshold": 0, "failureThreshold": 0});
        let zeros = life(json!({"name": "a", "livenessProbe": zeros}), Policy::Never);
        assert_eq!(zeros.timing(ProbeKind::Liveness), Some(&plain));
        assert_eq!(both.timing(ProbeKind::Readiness), None);
    }

    #[test]
    fn a_hook_is_waited_for_or_done() {
        for (handler, hook) in [
            (json!({"sleep": {"seconds": 3}}), Some(HookSpec::Sleep(Duration::from_secs(3)))),
            (json!({"exec": {"command": ["a"]}}), Some(HookSpec::Act)),
            (json!({"httpGet": {"port": 1}}), Some(HookSpec::Act)),
            (json!({"tcpSocket": {"port": 1}}), Some(HookSpec::Act)),
            (json!({}), None),
        ] {
            let container = json!({"name": "a", "lifecycle": {"preStop": handler}});
            let life = life(container, Policy::Never);
            assert_eq!((life.pre_stop, life.post_start), (hook, None));
        }
    }
}
