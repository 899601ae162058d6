//! The pods' networks: a namespace of each pod, attached by the plugins that the node's CNI
//! configuration names.
//!
//! Owns: the namespaces ([`netns`]), the configuration ([`conf`]) and the news of it ([`watch`]),
//! the calls of plugins ([`cni`], one after another by [`chain`]), what a pod asks of them
//! ([`capability`]) and what they answer ([`result`]), and what is on disk of it ([`record`]).
//! Starts one task that watches the configuration, and one for each pod that is being attached or
//! detached, which goes on when whoever asked for it is gone: a plugin is not left half-way.
//!
//! In: pods. Out: the path of a namespace, addresses, and errors in containerd's words.
//!
//! A record with all that a DEL needs is written before the first plugin runs, and again with the
//! result. So whatever happens in between, the pod's addresses are given back, and an agent that
//! starts again runs no plugin for a pod that is attached.
//!
//! ```text
//! RUN/netns/UID       the namespace, held by a mount; gone with the machine's next boot
//! STATE/UID.json      the record
//! ```

mod capability;
mod chain;
mod cni;
mod conf;
mod error;
mod netns;
mod record;
mod result;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, watch as tokio_watch};
use tokio::time::{Instant, sleep};

pub(crate) use error::{NetworkError, SetupError};

use capability::arguments;
use chain::{CALL_LIMIT, Chain};
use netns::Namespaces;
use record::{Record, Records};

/// Pods that are attached or detached at once; each is some processes in turn.
const AT_ONCE: usize = 16;
/// How long a plugin that was killed may take to end: no longer than the kernel lets go of it.
const LEFT_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const LEFT_AGAIN: Duration = Duration::from_millis(10);
/// Longest uid; the API server's have 36 bytes, those of static pods 32.
const UID_MAX: usize = 128;
/// The pods' interface, as containerd and every user of CNI in Kubernetes names it.
const INTERFACE: &str = "eth0";

/// Where a node's network lies.
#[derive(Clone, Debug)]
pub(crate) struct NetworkOptions {
    /// The directory of CNI configurations, which need not be there yet.
    pub(crate) conf_dir: PathBuf,
    /// The directories of plugins, the first one that has a plugin wins.
    pub(crate) bin_dirs: Vec<PathBuf>,
    /// The run directory, which the machine's next boot empties; namespaces go into `netns` in it.
    pub(crate) run_dir: PathBuf,
    /// The directory of records, on disk; made if need be.
    pub(crate) state_dir: PathBuf,
}

/// A pod's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// What holds its namespace; none for a pod on the host's network.
    pub(crate) netns: Option<PathBuf>,
    /// Its addresses, the main one first; none for a pod on the host's network, whose are the
    /// node's.
    pub(crate) pod_ips: Vec<IpAddr>,
}

/// The pods' networks on this node.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    inner: Arc<Inner>,
    status: tokio_watch::Receiver<watch::Status>,
}

#[derive(Debug)]
struct Inner {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    call_limit: Duration,
    namespaces: Namespaces,
    records: Records,
    /// Held for a pod while it is attached or detached.
    pods: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
    at_once: Semaphore,
}

impl Network {
    /// The network of the node. In an event loop, its status follows the configuration.
    pub(crate) fn open(options: NetworkOptions) -> Self {
        Self::with_limit(options, CALL_LIMIT)
    }

    fn with_limit(options: NetworkOptions, call_limit: Duration) -> Self {
        let status = watch::start(options.conf_dir.clone());
        let inner = Inner {
            conf_dir: options.conf_dir,
            bin_dirs: options.bin_dirs,
            call_limit,
            namespaces: Namespaces::new(&options.run_dir),
            records: Records::new(options.state_dir),
            pods: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
        };
        Self { inner: Arc::new(inner), status }
    }

