//! Who looks after one pod: observe, ask `pod::step`, apply what it says, publish the status.
//!
//! Owns: one task per pod ([`Worker`]), the jobs that its actions start, the table of workers
//! ([`Workers`]), the task that hands a runtime's happenings to them and the one that measures their
//! volumes ([`evict`]).
//! In: [`Event`]s (desired pods, kills, happenings). Out: a [`Snapshot`] per pod on a watch channel.
//! Decides nothing: every decision is [`copepod_pod::step`]'s, every effect goes through
//! [`Worker::apply`].

mod abort;
mod cgroup;
mod container;
mod evict;
mod exec;
mod host;
mod kinds;
mod ordinary;
mod outlet;
mod prepare;
mod probing;
mod pulling;
mod resize;
mod secrets;
mod set_up;
mod supply;
mod userns;

pub(crate) use cgroup::{PIDS, PodCgroups, limits_of};
pub(crate) use container::{http_port, image_request};
pub(crate) use exec::Asked;
pub(crate) use host::Host;
pub(crate) use kinds::Kinds;
pub(crate) use outlet::{Outlet, Silent};
pub(crate) use set_up::{NO_NETWORK, WASM_HANDLER, no_sandbox};
pub(crate) use supply::{Given, Supplier};
pub(crate) use userns::{Pool, UserIds, UserIdsError, default_range, parse_sub_ids};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use copepod_pod::{Action, Event, Failure, ImageRef, Now, Pulled, SetUpDone, State, step};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use crate::image::Images;
use crate::ledger::Ledger;
use crate::metrics::{Metrics, PodProbes};
use crate::runtime::{Happening, Runtime, What};
use crate::telemetry::chain;
use abort::Jobs;
use evict::Limits;
use kinds::Unresolved;
use prepare::PreparedImage;
use probing::RunningHook;
use pulling::Pulling;
use resize::ResizeJob;
use set_up::{Ready, SetUpJob};

/// Events waiting for one worker. It never waits for anything but events, so they are few.
const EVENTS: usize = 64;
/// Later than anything that is waited for.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What all workers share.
pub(crate) struct Shared<R> {
    pub(crate) runtime: R,
    pub(crate) images: Images,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) host: Host,
    pub(crate) metrics: Arc<Metrics>,
}

impl<R: Runtime> Shared<R> {
    /// The kinds of the pod's containers, if they were decided.
    async fn kinds(self: &Arc<Self>, uid: &str) -> Option<Kinds> {
        let (shared, uid) = (Arc::clone(self), uid.to_owned());
        blocking(move || shared.ledger.kinds(&uid)).await
    }
}

/// What is known of a pod, for whoever shows or reports it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    /// The pod's status as of now.
    pub(crate) status: PodStatus,
    /// What keeps the pod as a whole from going on, which upstream tells by events alone.
    pub(crate) trouble: Option<Failure>,
    /// Whether its worker has ended: a terminal phase, nothing runs, nothing is left to undo.
    pub(crate) terminated: bool,
}

/// A pod's worker, from outside.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    /// What happens to the pod.
    pub(crate) events: mpsc::Sender<Event>,
    /// What became of it.
    pub(crate) snapshot: watch::Receiver<Snapshot>,
}

/// Where to reach a worker.
#[derive(Clone)]
struct Inbox {
    events: mpsc::Sender<Event>,
    /// Has it list its attempts.
    look: Arc<Notify>,
}

/// Where to reach each worker, by its pod's uid. Locked for a look-up only.
type Inboxes = Arc<Mutex<HashMap<String, Inbox>>>;

/// The workers of an agent.
pub(crate) struct Workers<R> {
    shared: Arc<Shared<R>>,
    inboxes: Inboxes,
    limits: Limits,
    outlet: Arc<dyn Outlet>,
}

impl<R: Runtime> Workers<R> {
    /// No workers yet; starts the task that hands the runtime's happenings to them. Whatever is to
    /// be told of pods beside their snapshots goes to `outlet`.
    pub(crate) fn new(
        shared: Arc<Shared<R>>,
        happenings: mpsc::Receiver<Happening>,
        outlet: Arc<dyn Outlet>,
    ) -> Self {
        let inboxes = Inboxes::default();
        tokio::spawn(dispatch(happenings, Arc::clone(&inboxes)));
        Self { shared, inboxes, limits: Limits::default(), outlet }
    }

