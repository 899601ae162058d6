//! Probes by how they ended, and how long they took (upstream: `ProberResults` and `ProberDuration` of
//! its prober).

use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{ProbeKind, ProbeOutcome};
use k8s_openapi::api::core::v1::{Container, Pod};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::Metrics;

const KINDS: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
const SUCCESSFUL: &str = "successful";
const FAILED: &str = "failed";

/// The series of all pods.
#[derive(Debug)]
pub(super) struct Probes {
    total: IntCounterVec,
    duration: HistogramVec,
}

impl Probes {
    /// Puts them into the registry.
    ///
    /// # Errors
    /// The library's, of names that cannot be.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let help = "[BETA] Cumulative number of a liveness, readiness or startup probe for a \
                    container by result.";
        let labels = ["probe_type", "result", "container", "pod", "namespace", "pod_uid"];
        let total = IntCounterVec::new(Opts::new("prober_probe_total", help), &labels)?;
        let help = "[ALPHA] Duration in seconds for a probe response.";
        // Its buckets are Go's default ones.
        let options = HistogramOpts::new("prober_probe_duration_seconds", help);
        let labels = ["probe_type", "container", "pod", "namespace"];
        let duration = HistogramVec::new(options, &labels)?;
        registry.register(Box::new(total.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self { total, duration })
    }
}

/// The series of one pod, which go with this.
#[derive(Debug)]
pub(crate) struct PodProbes {
    metrics: Arc<Metrics>,
    /// The pod's name, namespace and uid.
    pod: [String; 3],
    /// Its containers that are probed.
    containers: Vec<String>,
}

impl Metrics {
    /// The probes of a pod, whose series go when what is given here is dropped.
    pub(crate) fn of_pod(self: &Arc<Self>, pod: &Pod) -> PodProbes {
        let meta = &pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let all = init.chain(pod.spec.iter().flat_map(|spec| &spec.containers));
        let is_probed = |c: &&Container| {
            [&c.startup_probe, &c.liveness_probe, &c.readiness_probe].iter().any(|p| p.is_some())
        };
        PodProbes {
            metrics: Arc::clone(self),
            pod: [text(&meta.name), text(&meta.namespace), text(&meta.uid)],
            containers: all.filter(is_probed).map(|c| c.name.clone()).collect(),
        }
    }
}

impl PodProbes {
    /// Counts a probe that took so long. One that could not be made counts for nothing, as upstream
    /// has it: its third result, `unknown`, is never counted.
    pub(crate) fn count(
        &self,
        container: &str,
        kind: ProbeKind,
        outcome: &ProbeOutcome,
        took: Duration,
    ) {
        let probes = &self.metrics.probes;
        let total = |result| {
            // As many labels as it has.
            let series =
                probes.total.get_metric_with_label_values(&self.labels(container, kind, result));
            if let Ok(series) = series {
                series.inc();
            }
        };
        match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => {
                total(SUCCESSFUL);
                let series =
                    probes.duration.get_metric_with_label_values(&self.timed(container, kind));
                if let Ok(series) = series {
                    series.observe(took.as_secs_f64());
                }
            }
            ProbeOutcome::Failure(_) => total(FAILED),
            ProbeOutcome::Error(_) | ProbeOutcome::Broken(_) => {}
        }
    }

    fn labels<'a>(&'a self, container: &'a str, kind: ProbeKind, result: &'a str) -> [&'a str; 6] {
        let [name, namespace, uid] = &self.pod;
        [probe_type(kind), result, container, name, namespace, uid]
    }

    fn timed<'a>(&'a self, container: &'a str, kind: ProbeKind) -> [&'a str; 4] {
        let [name, namespace, _] = &self.pod;
        [probe_type(kind), container, name, namespace]
    }
}

impl Drop for PodProbes {
    fn drop(&mut self) {
        let Probes { total, duration } = &self.metrics.probes;
        for container in &self.containers {
            for kind in KINDS {
                // What was never counted is not there.
                for result in [SUCCESSFUL, FAILED] {
                    let _ = total.remove_label_values(&self.labels(container, kind, result));
                }
                let _ = duration.remove_label_values(&self.timed(container, kind));
            }
        }
    }
}

/// A probe's kind as upstream's labels have it.
fn probe_type(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metrics::Page;

    fn pod(uid: &str) -> Pod {
        let probe = json!({"tcpSocket": {"port": 1}});
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": uid},
            "spec": {
                "initContainers": [{"name": "side", "startupProbe": probe}],
                "containers": [{"name": "c", "readinessProbe": probe, "livenessProbe": probe}],
            },
        });
        serde_json::from_value(pod).unwrap()
    }

    /// The samples of a page, without those of buckets, of the process and of comments.
    fn samples(metrics: &Metrics) -> Vec<String> {
        let page = metrics.page(Page::Probes).unwrap();
        let is_ours = |line: &&str| line.starts_with("prober_") && !line.contains("_bucket{");
        page.lines().filter(is_ours).map(str::to_owned).collect()
    }

    #[test]
    fn what_upstream_counts_is_counted_until_its_pod_goes() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(samples(&metrics), [""; 0]);
        let (one, two) = (metrics.of_pod(&pod("1")), metrics.of_pod(&pod("2")));
        let took = Duration::from_millis(250);
        let text = || "why".to_owned();
        for (container, kind, outcome) in [
            ("c", ProbeKind::Readiness, ProbeOutcome::Success),
            ("c", ProbeKind::Readiness, ProbeOutcome::Warning(text())),
            ("c", ProbeKind::Readiness, ProbeOutcome::Failure(text())),
            ("c", ProbeKind::Liveness, ProbeOutcome::Error(text())),
            ("c", ProbeKind::Liveness, ProbeOutcome::Broken(text())),
            ("side", ProbeKind::Startup, ProbeOutcome::Failure(text())),
        ] {
            one.count(container, kind, &outcome, took);
        }
        two.count("c", ProbeKind::Liveness, &ProbeOutcome::Failure(text()), took);
        let total = |container: &str, kind: &str, result: &str, uid: &str, count: u32| {
            format!(
                "prober_probe_total{{container=\"{container}\",namespace=\"ns\",pod=\"p\",\
                 pod_uid=\"{uid}\",probe_type=\"{kind}\",result=\"{result}\"}} {count}"
            )
        };
        let labels = "{container=\"c\",namespace=\"ns\",pod=\"p\",probe_type=\"Readiness\"}";
        let two_alone = total("c", "Liveness", "failed", "2", 1);
        let expected = [
            format!("prober_probe_duration_seconds_sum{labels} 0.5"),
            format!("prober_probe_duration_seconds_count{labels} 2"),
            total("c", "Readiness", "failed", "1", 1),
            total("c", "Readiness", "successful", "1", 2),
            two_alone.clone(),
            total("side", "Startup", "failed", "1", 1),
        ];
        assert_eq!(samples(&metrics), expected);
        let page = metrics.page(Page::Probes).unwrap();
        for line in [
            "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup \
             probe for a container by result.",
            "# TYPE prober_probe_total counter",
            "# HELP prober_probe_duration_seconds [ALPHA] Duration in seconds for a probe response.",
            "# TYPE prober_probe_duration_seconds histogram",
            "prober_probe_duration_seconds_bucket{container=\"c\",namespace=\"ns\",pod=\"p\",\
             probe_type=\"Readiness\",le=\"0.25\"} 2",
            "# TYPE process_start_time_seconds gauge",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        drop(one);
        assert_eq!(samples(&metrics), [two_alone]);
        drop(two);
        assert_eq!(samples(&metrics), [""; 0]);
    }
}
