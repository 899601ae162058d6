//! What pods read besides their own object: config maps, secrets, services, tokens.
//!
//! In: pods, as they come ([`ObjectStore::register`]) and go ([`ObjectStore::forget`]). Out: all
//! that one pod names ([`ObjectStore::gather`]), and which pods have something new to read
//! ([`ObjectStore::changed`]). A node may read objects by name only, and only those that a pod of
//! its own names: each object that any pod names has one list and watch ([`shelf`], [`watch`]);
//! services one for all ([`services`]); tokens are asked for and renewed ([`tokens`]). Nothing of
//! it is ever written to a disk from here.
//!
//! What is not there is absent, and `pod` says so in upstream's words. What cannot be asked for is
//! the last that is known, or an error: an API server that is away makes nothing disappear.
//!
//! Starts one task for each object that is named, one for the services, one for all tokens.

mod changes;
mod request;
mod retry;
mod services;
mod shelf;
mod tokens;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use copepod_pod::{Objects, References, Source, is_object_name, references};
use futures_util::future::{join_all, try_join_all};
use futures_util::try_join;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::changes::{Changes, lock};
pub(crate) use self::request::ReadError;
use self::request::Server;
use self::services::{Services, ServicesSink};
use self::shelf::{Kind, Shelf};
use self::tokens::Owner;
pub(crate) use self::tokens::TokenError;
use self::tokens::Tokens;

/// How long [`ObjectStore::gather`] waits for what is not known yet. The node authorizer's `no
/// relationship found` passes well within it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most config maps that are watched, and most secrets: four for each pod of a large node, and
/// together less than the client's connections carry. Others are read each time.
const WATCHES_MAX: usize = 600;
/// Most objects and tokens that one pod may name: each may have a megabyte, and all are in memory.
const REFERENCES_MAX: usize = 512;
/// The service account of a pod that names none; admission fills it in.
const DEFAULT_ACCOUNT: &str = "default";

/// Why a pod cannot be given what it names.
#[derive(Debug, Error)]
pub(crate) enum GatherError {
    /// [`ObjectStore::register`] was not called for it, or [`ObjectStore::forget`] was.
    #[error("pod {0:?} is not registered")]
    NotRegistered(String),
    /// More than any pod needs.
    #[error("pod names {0} objects and tokens, more than {REFERENCES_MAX}")]
    TooMany(usize),
    /// A config map or a secret is not known and cannot be read.
    #[error("{kind} {name:?} cannot be read")]
    Read {
        /// `configmaps` or `secrets`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: Arc<ReadError>,
    },
    /// The services are not known; upstream's words.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    Services(#[source] Arc<ReadError>),
    /// A token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// What pods of this node read. A handle: clones are the same store, and with the last one all its
/// tasks end.
#[derive(Clone)]
pub(crate) struct ObjectStore(Arc<Inner>);

struct Inner {
    config_maps: Arc<Shelf<ConfigMap>>,
    secrets: Arc<Shelf<Secret>>,
    services: Arc<Services>,
    tokens: Arc<Tokens>,
    changes: Arc<Changes>,
    /// What each pod names, by uid.
    pods: Mutex<HashMap<String, Asked>>,
    patience: Duration,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// What a pod names, and in which namespace.
#[derive(Clone)]
struct Asked {
    namespace: String,
    references: Arc<References>,
}

impl ObjectStore {
    /// A store that asks the API server of this client. Call it on the agent's event loop.
    pub(crate) fn start(client: kube::Client) -> Self {
        Self::with_patience(client, PATIENCE, WATCHES_MAX)
    }

    fn with_patience(client: kube::Client, patience: Duration, watches: usize) -> Self {
        let (server, changes) = (Server::new(client), Arc::new(Changes::default()));
        let services = Arc::new(Services::new());
        let tokens = Tokens::new(server.clone(), Arc::clone(&changes));
        let sink = ServicesSink(Arc::clone(&services));
        let tasks = [
            tokio::spawn(watch::follow(server.clone(), Services::scope(), sink)),
            tokio::spawn(Arc::clone(&tokens).renew()),
        ];
        Self(Arc::new(Inner {
            config_maps: Shelf::new(server.clone(), Arc::clone(&changes), watches),
            secrets: Shelf::new(server, Arc::clone(&changes), watches),
            services,
            tokens,
            changes,
            pods: Mutex::default(),
            patience,
            _tasks: tasks.map(AbortOnDropHandle::new),
        }))
    }

    /// The pod is on this node: what it names is watched from now on. Call it again when its spec
    /// changed (an ephemeral container may name more).
    pub(crate) fn register(&self, pod: &Pod) {
        let (uid, inner) = (uid(pod), &self.0);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let asked = Asked { namespace, references: Arc::new(references(pod)) };
        inner.tokens.register(owner(pod));
        let new = (asked.config_maps(), asked.secrets());
        let mut pods = lock(&inner.pods);
        let old = pods.insert(uid.clone(), asked);
        let old = old.map(|old| (old.config_maps(), old.secrets())).unwrap_or_default();
        exchange(&inner.config_maps, &uid, &old.0, &new.0);
        exchange(&inner.secrets, &uid, &old.1, &new.1);
    }

    /// The pod is gone: so are its tokens, and watches that no other pod needs.
    pub(crate) fn forget(&self, uid: &str) {
        let inner = &self.0;
        if let Some(old) = lock(&inner.pods).remove(uid) {
            exchange(&inner.config_maps, uid, &old.config_maps(), &BTreeSet::new());
            exchange(&inner.secrets, uid, &old.secrets(), &BTreeSet::new());
        }
        inner.tokens.forget(uid);
        inner.changes.forget(uid);
    }

