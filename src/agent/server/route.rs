//! From a request's method and address to what is asked.

use std::borrow::Cow;
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};
use k8s_openapi::api::core::v1::Pod;
use reqwest::Url;

use super::answer::Refusal;
use super::health;
use crate::metrics::Page;

/// What may be asked: the kubelet's paths, and `DELETE /pods/NAMESPACE/POD` beside them for the
/// owner of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `GET /pods`
    Pods,
    /// `GET /runningpods/`
    Running,
    /// `/healthz` and `/healthz/CHECK`, by any method as upstream
    Health {
        /// One of the checks; all if not given.
        check: Option<String>,
        /// `verbose` and `exclude`.
        query: Query,
    },
    /// `/metrics/PAGE`, by any method as upstream
    Metrics(Page),
    /// `GET /containerLogs/NAMESPACE/POD/CONTAINER`
    Logs {
        /// Whose.
        target: Target,
        /// Which part of it.
        query: Query,
    },
    /// `GET` or `POST /exec/NAMESPACE/POD[/UID]/CONTAINER`, to be upgraded to SPDY or a WebSocket
    Exec {
        /// Where.
        target: Target,
        /// The command and its streams.
        query: Query,
    },
    /// `GET` or `POST /attach/NAMESPACE/POD[/UID]/CONTAINER`, to be upgraded as well
    Attach {
        /// To which container.
        target: Target,
        /// Its streams.
        query: Query,
    },
    /// `GET` or `POST /portForward/NAMESPACE/POD[/UID]`, to be upgraded as well
    PortForward {
        /// Whose.
        target: Target,
        /// The ports, where a WebSocket is asked for.
        query: Query,
    },
    /// `POST /run/NAMESPACE/POD[/UID]/CONTAINER?cmd=`
    Run {
        /// Where.
        target: Target,
        /// The command.
        query: Query,
    },
    /// `DELETE /pods/NAMESPACE/POD?gracePeriodSeconds=N`
    Stop {
        /// Which pod.
        target: Target,
        /// How long it may take; its own grace if not given.
        grace: Option<Duration>,
    },
}

/// A pod, and a container of it where the path names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
    /// Which pod of that name; any if not given.
    pub(super) uid: Option<String>,
}

impl Target {
    fn new([namespace, pod, container]: [&str; 3]) -> Self {
        let [namespace, pod, container] = [namespace, pod, container].map(String::from);
        Self { namespace, pod, container, uid: None }
    }

    /// With the uid that may stand in the path.
    fn of_uids(self, uid: &[&str]) -> Self {
        Self { uid: uid.first().map(|uid| (*uid).into()), ..self }
    }

    /// Whether this is the pod, by its name.
    pub(super) fn is(&self, pod: &Pod) -> bool {
        let named = |field: &Option<String>, name: &str| field.as_deref() == Some(name);
        named(&pod.metadata.namespace, &self.namespace) && named(&pod.metadata.name, &self.pod)
    }

    /// Upstream's text for a pod that is not here.
    pub(super) fn unknown(&self) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", self.pod))
    }
}

/// A request's parameters, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is set, as upstream reads its booleans: given and neither `false` nor 0.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// The number of a parameter, if it is given and not empty.
    ///
    /// # Errors
    /// Upstream's refusal of what is no number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let value = self.get(name).filter(|value| !value.is_empty());
        value.map(|value| value.parse().map_err(|_| undecodable())).transpose()
    }
}

/// The refusal of a path that nobody serves.
pub(super) fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Upstream's refusal of parameters that cannot be read.
pub(super) fn undecodable() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#)
}

/// Upstream's refusal of parameters that contradict each other or their bounds.
pub(super) fn invalid() -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#)
}