    /// Attaches the pod, or says how it is attached already. What an earlier try or an earlier
    /// boot left is detached first.
    ///
    /// # Errors
    /// [`NetworkError`]: nothing is attached then, or its record is kept until it is not.
    pub(crate) async fn attach(&self, pod: &Pod) -> Result<Attachment, NetworkError> {
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return Ok(Attachment::default());
        }
        let uid = file_name(pod.metadata.uid.as_deref().unwrap_or_default())?;
        let (inner, pod) = (Arc::clone(&self.inner), pod.clone());
        let work = async move { inner.attach(&uid, &pod).await };
        tokio::spawn(work).await.map_err(|_| NetworkError::Ended)?
    }

    /// Detaches the pod with this uid and removes its namespace; nothing there is no error.
    ///
    /// # Errors
    /// [`NetworkError`]; the record is kept, a later call goes on.
    pub(crate) async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        let (inner, uid) = (Arc::clone(&self.inner), file_name(uid)?);
        let work = async move { inner.detach(&uid).await };
        tokio::spawn(work).await.map_err(|_| NetworkError::Ended)?
    }

    /// The uids of all pods of which anything is there, also of another agent's time.
    pub(crate) fn attached(&self) -> Vec<String> {
        let uids = self.inner.records.uids().into_iter().chain(self.inner.namespaces.uids());
        uids.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Where the pod's network namespace is held, if it has one.
    pub(crate) fn netns(&self, uid: &str) -> Option<PathBuf> {
        let namespaces = &self.inner.namespaces;
        namespaces.is_there(uid).then(|| namespaces.path(uid))
    }

    /// Whether pods can be attached; if not, why, in containerd's words.
    ///
    /// # Errors
    /// `cni plugin not initialized`, and what is wrong where there is a configuration.
    pub(crate) fn status(&self) -> Result<(), String> {
        self.status.borrow().clone()
    }

    /// [`Network::status`], and when it changes.
    pub(crate) fn changes(&self) -> tokio_watch::Receiver<Result<(), String>> {
        self.status.clone()
    }
}

/// A uid that is a file's name and nothing else.
fn file_name(uid: &str) -> Result<String, NetworkError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = !uid.is_empty() && uid.len() <= UID_MAX && !uid.starts_with('.');
    if is_name && uid.chars().all(is_plain) {
        Ok(uid.to_owned())
    } else {
        Err(NetworkError::Uid(uid.to_owned()))
    }
}

/// Runs what blocks, beside the event loop.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NetworkError::Ended)
}