    /// All that a registered pod names and that is there. What is not known yet is waited for, at
    /// most ten seconds. Pull secrets that cannot be read count as missing
    /// (`copepod_pod::missing_pull_secrets`): an image may do without.
    ///
    /// # Errors
    /// [`GatherError`].
    pub(crate) async fn gather(&self, pod: &Pod) -> Result<Arc<Objects>, GatherError> {
        let (uid, inner) = (uid(pod), &self.0);
        let deadline = Instant::now() + inner.patience;
        let asked = lock(&inner.pods).get(&uid).cloned();
        let asked = asked.ok_or_else(|| GatherError::NotRegistered(uid.clone()))?;
        let (namespace, all) = (&asked.namespace, &asked.references);
        if all.len() > REFERENCES_MAX {
            return Err(GatherError::TooMany(all.len()));
        }
        let tokens = all.tokens.iter().map(|key| async {
            let token = inner.tokens.get(&uid, key, deadline).await?;
            Ok::<_, GatherError>((key.clone(), token))
        });
        let pull_only: BTreeSet<_> = all.pull_secrets.difference(&all.secrets).cloned().collect();
        let pull = read_all(&inner.secrets, namespace, &pull_only, deadline);
        let (config_maps, mut secrets, tokens, pull, ()) = try_join!(
            read_required(&inner.config_maps, namespace, &all.config_maps, deadline),
            read_required(&inner.secrets, namespace, &all.secrets, deadline),
            try_join_all(tokens),
            async { Ok(pull.await) },
            self.services(pod, deadline),
        )?;
        for (name, found) in pull {
            match found {
                Ok(found) => secrets.extend(found.map(|secret| (name, secret))),
                Err(error) => {
                    let text = crate::telemetry::chain(&error);
                    tracing::warn!("pull secret {namespace}/{name}: {text}");
                }
            }
        }
        let tokens = tokens.into_iter().collect();
        let services = inner.services.of(namespace);
        Ok(Arc::new(Objects { config_maps, secrets, services, tokens }))
    }

    /// Waits until some pods have something new to read, and takes their uids: an object that they
    /// name changed, or a token was renewed. For one who asks; may be cancelled at any time.
    pub(crate) async fn changed(&self) -> BTreeSet<String> {
        self.0.changes.taken().await
    }

    /// Waits for the services; static pods, which may run without a cluster, do not.
    async fn services(&self, pod: &Pod, deadline: Instant) -> Result<(), GatherError> {
        if Source::of(pod).is_some() || timeout_at(deadline, self.0.services.listed()).await.is_ok()
        {
            return Ok(());
        }
        let why = self.0.services.problem().unwrap_or_else(|| Arc::new(ReadError::Timeout));
        Err(GatherError::Services(why))
    }
}

impl Asked {
    fn config_maps(&self) -> BTreeSet<(String, String)> {
        self.keys(self.references.config_maps.iter())
    }

    fn secrets(&self) -> BTreeSet<(String, String)> {
        self.keys(self.references.secrets.union(&self.references.pull_secrets))
    }

    /// No more than a pod may name: one that names more is not served.
    fn keys<'a>(&self, names: impl Iterator<Item = &'a String>) -> BTreeSet<(String, String)> {
        let names = names.filter(|_| is_object_name(&self.namespace)).take(REFERENCES_MAX);
        names.map(|name| (self.namespace.clone(), name.clone())).collect()
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn owner(pod: &Pod) -> Owner {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let account = account.filter(|name| is_object_name(name));
    Owner {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        uid: uid(pod),
        account: account.unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned()),
    }
}

/// Watches what is new first, so that what stays is watched throughout.
fn exchange<K: Kind>(
    shelf: &Arc<Shelf<K>>,
    uid: &str,
    old: &BTreeSet<(String, String)>,
    new: &BTreeSet<(String, String)>,
) {
    new.difference(old).for_each(|key| shelf.add(uid, key.clone()));
    old.difference(new).for_each(|key| shelf.remove(uid, key));
}

/// What is found under each name, or why it is not known.
async fn read_all<K: Kind>(
    shelf: &Shelf<K>,
    namespace: &str,
    names: &BTreeSet<String>,
    deadline: Instant,
) -> Vec<(String, Result<Option<Arc<K>>, Arc<ReadError>>)> {
    let one = async |name: &String| {
        let key = (namespace.to_owned(), name.clone());
        let found = timeout_at(deadline, shelf.read(&key)).await;
        let why = |_| shelf.give_up(&key).unwrap_or_else(|| Arc::new(ReadError::Timeout));
        (name.clone(), found.map_err(why))
    };
    join_all(names.iter().map(one)).await
}

/// Those that are there; an error if one is not known.
async fn read_required<K: Kind>(
    shelf: &Shelf<K>,
    namespace: &str,
    names: &BTreeSet<String>,
    deadline: Instant,
) -> Result<BTreeMap<String, Arc<K>>, GatherError> {
    let mut found = BTreeMap::new();
    for (name, one) in read_all(shelf, namespace, names, deadline).await {
        match one {
            Ok(object) => found.extend(object.map(|object| (name, object))),
            Err(source) => return Err(GatherError::Read { kind: K::PLURAL, name, source }),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