impl Route {
    /// What is asked.
    ///
    /// # Errors
    /// 404 for a path that nobody serves, 405 for another method on one that is, 400 for
    /// parameters that cannot be read.
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<Self, Refusal> {
        let query = query(uri)?;
        let path = uri.path().trim_start_matches('/').trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        const GET: &[Method] = &[Method::GET];
        const STREAM: &[Method] = &[Method::GET, Method::POST];
        let (allowed, route) = match *parts.as_slice() {
            ["pods"] => (GET, Self::Pods),
            ["runningpods"] => (GET, Self::Running),
            ["healthz"] => return Ok(Self::Health { check: None, query }),
            ["healthz", check] if health::is_check(check) => {
                return Ok(Self::Health { check: Some(check.into()), query });
            }
            ["metrics", page] => {
                return Page::named(page).map(Self::Metrics).ok_or_else(not_found);
            }
            ["pods", namespace, pod] => {
                let grace = match query.number("gracePeriodSeconds")? {
                    None => None,
                    Some(seconds) => {
                        Some(Duration::from_secs(u64::try_from(seconds).map_err(|_| invalid())?))
                    }
                };
                let target = Target::new([namespace, pod, ""]);
                (&[Method::DELETE][..], Self::Stop { target, grace })
            }
            ["containerLogs", namespace, pod, container] => {
                let target = Target::new([namespace, pod, container]);
                (GET, Self::Logs { target, query })
            }
            ["run", namespace, pod, ref uid @ .., container] if uid.len() < 2 => {
                let target = Target::new([namespace, pod, container]).of_uids(uid);
                (&[Method::POST][..], Self::Run { target, query })
            }
            ["exec", namespace, pod, ref uid @ .., container] if uid.len() < 2 => {
                let target = Target::new([namespace, pod, container]).of_uids(uid);
                (STREAM, Self::Exec { target, query })
            }
            ["attach", namespace, pod, ref uid @ .., container] if uid.len() < 2 => {
                let target = Target::new([namespace, pod, container]).of_uids(uid);
                (STREAM, Self::Attach { target, query })
            }
            ["portForward", namespace, pod, ref uid @ ..] if uid.len() < 2 => {
                let target = Target::new([namespace, pod, ""]).of_uids(uid);
                (STREAM, Self::PortForward { target, query })
            }
            _ => return Err(not_found()),
        };
        if allowed.contains(method) {
            return Ok(route);
        }
        Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"))
    }
}

/// Whether the path is one of those that `enableDebuggingHandlers: false` switches off (upstream's
/// `InstallDebuggingDisabledHandlers`).
pub(super) fn is_debugging(uri: &Uri) -> bool {
    let mut parts = uri.path().trim_start_matches('/').split('/');
    match parts.next() {
        Some(
            "run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs",
        ) => true,
        Some("debug") => parts.next() == Some("pprof"),
        Some(_) | None => false,
    }
}

fn query(uri: &Uri) -> Result<Query, Refusal> {
    let Some(text) = uri.query() else { return Ok(Query::default()) };
    let url = Url::parse(&format!("http://localhost/?{text}")).map_err(|_| undecodable())?;
    Ok(Query(url.query_pairs().map(owned).collect()))
}