impl Inner {
    fn lock_of(&self, uid: &str) -> Arc<AsyncMutex<()>> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = pods.get(uid).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        pods.insert(uid.to_owned(), Arc::downgrade(&lock));
        lock
    }

    async fn attach(self: &Arc<Self>, uid: &str, pod: &Pod) -> Result<Attachment, NetworkError> {
        let lock = self.lock_of(uid);
        let _one = lock.lock().await;
        let _some = self.at_once.acquire().await.map_err(|_| NetworkError::Ended)?;
        let (this, of) = (Arc::clone(self), uid.to_owned());
        let (found, is_there) =
            blocking(move || (this.records.read(&of), this.namespaces.is_there(&of))).await?;
        match found? {
            Some(record) if is_there && record.result.is_some() => {
                return Ok(self.attachment(uid, record));
            }
            Some(record) => self.undo(uid, &record).await?,
            None => {}
        }
        let id = new_id();
        let record = match self.prepare(pod, id.clone()).await? {
            Ok(record) => record,
            Err(source) => return Err(NetworkError::Setup { id, source }),
        };
        match self.set_up(uid, pod, record.clone()).await? {
            Ok(record) => Ok(self.attachment(uid, record)),
            Err(source) => {
                if let Err(error) = self.undo(uid, &record).await {
                    let error = crate::telemetry::chain(&error);
                    tracing::warn!(uid, error, "a failed attachment is not undone yet");
                }
                Err(NetworkError::Setup { id, source })
            }
        }
    }

    async fn detach(self: &Arc<Self>, uid: &str) -> Result<(), NetworkError> {
        let lock = self.lock_of(uid);
        let _one = lock.lock().await;
        let _some = self.at_once.acquire().await.map_err(|_| NetworkError::Ended)?;
        let (this, of) = (Arc::clone(self), uid.to_owned());
        match blocking(move || this.records.read(&of)).await?? {
            Some(record) => self.undo(uid, &record).await,
            None => self.forget(uid).await,
        }
    }

    fn attachment(&self, uid: &str, record: Record) -> Attachment {
        Attachment { netns: Some(self.namespaces.path(uid)), pod_ips: record.ips }
    }

    /// All that a DEL will need.
    async fn prepare(
        self: &Arc<Self>,
        pod: &Pod,
        container_id: String,
    ) -> Result<Result<Record, SetupError>, NetworkError> {
        let this = Arc::clone(self);
        let network = match blocking(move || conf::load(&this.conf_dir)).await? {
            Ok(network) => network,
            Err(error) => return Ok(Err(error.into())),
        };
        let is_wanted =
            |name: &str| network.plugins.iter().any(|plugin| chain::supports(plugin, name));
        Ok(arguments(pod, is_wanted).map_err(Into::into).map(|capabilities| Record {
            args: args(pod, &container_id),
            container_id,
            interface: INTERFACE.to_owned(),
            network,
            capabilities,
            result: None,
            ips: Vec::new(),
        }))
    }

    async fn set_up(
        self: &Arc<Self>,
        uid: &str,
        pod: &Pod,
        mut record: Record,
    ) -> Result<Result<Record, SetupError>, NetworkError> {
        let (this, of, begun) = (Arc::clone(self), uid.to_owned(), record.clone());
        let begun = blocking(move || this.records.begin(&of, &begun)).await??;
        // The disk takes about as long as the kernel.
        let (this, of) = (Arc::clone(self), uid.to_owned());
        let (synced, made) = tokio::join!(
            blocking(move || begun.sync()),
            blocking(move || this.namespaces.make(&of))
        );
        synced??;
        let netns = match made? {
            Ok(netns) => netns,
            Err(error) => return Ok(Err(SetupError::Namespace(error))),
        };
        let result = match self.chain(&record, &netns).add().await {
            Ok(result) => result,
            Err(error) => return Ok(Err(error.into())),
        };
        match result::addresses(&result, &record.interface) {
            Ok(ips) => record.ips = ips,
            Err(error) => return Ok(Err(error.into())),
        }
        record.result = Some(result);
        let (this, of, sysctls) = (Arc::clone(self), uid.to_owned(), sysctls(pod));
        let applied = blocking(move || this.namespaces.apply_sysctls(&of, &sysctls)).await?;
        if let Err(error) = applied {
            return Ok(Err(SetupError::Sysctl(error)));
        }
        let (this, of, finished) = (Arc::clone(self), uid.to_owned(), record.clone());
        blocking(move || this.records.finish(&of, &finished)).await??;
        Ok(Ok(record))
    }

    fn chain<'a>(&'a self, record: &'a Record, netns: &'a Path) -> Chain<'a> {
        Chain { record, bin_dirs: &self.bin_dirs, netns, limit: self.call_limit }
    }

    /// Detaches by a record, and then removes the namespace and the record.
    async fn undo(self: &Arc<Self>, uid: &str, record: &Record) -> Result<(), NetworkError> {
        let (this, of) = (Arc::clone(self), uid.to_owned());
        // This agent waits for what it starts: an ADD without a result may be another's, and go on.
        if record.result.is_none() {
            self.end_left(&record.container_id).await?;
        }
        let is_there = blocking(move || this.namespaces.is_there(&of)).await?;
        // Without a namespace plugins give back what is theirs outside of it.
        let netns = if is_there { self.namespaces.path(uid) } else { PathBuf::new() };
        self.chain(record, &netns)
            .delete()
            .await
            .map_err(|source| NetworkError::Destroy { id: record.container_id.clone(), source })?;
        self.forget(uid).await
    }

    /// Ends what an earlier agent has started for a container and waits until it has.
    async fn end_left(&self, container_id: &str) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Left { id: container_id.to_owned(), source };
        let until = Instant::now() + LEFT_ENDS_WITHIN;
        loop {
            let id = container_id.to_owned();
            if !blocking(move || chain::kill_left(&id)).await?.map_err(failed)? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            sleep(LEFT_AGAIN).await;
        }
    }

    async fn forget(self: &Arc<Self>, uid: &str) -> Result<(), NetworkError> {
        let (this, of) = (Arc::clone(self), uid.to_owned());
        let removed = blocking(move || {
            let failed = |source: io::Error| NetworkError::Remove { uid: of.clone(), source };
            this.namespaces.remove(&of).map_err(failed)?;
            Ok(this.records.remove(&of)?)
        });
        removed.await?
    }
}

/// A sandbox id as containerd makes them: 64 hex digits.
fn new_id() -> String {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    half() + &half()
}

/// `CNI_ARGS` as every runtime of Kubernetes gives them.
fn args(pod: &Pod, container_id: &str) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let meta = &pod.metadata;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};\
         K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={}",
        text(&meta.namespace),
        text(&meta.name),
        text(&meta.uid)
    )
}

fn sysctls(pod: &Pod) -> Vec<(String, String)> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let sysctls = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

#[cfg(test)]
mod hostile_test;
#[cfg(test)]
mod tests;
