//! Objects of one kind that pods name: one watch for each object, however many pods name it.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, Weak};

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::changes::{Changes, lock};
use super::request::{ReadError, Server};
use super::retry::Backoff;
use super::watch::{Named, Scope, Sink, Which, follow, get};

/// What pods read by name.
pub(super) trait Kind: Named + Clone + Sync + Resource {
    /// In paths.
    const PLURAL: &'static str;
    /// Whether it never changes, so that nobody need look.
    fn is_immutable(&self) -> bool;
}

impl Kind for ConfigMap {
    const PLURAL: &'static str = "configmaps";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

impl Kind for Secret {
    const PLURAL: &'static str = "secrets";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

/// Namespace and name.
type Key = (String, String);

/// What is known of an object.
#[derive(Debug)]
pub(super) enum Seen<K> {
    /// Nothing yet; why, if asking failed.
    Unknown(Option<Arc<ReadError>>),
    /// There is none.
    Missing,
    /// There it is.
    Found(Arc<K>),
}

impl<K> Clone for Seen<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Unknown(why) => Self::Unknown(why.clone()),
            Self::Missing => Self::Missing,
            Self::Found(object) => Self::Found(Arc::clone(object)),
        }
    }
}

/// An object that pods name.
struct Item<K> {
    /// Those pods, by uid.
    pods: BTreeSet<String>,
    seen: watch::Receiver<Seen<K>>,
    /// Somebody waited for it in vain: they want to know once it is known.
    in_vain: bool,
    _follower: AbortOnDropHandle<()>,
}

/// The objects of one kind.
pub(super) struct Shelf<K> {
    server: Server,
    changes: Arc<Changes>,
    items: Mutex<HashMap<Key, Item<K>>>,
    /// Most objects that are watched; others are read each time.
    most: usize,
}

impl<K: Kind> Shelf<K> {
    pub(super) fn new(server: Server, changes: Arc<Changes>, most: usize) -> Arc<Self> {
        Arc::new(Self { server, changes, items: Mutex::default(), most })
    }

    /// The pod names this object: it is watched from now on.
    pub(super) fn add(self: &Arc<Self>, uid: &str, key: Key) {
        let mut items = lock(&self.items);
        if let Some(item) = items.get_mut(&key) {
            item.pods.insert(uid.to_owned());
        } else if items.len() < self.most {
            let (sender, seen) = watch::channel(Seen::Unknown(None));
            let sink = ItemSink { shelf: Arc::downgrade(self), key: key.clone(), sender };
            let scope = Scope { path: path::<K>(&key.0), which: Which::One(key.1.clone()) };
            let follower = tokio::spawn(follow(self.server.clone(), scope, sink));
            let item = Item {
                pods: [uid.to_owned()].into(),
                seen,
                in_vain: false,
                _follower: AbortOnDropHandle::new(follower),
            };
            items.insert(key, item);
        }
    }

    /// The pod names this object no longer: with the last such pod its watch ends.
    pub(super) fn remove(&self, uid: &str, key: &Key) {
        let mut items = lock(&self.items);
        let Some(item) = items.get_mut(key) else { return };
        item.pods.remove(uid);
        if item.pods.is_empty() {
            items.remove(key);
        }
    }

    /// The object, once it is known whether there is one. To be bounded in time by who asks, and
    /// given up with [`Shelf::give_up`].
    pub(super) async fn read(&self, key: &Key) -> Option<Arc<K>> {
        let seen = lock(&self.items).get(key).map(|item| item.seen.clone());
        let Some(mut seen) = seen else { return self.read_unwatched(key).await };
        // The look itself is let go before anything is waited for.
        let known = match seen.wait_for(|seen| !matches!(seen, Seen::Unknown(_))).await.as_deref() {
            Ok(Seen::Found(object)) => Some(Some(Arc::clone(object))),
            Ok(Seen::Missing | Seen::Unknown(_)) => Some(None),
            Err(_) => None,
        };
        match known {
            Some(known) => known,
            // No pod names it any more; nothing is said of it.
            None => std::future::pending().await,
        }
    }

