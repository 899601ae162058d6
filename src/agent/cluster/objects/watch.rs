//! A list that is kept up to date by a watch (what upstream calls a reflector).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::core::WatchEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::request::{OBJECT_MAX, PAGE_MAX, ReadError, Server};
use super::retry::{Backoff, random_below};

/// How long a watch is asked to last, at least; at most twice as long. As upstream has it for
/// watches of single objects: one each few minutes from each object of each node is a load.
const WATCH_MIN: Duration = Duration::from_secs(30 * 60);
/// A watch that ended sooner did not work.
const WATCH_SHORT: Duration = Duration::from_secs(1);
/// Within what time all that a server has forgotten the versions of is listed again.
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// Objects in one answer to a list of many (client-go's default).
const PAGE: usize = 500;
/// Most objects that are listed: five times as many services as upstream is tested with.
pub(super) const LIST_MAX: usize = 50_000;

/// An object that has a name.
pub(super) trait Named:
    DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + 'static
{
}
impl<K: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + 'static> Named for K {}

/// What is listed and watched.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// The path of the list: `/api/v1/services`.
    pub(super) path: String,
    /// Which of them.
    pub(super) which: Which,
}

/// Which objects of a list.
#[derive(Clone, Debug)]
pub(super) enum Which {
    /// The one of this name, which is safe in a URL.
    One(String),
    /// Those that a field selector, as it stands in a URL, leaves.
    Selected(&'static str),
}

/// Who is told of what is there.
pub(super) trait Sink<K>: Send {
    /// These objects are there and no others. A break ends the watch.
    fn replace(&mut self, all: Vec<K>) -> ControlFlow<()>;
    /// An object is new or changed. A break ends the watch.
    fn apply(&mut self, object: K) -> ControlFlow<()>;
    /// An object is gone.
    fn delete(&mut self, object: &K);
    /// The server cannot be asked or does not answer as it should; it will be asked again.
    fn failed(&mut self, error: Arc<ReadError>);
}

/// Tells `sink` what is there, until it has enough.
pub(super) async fn follow<K: Named>(server: Server, scope: Scope, mut sink: impl Sink<K>) {
    let mut backoff = Backoff::default();
    let mut version = None;
    let mut listed = false;
    loop {
        let step = match &mut version {
            None => list(&server, &scope, listed).await.map(|(objects, at)| {
                (version, listed) = (Some(at), true);
                backoff.reset();
                sink.replace(objects)
            }),
            Some(version) => watch(&server, &scope, version, &mut sink, &mut backoff).await,
        };
        let error = match step {
            Ok(ControlFlow::Break(())) => return,
            Ok(ControlFlow::Continue(())) => continue,
            Err(error) => error,
        };
        let wait = if error.is_gone() {
            // The server is there and has started anew: it is only asked for the whole again.
            version = None;
            random_below(AGAIN_MAX)
        } else {
            backoff.next(&error)
        };
        sink.failed(Arc::new(error));
        tokio::time::sleep(wait).await;
    }
}

/// The part of a list that is read.
#[derive(Deserialize)]
struct Page<K> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<K>>,
}

/// All that is there, and the version of it that a watch goes on from.
///
/// One object is first read from the API server's cache, which takes no round trip to etcd and may
/// be some milliseconds old; what the cache lacks, or what is listed `again`, is asked of etcd.
async fn list<K: Named>(
    server: &Server,
    scope: &Scope,
    again: bool,
) -> Result<(Vec<K>, String), ReadError> {
    match &scope.which {
        Which::One(name) => {
            let selector = format!("fieldSelector=metadata.name%3D{name}");
            let cached = if again { "" } else { "&resourceVersion=0" };
            let url = format!("{}?{selector}{cached}", scope.path);
            let page: Page<K> = server.get(&url, OBJECT_MAX).await?;
            let mut objects = page.items.unwrap_or_default();
            if objects.is_empty() && !again {
                objects.extend(get(server, &scope.path, name).await?);
            }
            Ok((objects, page.metadata.resource_version.unwrap_or_default()))
        }
        Which::Selected(selector) => {
            let mut all = Vec::new();
            let mut next = String::new();
            loop {
                let url = format!("{}?fieldSelector={selector}&limit={PAGE}{next}", scope.path);
                let page: Page<K> = server.get(&url, PAGE_MAX).await?;
                all.extend(page.items.unwrap_or_default());
                let token = page.metadata.continue_.filter(|token| !token.is_empty());
                match token.filter(|_| all.len() < LIST_MAX) {
                    Some(token) => next = format!("&continue={token}"),
                    None => return Ok((all, page.metadata.resource_version.unwrap_or_default())),
                }
            }
        }
    }
}

/// One object as etcd has it now.
pub(super) async fn get<K: Named>(
    server: &Server,
    path: &str,
    name: &str,
) -> Result<Option<K>, ReadError> {
    match server.get(&format!("{path}/{name}"), OBJECT_MAX).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Watches from `version` on, which goes along, until the server ends the watch.
async fn watch<K: Named>(
    server: &Server,
    scope: &Scope,
    version: &mut String,
    sink: &mut impl Sink<K>,
    backoff: &mut Backoff,
) -> Result<ControlFlow<()>, ReadError> {
    let selector = match &scope.which {
        Which::One(name) => format!("metadata.name%3D{name}"),
        Which::Selected(selector) => (*selector).to_owned(),
    };
    let seconds = (WATCH_MIN + random_below(WATCH_MIN)).as_secs();
    let url = format!(
        "{}?watch=true&fieldSelector={selector}&allowWatchBookmarks=true&timeoutSeconds={seconds}\
         &resourceVersion={version}",
        scope.path
    );
    let opened = Instant::now();
    let mut events = server.watch(&url).await?;
    while let Some(event) = events.next::<K>().await? {
        backoff.reset();
        let flow = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                keep_version(version, object.metadata().resource_version.as_deref());
                sink.apply(object)
            }
            WatchEvent::Deleted(object) => {
                keep_version(version, object.metadata().resource_version.as_deref());
                sink.delete(&object);
                ControlFlow::Continue(())
            }
            WatchEvent::Bookmark(bookmark) => {
                keep_version(version, Some(&bookmark.metadata.resource_version));
                ControlFlow::Continue(())
            }
            // `Events::next` makes an error of it.
            WatchEvent::Error(_) => ControlFlow::Continue(()),
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    if opened.elapsed() < WATCH_SHORT {
        return Err(ReadError::Closed);
    }
    backoff.reset();
    Ok(ControlFlow::Continue(()))
}

fn keep_version(version: &mut String, new: Option<&str>) {
    if let Some(new) = new.filter(|new| !new.is_empty()) {
        new.clone_into(version);
    }
}
