//! Workers' inboxes: whoever tells one something never waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use copepod_pod::Event;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver};

use crate::runtime::{Happening, What};

/// Events waiting for one worker. It waits for nothing but events, so they are few.
pub(super) const EVENTS: usize = 64;

/// Where a worker is told what happens to its pod. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    inbox: mpsc::Sender<Event>,
    /// What found no room, in order: a worker whose disk does not answer holds up nobody else.
    late: Arc<Mutex<VecDeque<Event>>>,
}

/// That worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

impl Events {
    /// To a new worker, and what it is to take from.
    pub(super) fn new() -> (Self, Receiver<Event>) {
        let (inbox, taken) = mpsc::channel(EVENTS);
        (Self { inbox, late: Arc::default() }, taken)
    }

    /// Tells the worker, after all that it was told before.
    ///
    /// # Errors
    /// [`Ended`].
    pub(crate) fn tell(&self, event: Event) -> Result<(), Ended> {
        let mut late = self.late();
        if !late.is_empty() {
            push(&mut late, event);
            return if self.inbox.is_closed() { Err(Ended) } else { Ok(()) };
        }
        match self.inbox.try_send(event) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Ended),
            Err(TrySendError::Full(event)) => {
                push(&mut late, event);
                tokio::spawn(self.clone().deliver());
                Ok(())
            }
        }
    }

    /// The same without a hold on the inbox, for the worker itself; not in order with what is late.
    pub(super) fn downgrade(&self) -> mpsc::WeakSender<Event> {
        self.inbox.downgrade()
    }

    /// Gives what is late to the worker as it has room.
    async fn deliver(self) {
        while let Ok(room) = self.inbox.reserve().await {
            let mut late = self.late();
            let Some(event) = late.pop_front() else { return };
            // Under the lock: nobody comes between.
            room.send(event);
            if late.is_empty() {
                return;
            }
        }
        // That worker has ended.
        self.late().clear();
    }

    fn late(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // A panic elsewhere leaves it whole: each change is one call.
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of neighbours that say the same one is enough. So what is late grows with what the node decides of the
/// pod and what becomes of its containers alone, and of that there is nothing new while its worker stands.
fn push(late: &mut VecDeque<Event>, event: Event) {
    match (&event, late.back_mut()) {
        // The newest object wins.
        (Event::Desired(_), Some(last @ Event::Desired(_))) => *last = event,
        (Event::Changed, Some(Event::Changed)) => {}
        _ => late.push_back(event),
    }
}

/// Where to reach a worker.
#[derive(Clone, Debug)]
struct Inbox {
    events: Events,
    /// Has it list its attempts.
    look: Arc<Notify>,
}

/// Where to reach each worker, by its pod's uid. Locked for a look-up only. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Inboxes(Arc<Mutex<HashMap<String, Inbox>>>);

impl Inboxes {
    /// A worker begins: of the pod's, it is the one to be told.
    pub(super) fn insert(&self, uid: &str, events: &Events, look: &Arc<Notify>) {
        let inbox = Inbox { events: events.clone(), look: Arc::clone(look) };
        self.lock().insert(uid.to_owned(), inbox);
    }

    /// The worker that listens to `look` has ended; the pod may have another one by now.
    pub(super) fn remove(&self, uid: &str, look: &Arc<Notify>) {
        let mut all = self.lock();
        if all.get(uid).is_some_and(|inbox| Arc::ptr_eq(&inbox.look, look)) {
            all.remove(uid);
        }
    }

    /// Hands what happens to containers to their pods' workers, for as long as anything does.
    pub(super) async fn dispatch(self, mut happenings: Receiver<Happening>) {
        while let Some(Happening { pod_uid, what }) = happenings.recv().await {
            let Some(inbox) = self.lock().get(&pod_uid).cloned() else { continue };
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
            // One that has ended is done with its pod.
            let _ = inbox.events.tell(event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Inbox>> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many workers can be reached.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn desired(name: usize) -> Event {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_string());
        Event::Desired(Arc::new(pod))
    }

    fn text(event: &Event) -> String {
        if let Event::Desired(pod) = event {
            return pod.metadata.name.clone().expect("a name");
        }
        if let Event::Kill { grace } = event {
            return format!("kill {}", grace.as_secs());
        }
        assert!(matches!(event, Event::Changed), "{event:?}");
        "changed".into()
    }

    #[tokio::test]
    async fn what_finds_no_room_comes_later_and_in_order() {
        let (events, mut inbox) = Events::new();
        let mut expected = Vec::new();
        for n in 0..EVENTS {
            events.tell(desired(n)).expect("it lives");
            expected.push(n.to_string());
        }
        // A burst of news of the same kind is its last.
        for n in 100..200 {
            events.tell(desired(n)).expect("it lives");
        }
        for grace in [7, 3] {
            events.tell(Event::Kill { grace: Duration::from_secs(grace) }).expect("it lives");
            events.tell(Event::Changed).expect("it lives");
            events.tell(Event::Changed).expect("it lives");
            events.tell(desired(300)).expect("it lives");
        }
        expected.extend(
            ["199", "kill 7", "changed", "300", "kill 3", "changed", "300"].map(Into::into),
        );
        let mut heard = Vec::new();
        for _ in &expected {
            heard.push(text(&inbox.recv().await.expect("an event")));
        }
        assert_eq!(heard, expected);
        // There is room again, and nothing between.
        events.tell(desired(400)).expect("it lives");
        assert_eq!(inbox.try_recv().as_ref().map(text), Ok("400".to_owned()));
        drop(inbox);
        assert_eq!(events.tell(desired(500)), Err(Ended));
    }
}