    /// Starts the worker of a pod. `base` is the folder from which its images' paths start,
    /// `supplier` gives what the pod names.
    pub(crate) fn add(
        &mut self,
        pod: Arc<Pod>,
        base: PathBuf,
        supplier: Arc<dyn Supplier>,
    ) -> Handle {
        let (events, inbox) = mpsc::channel(EVENTS);
        let state = State::new(Arc::clone(&pod)).on(self.shared.host.of_pods());
        let first = Snapshot { status: state.status(), trouble: None, terminated: false };
        let (publish, snapshot) = watch::channel(first);
        let handle = Handle { events, snapshot };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let worker = Worker {
            shared: Arc::clone(&self.shared),
            limits: self.limits.clone(),
            events: handle.events.downgrade(),
            uid: uid.clone(),
            base,
            supplier,
            outlet: Arc::clone(&self.outlet),
            state,
            ready: Arc::default(),
            prepared: HashMap::new(),
            trouble: None,
            hooks: Vec::new(),
            probed: Arc::new(self.shared.metrics.of_pod(&pod)),
            jobs: Jobs::new(),
            publish,
            look: Arc::default(),
        };
        let reached = Inbox { events: handle.events.clone(), look: Arc::clone(&worker.look) };
        lock(&self.inboxes).insert(uid, reached);
        tokio::spawn(worker.run(inbox));
        handle
    }
}

fn lock(inboxes: &Inboxes) -> MutexGuard<'_, HashMap<String, Inbox>> {
    // A panic elsewhere leaves the map whole: each change is one call.
    inboxes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn dispatch(mut happenings: mpsc::Receiver<Happening>, inboxes: Inboxes) {
    while let Some(Happening { pod_uid, what }) = happenings.recv().await {
        let Some(inbox) = lock(&inboxes).get(&pod_uid).cloned() else { continue };
        let event = match what {
            What::Attempt(attempt) => Event::Attempt(attempt),
            What::NeverRan { container, attempt, failure } => {
                Event::StartFailed { container, attempt, failure }
            }
            What::SandboxChanged { sandbox } => Event::SandboxChanged { sandbox },
            What::Look => {
                inbox.look.notify_one();
                continue;
            }
        };
        if inbox.events.send(event).await.is_err() {
            // That worker is done with its pod.
            lock(&inboxes).remove(&pod_uid);
        }
    }
}

/// What a job that [`Worker::apply`] started came to.
enum Done {
    SetUp(Result<Ready, Unresolved>),
    TearDown(Result<(), Failure>),
    Image { container: String, result: Result<PreparedImage, Failure>, pulled: Option<Pulled> },
    Event(Event),
    Relist,
}

struct Worker<R> {
    shared: Arc<Shared<R>>,
    limits: Limits,
    /// To itself, for whoever shall tell it something.
    events: mpsc::WeakSender<Event>,
    uid: String,
    base: PathBuf,
    supplier: Arc<dyn Supplier>,
    outlet: Arc<dyn Outlet>,
    state: State,
    /// What the set-up gave.
    ready: Arc<Ready>,
    prepared: HashMap<String, PreparedImage>,
    trouble: Option<Failure>,
    hooks: Vec<RunningHook>,
    /// What its probes came to, for who scrapes that.
    probed: Arc<PodProbes>,
    jobs: Jobs<Done>,
    publish: watch::Sender<Snapshot>,
    look: Arc<Notify>,
}