fn owned((key, value): (Cow<'_, str>, Cow<'_, str>)) -> (String, String) {
    (key.into_owned(), value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &Method, uri: &str) -> Result<Route, u16> {
        Route::of(method, &uri.parse().expect("an address")).map_err(|r| r.code.as_u16())
    }

    #[test]
    fn paths_are_the_kubelets() {
        assert_eq!(route(&Method::GET, "/pods"), Ok(Route::Pods));
        assert_eq!(route(&Method::GET, "/pods/"), Ok(Route::Pods));
        let target = Target::new(["ns", "p", "c"]);
        let query = Query(vec![("tailLines".into(), "3".into()), ("x".into(), "a b/ü".into())]);
        let logs = route(&Method::GET, "/containerLogs/ns/p/c?tailLines=3&x=a+b%2F%C3%BC");
        assert_eq!(logs, Ok(Route::Logs { target, query }));
        let target = Target::new(["ns", "p", "c"]);
        let query = Query(vec![("command".into(), "a".into()), ("command".into(), "".into())]);
        let exec = Ok(Route::Exec { target, query });
        for method in [Method::GET, Method::POST] {
            assert_eq!(route(&method, "/exec/ns/p/c?command=a&command="), exec);
        }
        let target = Target::new(["ns", "p", "c"]).of_uids(&["u"]);
        let exec = Ok(Route::Exec { target, query: Query::default() });
        assert_eq!(route(&Method::POST, "/exec/ns/p/u/c"), exec);
        let of = |target| (target, Query::default());
        let (target, query) = of(Target::new(["ns", "p", "c"]));
        assert_eq!(route(&Method::POST, "/attach/ns/p/c"), Ok(Route::Attach { target, query }));
        let (target, query) = of(Target::new(["ns", "p", ""]).of_uids(&["u"]));
        let forward = Ok(Route::PortForward { target, query });
        assert_eq!(route(&Method::GET, "/portForward/ns/p/u"), forward);
        let (target, query) = of(Target::new(["ns", "p", "c"]).of_uids(&["u"]));
        assert_eq!(route(&Method::POST, "/run/ns/p/u/c"), Ok(Route::Run { target, query }));
        assert_eq!(route(&Method::GET, "/runningpods/"), Ok(Route::Running));
        assert_eq!(route(&Method::GET, "/metrics/probes"), Ok(Route::Metrics(Page::Probes)));
        let health = |check: Option<&str>| {
            Ok(Route::Health { check: check.map(String::from), query: Query::default() })
        };
        assert_eq!(route(&Method::GET, "/healthz"), health(None));
        assert_eq!(route(&Method::HEAD, "/healthz/syncloop"), health(Some("syncloop")));
        let target = Target::new(["ns", "p", ""]);
        let grace = Some(Duration::from_secs(7));
        let stop = route(&Method::DELETE, "/pods/ns/p?gracePeriodSeconds=7");
        assert_eq!(stop, Ok(Route::Stop { target, grace }));
    }

    #[test]
    fn the_rest_is_refused_by_its_code() {
        for path in [
            "/",
            "/pod",
            "/containerLogs/ns/p",
            "/containerLogs/ns/p/c/d",
            "/pods/ns",
            "/healthz/x",
            "/metrics/x",
            "/metrics/probes/x",
            "/exec/ns/p",
            "/exec/ns/p/u/c/d",
            "/attach/ns/p",
            "/portForward/ns/p/u/c",
        ] {
            assert_eq!(route(&Method::GET, path), Err(404), "{path}");
        }
        assert_eq!(route(&Method::POST, "/pods"), Err(405));
        assert_eq!(route(&Method::PUT, "/exec/ns/p/c"), Err(405));
        assert_eq!(route(&Method::GET, "/run/ns/p/c"), Err(405));
        assert_eq!(route(&Method::GET, "/pods/ns/p"), Err(405));
        assert_eq!(route(&Method::DELETE, "/pods/ns/p?gracePeriodSeconds=x"), Err(400));
        assert_eq!(route(&Method::DELETE, "/pods/ns/p?gracePeriodSeconds=-1"), Err(422));
    }

    #[test]
    fn what_debugging_is_is_upstreams() {
        let is = |path: &str| is_debugging(&path.parse().expect("an address"));
        assert!(
            ["/run/x", "/exec/ns/p/c", "/logs/", "/runningpods/", "/debug/pprof/"].map(is)
                == [true; 5]
        );
        assert!(["/pods", "/healthz", "/metrics", "/debug/flags/v", "/"].map(is) == [false; 5]);
    }

    #[test]
    fn booleans_are_upstreams() {
        let query = query(&"/x?a=true&b=1&c&d=0&e=False".parse().expect("an address"));
        let query = query.expect("is read");
        assert_eq!(["a", "b", "c", "d", "e", "f"].map(|name| query.is_set(name)), {
            [true, true, true, false, false, false]
        });
    }
}