    /// One that is not watched, because too many are.
    async fn read_unwatched(&self, key: &Key) -> Option<Arc<K>> {
        let mut backoff = Backoff::default();
        loop {
            match get::<K>(&self.server, &path::<K>(&key.0), &key.1).await {
                Ok(object) => return object.map(slim).map(Arc::new),
                Err(error) => tokio::time::sleep(backoff.next(&error)).await,
            }
        }
    }

    /// Nobody waits any longer: why the object is not known yet, as far as that is known. Its pods
    /// are marked once it is.
    pub(super) fn give_up(&self, key: &Key) -> Option<Arc<ReadError>> {
        let mut items = lock(&self.items);
        let item = items.get_mut(key)?;
        let why = match &*item.seen.borrow() {
            Seen::Unknown(why) => why.clone(),
            Seen::Missing | Seen::Found(_) => None,
        };
        item.in_vain = true;
        why
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.items).len()
    }

    /// Marks the pods that name the object, if it was known to somebody or waited for.
    fn changed(&self, key: &Key, was_known: bool) {
        let mut items = lock(&self.items);
        if let Some(item) = items.get_mut(key)
            && (was_known | std::mem::take(&mut item.in_vain))
        {
            self.changes.mark(&item.pods);
        }
    }
}

fn path<K: Kind>(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{}", K::PLURAL)
}

/// Without what no pod reads: an annotation may hold the whole object once more.
fn slim<K: Kind>(mut object: K) -> K {
    let whole = std::mem::take(object.metadata_mut());
    *object.metadata_mut() = ObjectMeta {
        name: whole.name,
        namespace: whole.namespace,
        resource_version: whole.resource_version,
        ..ObjectMeta::default()
    };
    object
}

/// Keeps one object up to date.
struct ItemSink<K> {
    shelf: Weak<Shelf<K>>,
    key: Key,
    sender: watch::Sender<Seen<K>>,
}

impl<K: Kind> ItemSink<K> {
    fn set(&self, new: Seen<K>) {
        let old = self.sender.borrow().clone();
        let version = |object: &Arc<K>| object.metadata().resource_version.clone();
        let same = match (&old, &new) {
            (Seen::Found(old), Seen::Found(new)) => version(old) == version(new),
            (Seen::Missing, Seen::Missing) => true,
            (Seen::Unknown(_) | Seen::Missing | Seen::Found(_), _) => false,
        };
        if same {
            return;
        }
        self.sender.send_replace(new);
        if let Some(shelf) = self.shelf.upgrade() {
            shelf.changed(&self.key, !matches!(old, Seen::Unknown(_)));
        }
    }
}

impl<K: Kind> Sink<K> for ItemSink<K> {
    fn replace(&mut self, all: Vec<K>) -> ControlFlow<()> {
        match all.into_iter().next() {
            Some(object) => self.apply(object),
            None => {
                self.set(Seen::Missing);
                ControlFlow::Continue(())
            }
        }
    }

    fn apply(&mut self, object: K) -> ControlFlow<()> {
        let object = slim(object);
        let is_last = object.is_immutable();
        self.set(Seen::Found(Arc::new(object)));
        if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn delete(&mut self, _: &K) {
        self.set(Seen::Missing);
    }

    fn failed(&mut self, error: Arc<ReadError>) {
        let (namespace, name) = &self.key;
        tracing::debug!("{} {namespace}/{name}: {}", K::PLURAL, crate::telemetry::chain(&error));
        self.sender.send_if_modified(|seen| match seen {
            Seen::Unknown(why) => {
                *why = Some(error);
                true
            }
            // The last that is known holds.
            Seen::Missing | Seen::Found(_) => false,
        });
    }
}