impl<R: Runtime> Worker<R> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        let clock = Clock(Instant::now());
        let kept = self.shared.kinds(&self.uid).await;
        if kinds::may_be_ordinary(self.state.pod(), kept.as_ref()) {
            self.shared.runtime.looked().await;
        }
        let attempts = self.shared.runtime.list(&self.uid);
        if let Some(known) = self.shared.actuated(&self.uid, &attempts).await {
            (self.state, _) = step(self.state, Event::Actuated(known), clock.now());
        }
        // Nothing before the first look: what an earlier agent started must not start twice. What
        // was told already is known by then: nothing of a pod that is to end is set up.
        while let Ok(event) = inbox.try_recv() {
            let (state, _) = step(self.state, event, clock.now());
            self.state = state;
        }
        let mut event = Event::Observed(self.shared.runtime.list(&self.uid));
        loop {
            self.mind_hooks(&event);
            let (state, actions) = step(self.state, event, clock.now());
            self.state = state;
            let terminated = self.state.is_terminated();
            let trouble = self.trouble.clone();
            let snapshot = Snapshot { status: self.state.status(), trouble, terminated };
            self.publish.send_if_modified(|old| {
                let changed = *old != snapshot;
                *old = snapshot;
                if changed {
                    self.outlet.changed(&self.uid);
                }
                changed
            });
            for action in actions {
                self.apply(action);
            }
            if terminated {
                return;
            }
            let wake = self.state.wake_at().map(|at| clock.instant(at));
            // Each arm only takes: what it takes is worked on after the select.
            let done = tokio::select! {
                // What was told before an answer is heard before it.
                biased;
                got = inbox.recv() => match got {
                    Some(got) => {
                        event = got;
                        continue;
                    }
                    // The handles are gone with the agent.
                    None => return,
                },
                Some(done) = self.jobs.join_next() => done,
                () = self.look.notified() => Ok(Done::Relist),
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {
                    event = Event::Timer;
                    continue;
                }
            };
            event = match done {
                Ok(done) => self.learn(done),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
        }
    }

    /// Keeps what a job brought and gives the event that tells of it.
    fn learn(&mut self, done: Done) -> Event {
        match done {
            Done::SetUp(result) => {
                let result = match result {
                    Err(Unresolved::NoImage { container, failure }) => {
                        self.trouble = None;
                        return Event::NoImage { container, failure };
                    }
                    Err(Unresolved::Other(failure)) => Err(failure),
                    Ok(ready) => Ok(ready),
                };
                self.trouble = result.as_ref().err().cloned();
                Event::SetUp(result.map(|ready| {
                    self.ready = Arc::new(ready);
                    if let Some(events) = self.events.upgrade() {
                        self.limits.watch(self.state.pod(), &self.ready.files, events);
                    }
                    let addresses = self.ready.addresses.clone();
                    let recursive_read_only = self.ready.recursive_read_only;
                    let (sandbox, warnings) =
                        (self.ready.generation(), self.ready.files.warnings.clone());
                    SetUpDone { addresses, sandbox, recursive_read_only, warnings }
                }))
            }
            Done::TearDown(result) => {
                self.trouble = result.as_ref().err().cloned();
                Event::TornDown(result)
            }
            Done::Image { container, result, pulled } => {
                let result = result.map(|prepared| {
                    let (image, image_id) = prepared.names();
                    let image = ImageRef { image, image_id, pulled };
                    self.prepared.insert(container.clone(), prepared);
                    image
                });
                Event::Image { container, result }
            }
            Done::Event(event) => event,
            Done::Relist => Event::Observed(self.shared.runtime.list(&self.uid)),
        }
    }

    /// The one place where a pod has effects. Nothing here waits: what takes time is a job, whose
    /// result comes back as an event.
    fn apply(&mut self, action: Action) {
        tracing::debug!(pod = self.uid, ?action, "apply");
        self.jobs.before(&action);
        let shared = Arc::clone(&self.shared);
        match action {
            Action::SetUp => {
                let job = self.set_up_job();
                self.jobs.spawn(async { Done::SetUp(job.set_up().await) });
            }
            Action::Refresh => {
                let job = self.set_up_job();
                let job = async { Done::Event(Event::Refreshed(job.refresh().await)) };
                self.jobs.spawn(job);
            }
            Action::Record(record) => self.outlet.record(self.state.pod(), record),
            Action::PrepareImage { container } => self.prepare_image(container),
            Action::Start { container, attempt } => self.start(container, attempt),
            Action::Probe { container, id, probe } => self.probe(container, id, probe),
            Action::Hook { container, id, hook } => self.hook(container, id, hook),
            Action::Resize { containers } => {
                let job = ResizeJob { shared, pod: Arc::clone(self.state.pod()), containers };
                self.jobs.spawn(async { Done::Event(Event::Resized(job.run().await)) });
            }
            Action::Stop { id, grace, container: _, attempt: _ } => {
                self.cut_hooks(&id);
                shared.runtime.stop(&id, grace);
            }
            Action::Remove { id, container: _, attempt: _ } => {
                self.jobs.spawn(async move {
                    shared.runtime.remove(&id).await;
                    // The state forgets what the runtime has no more.
                    Done::Relist
                });
            }
            Action::TearDown => {
                let job = self.set_up_job();
                self.jobs.spawn(async { Done::TearDown(job.tear_down().await) });
            }
        }
        self.jobs.after();
    }

    fn prepare_image(&mut self, container: String) {
        let shared = Arc::clone(&self.shared);
        let pod = Arc::clone(self.state.pod());
        let (base, ready) = (self.base.clone(), Arc::clone(&self.ready));
        let pulling = Pulling::new(self.events.clone(), container.clone());
        let (supplier, outlet) = (Arc::clone(&self.supplier), Arc::clone(&self.outlet));
        self.jobs.spawn(async move {
            let secrets = match shared.host.die_with_agent {
                // A run's registries are asked as its user.
                true => None,
                false => secrets::of_pod(&pod, &*supplier, &*outlet).await,
            };
            let secrets = secrets.as_ref();
            let (container, base, ready) = (&*container, &*base, &*ready);
            let wanted = prepare::Wanted { pod: &pod, container, base, ready, secrets };
            let result = prepare::prepare(&shared, wanted, &pulling).await;
            let pulled = result.as_ref().ok().and_then(|image| image.pulled(pulling.pulled()));
            Done::Image { container: container.to_owned(), result, pulled }
        });
    }

    fn start(&mut self, name: String, attempt: u32) {
        let shared = Arc::clone(&self.shared);
        let pod = Arc::clone(self.state.pod());
        let supplier = Arc::clone(&self.supplier);
        let prepared = self.prepared.get(&name).cloned();
        let ready = Arc::clone(&self.ready);
        let attempts = self.shared.runtime.list(&self.uid);
        let target = container::target(self.state.pod(), &name, &attempts);
        self.jobs.spawn(async move {
            let start = async {
                let objects = supplier.supply(Arc::clone(&pod)).await.map_err(|e| Failure {
                    reason: "CreateContainerConfigError".into(),
                    message: e.message,
                })?;
                let (name, target) = (name.clone(), target.map_err(|e| failure(e.reason(), &e))?);
                let context =
                    container::Context { pod, name, attempt, prepared, objects, ready, target };
                let of_job = Arc::clone(&shared);
                let described = blocking(move || {
                    let (pod, name) = (Arc::clone(&context.pod), context.name.clone());
                    let launch = container::describe(context, &of_job.ledger, &of_job.host)
                        .map_err(|e| failure(e.reason(), &e))?;
                    of_job.keep_made(&pod, &name, attempt)?;
                    Ok(launch)
                });
                shared.runtime.start(described.await?).await
            };
            Done::Event(match start.await {
                Ok(attempt) => Event::Attempt(attempt),
                Err(failure) => Event::StartFailed { container: name, attempt, failure },
            })
        });
    }

    fn set_up_job(&self) -> SetUpJob<R> {
        SetUpJob {
            shared: Arc::clone(&self.shared),
            supplier: Arc::clone(&self.supplier),
            pod: Arc::clone(self.state.pod()),
            uid: self.uid.clone(),
        }
    }
}

/// Does work that waits for a disk, off the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = spawn_blocking(work).await;
    // The job is not aborted, but for an end of the whole event loop.
    done.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))
}

fn failure(reason: &str, error: &dyn std::error::Error) -> Failure {
    Failure { reason: reason.into(), message: chain(error) }
}

/// The one place where a pod's time is read: both clocks, the steady one from the worker's start.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> Now {
        Now { wall: Timestamp::now(), mono: self.0.elapsed() }
    }

    fn instant(&self, mono: Duration) -> Instant {
        // Past what the clock can say: a wait without end, cut to a year.
        self.0.checked_add(mono).unwrap_or_else(|| Instant::now() + FAR)
    }
}
