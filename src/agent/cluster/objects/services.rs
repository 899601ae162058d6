//! The cluster's services, as much of them as pods are told: one list and watch for all pods.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use copepod_pod::ServiceFacts;
use k8s_openapi::api::core::v1::Service;
use tokio::sync::watch;

use super::changes::lock;
use super::request::ReadError;
use super::watch::{LIST_MAX, Scope, Sink, Which};

/// The API server, of which every pod is told.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// By namespace and name.
type Known = BTreeMap<(String, String), Arc<ServiceFacts>>;

/// The services that have an address of their own.
pub(super) struct Services {
    known: Mutex<Known>,
    /// Whether they were listed once.
    listed: watch::Sender<bool>,
    /// Why not, the last time that it failed.
    problem: Mutex<Option<Arc<ReadError>>>,
}

impl Services {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::default(),
            listed: watch::Sender::new(false),
            problem: Mutex::default(),
        }
    }

    /// What is listed and watched, as upstream does: headless services make no variables.
    pub(super) fn scope() -> Scope {
        let which = Which::Selected("spec.clusterIP%21%3DNone");
        Scope { path: "/api/v1/services".into(), which }
    }

    /// Waits until they were listed once.
    pub(super) async fn listed(&self) {
        // The sender lives as long as this does.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// Why they were not listed yet, if it is known.
    pub(super) fn problem(&self) -> Option<Arc<ReadError>> {
        lock(&self.problem).clone()
    }

    /// Those that a pod of this namespace may be told of.
    pub(super) fn of(&self, namespace: &str) -> Vec<Arc<ServiceFacts>> {
        let known = lock(&self.known);
        let from = (namespace.to_owned(), String::new());
        let own = known.range(from..).take_while(|((of, _), _)| of == namespace);
        let mut all: Vec<_> = own.map(|(_, service)| Arc::clone(service)).collect();
        let master = (MASTER.0.to_owned(), MASTER.1.to_owned());
        all.extend(known.get(&master).filter(|_| namespace != MASTER.0).cloned());
        all
    }
}

fn put(known: &mut Known, service: &Service) {
    let facts = ServiceFacts::of(service);
    let key = (facts.namespace.clone(), facts.name.clone());
    if known.len() < LIST_MAX || known.contains_key(&key) {
        known.insert(key, Arc::new(facts));
    } else if known.len() == LIST_MAX {
        tracing::warn!("more than {LIST_MAX} services: pods are not told of all of them");
    }
}

/// Keeps the services up to date.
pub(super) struct ServicesSink(pub(super) Arc<Services>);

impl Sink<Service> for ServicesSink {
    fn replace(&mut self, all: Vec<Service>) -> ControlFlow<()> {
        let mut known = Known::new();
        all.iter().for_each(|service| put(&mut known, service));
        *lock(&self.0.known) = known;
        *lock(&self.0.problem) = None;
        self.0.listed.send_replace(true);
        ControlFlow::Continue(())
    }

    fn apply(&mut self, service: Service) -> ControlFlow<()> {
        put(&mut lock(&self.0.known), &service);
        ControlFlow::Continue(())
    }

    fn delete(&mut self, service: &Service) {
        let ServiceFacts { namespace, name, .. } = ServiceFacts::of(service);
        lock(&self.0.known).remove(&(namespace, name));
    }

    fn failed(&mut self, error: Arc<ReadError>) {
        tracing::debug!("services: {}", crate::telemetry::chain(&error));
        *lock(&self.0.problem) = Some(error);
    }
}
