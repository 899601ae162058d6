//! Workers of a runtime that a test looks after.

use std::collections::BTreeMap;

use copepod_pod::{Attempt, Objects};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::runtime::{
    Attach, Exec, ExecError, ExecExit, ExecOutput, Launch, Resources, StreamRequest, What,
};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs nothing, and says when it was looked at.
struct Idle {
    looked: watch::Receiver<bool>,
}

impl Runtime for Idle {
    async fn looked(&self, _pod_uid: &str) {
        // A test that ends does not wait.
        let _ = self.looked.clone().wait_for(|looked| *looked).await;
    }

    async fn start(&self, _launch: Launch) -> Result<Attempt, Failure> {
        Err(Failure { reason: "RunContainerError".into(), message: "it runs nothing".into() })
    }

    fn stop(&self, _id: &str, _grace: Duration) {}

    async fn resize(&self, _id: &str, _resources: Resources) -> Result<(), String> {
        Ok(())
    }

    async fn remove(&self, _id: &str) {}

    fn programs(&self, _id: &str) -> Option<Arc<crate::image::Programs>> {
        None
    }

    async fn exec(&self, id: &str, _exec: Exec) -> Result<ExecExit, ExecError> {
        Err(ExecError::NotRunning(id.into()))
    }

    async fn attach(&self, id: &str, _attach: Attach) -> Result<(), ExecError> {
        Err(ExecError::NotRunning(id.into()))
    }

    async fn stream_url(
        &self,
        _id: &str,
        _request: &StreamRequest,
    ) -> Result<Option<String>, ExecError> {
        Ok(None)
    }

    async fn port_forward_url(
        &self,
        _pod_uid: &str,
        _ports: &[u16],
    ) -> Result<Option<String>, ExecError> {
        Ok(None)
    }

    async fn exec_sync(
        &self,
        _id: &str,
        _command: &[String],
        _timeout: Duration,
        _limit: usize,
    ) -> Result<Option<ExecOutput>, ExecError> {
        Ok(None)
    }

    fn list(&self, _pod_uid: &str) -> Vec<Attempt> {
        Vec::new()
    }
}

struct Bench {
    workers: Workers<Idle>,
    happenings: mpsc::Sender<Happening>,
    look: watch::Sender<bool>,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let (look, looked) = watch::channel(false);
        let shared = Arc::new(Shared {
            runtime: Idle { looked },
            images: Images::open(at("cache"), "/none".into()).expect("opens"),
            ledger: Arc::new(Ledger::open(&at("root"), &at("run")).expect("opens")),
            host: Host::alone(dir.path()),
            metrics: Metrics::new().expect("figures"),
        });
        let (happenings, heard) = mpsc::channel(1);
        let workers = Workers::new(shared, heard, Arc::new(Silent));
        Self { workers, happenings, look, _dir: dir }
    }

    fn add(&mut self, pod: &Arc<Pod>) -> Handle {
        let given = Arc::new(Given(Arc::new(Objects::default())));
        self.workers.add(Arc::clone(pod), "/".into(), given)
    }

    fn inboxes(&self) -> usize {
        self.workers.inboxes.len()
    }
}

/// A pod; a number of its is `n`.
fn pod(uid: &str, n: i64) -> Arc<Pod> {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.into());
    pod.metadata.generation = Some(n);
    pod.metadata.annotations = Some(BTreeMap::new());
    pod.spec = Some(
        serde_json::from_str(r#"{"containers": [{"name": "c", "image": "i"}]}"#).expect("a spec"),
    );
    Arc::new(pod)
}

/// Waits until the worker has ended.
async fn ended(mut handle: Handle) {
    let ended = handle.snapshot.wait_for(|snapshot| snapshot.terminated);
    timeout(PATIENCE, ended).await.expect("ends in time").expect("is told");
}

/// Tells a worker that waits for the runtime more than any inbox holds, by both ways.
async fn flood(bench: &Bench, handle: &Handle, uid: &str) {
    let all = async {
        for n in 0..500 {
            handle.events.tell(Event::Desired(pod(uid, n))).expect("it lives");
            let what = What::SandboxChanged { sandbox: 0 };
            let happening = Happening { pod_uid: uid.into(), what };
            bench.happenings.send(happening).await.expect("is heard");
        }
    };
    timeout(PATIENCE, all).await.expect("nobody waits for one worker");
}

#[tokio::test]
async fn a_worker_that_waits_for_the_runtime_holds_up_nobody_and_knows_what_it_was_told() {
    let mut bench = Bench::new();
    let handle = bench.add(&pod("a", 0));
    flood(&bench, &handle, "a").await;
    handle.events.tell(Event::Kill { grace: Duration::ZERO }).expect("it lives");
    assert!(!handle.snapshot.borrow().terminated, "nothing is done before the look");
    bench.look.send_replace(true);
    ended(handle).await;
}

#[tokio::test]
async fn a_pod_that_has_ended_leaves_nothing_in_the_table() {
    let mut bench = Bench::new();
    bench.look.send_replace(true);
    let handles: Vec<Handle> = ["a", "b"].map(|uid| bench.add(&pod(uid, 0))).into();
    assert_eq!(bench.inboxes(), 2);
    for handle in handles {
        handle.events.tell(Event::Kill { grace: Duration::ZERO }).expect("it lives");
        ended(handle).await;
    }
    let empty = async {
        while bench.inboxes() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, empty).await.expect("their entries go");
}

#[tokio::test]
async fn the_end_of_a_worker_is_not_that_of_its_successor() {
    let mut bench = Bench::new();
    let first = bench.add(&pod("a", 0));
    first.events.tell(Event::Kill { grace: Duration::ZERO }).expect("it lives");
    let second = bench.add(&pod("a", 1));
    bench.look.send_replace(true);
    ended(first).await;
    tokio::task::yield_now().await;
    assert_eq!(bench.inboxes(), 1);
    second.events.tell(Event::Kill { grace: Duration::ZERO }).expect("it lives");
    ended(second).await;
}
