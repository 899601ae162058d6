//! Which of many events are written, and how: client-go's correlation (`tools/record`), pure.
//!
//! Three steps, each with a bounded memory of what was seen: events that differ by message only
//! become one once there are ten within ten minutes; the same event again counts up the one that
//! is there; and an object gets 25 at once, then one each five minutes.
//!
//! Where upstream remembers texts, this remembers their hashes: 4096 entries take a few hundred
//! kilobytes at most, and two texts of one hash are not to be expected in a node's life.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::cluster::call::whole_seconds;

/// Entries that each step remembers (`maxLruCacheEntries`).
const REMEMBERED: usize = 4096;
/// Events that differ by message only, from which on they are one (`defaultAggregateMaxEvents`).
const SIMILAR: usize = 10;
/// How long after the last of them the next begins anew (`defaultAggregateIntervalInSeconds`).
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Events about an object at once (`defaultSpamBurst`).
const SPAM_BURST: f64 = 25.0;
/// Events about an object a second thereafter (`defaultSpamQPS`).
const SPAM_RATE: f64 = 1.0 / 300.0;
/// What stands before the message of many similar events.
const COMBINED: &str = "(combined from similar events): ";

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Correlated {
    /// The event, counted.
    pub(super) event: Event,
    /// The change to the event of that name, where there was one before.
    pub(super) patch: Option<Value>,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Correlator {
    similar: Lru<Similar>,
    written: Lru<Written>,
    spam: Lru<Bucket>,
}

/// Events of one kind about one object.
#[derive(Debug, Default)]
struct Similar {
    /// The hashes of their messages.
    messages: BTreeSet<u64>,
    last: Option<Instant>,
}

/// An event that was written before.
#[derive(Debug)]
struct Written {
    count: i32,
    first: Option<Time>,
    name: Option<String>,
}

impl Correlator {
    pub(super) fn new() -> Self {
        Self { similar: Lru::new(), written: Lru::new(), spam: Lru::new() }
    }

    /// Takes in an event; `None` where its object has had too many. `at` is `wall` on the steady
    /// clock.
    pub(super) fn correlate(
        &mut self,
        event: Event,
        wall: Timestamp,
        at: Instant,
    ) -> Option<Correlated> {
        let (event, key) = self.aggregate(event, wall, at);
        let correlated = self.observe(event, key);
        // Observed before it is refused, as upstream: the next one that is written counts it.
        let bucket = self
            .spam
            .entry(object_key(&correlated.event), || Bucket::new(SPAM_BURST, SPAM_RATE, at));
        bucket.take(at).then_some(correlated)
    }

    /// Remembers the event as the API server has it now.
    pub(super) fn written(&mut self, event: &Event) {
        self.remember(full_key(event), event);
    }

    /// One of many similar events becomes all of them; with the key of what it becomes.
    fn aggregate(&mut self, event: Event, wall: Timestamp, at: Instant) -> (Event, u64) {
        let full = full_key(&event);
        let key = similar_key(&event);
        let similar = self.similar.entry(key, Similar::default);
        if similar.last.is_none_or(|last| at.duration_since(last) > SIMILAR_WITHIN) {
            similar.messages.clear();
        }
        similar.messages.insert(hash(&event.message));
        similar.last = Some(at);
        if similar.messages.len() < SIMILAR {
            return (event, full);
        }
        // Not one more than that is remembered; upstream forgets any.
        similar.messages.pop_first();
        let about = &event.involved_object;
        let now = Some(whole_seconds(wall));
        let combined = Event {
            metadata: ObjectMeta {
                name: Some(event_name(about.name.as_deref().unwrap_or_default(), wall)),
                namespace: event.metadata.namespace,
                ..ObjectMeta::default()
            },
            count: Some(1),
            first_timestamp: now.clone(),
            last_timestamp: now,
            message: Some(format!("{COMBINED}{}", event.message.unwrap_or_default())),
            involved_object: event.involved_object,
            type_: event.type_,
            reason: event.reason,
            source: event.source,
            ..Event::default()
        };
        (combined, key)
    }

    /// Counts an event that was seen before.
    fn observe(&mut self, mut event: Event, key: u64) -> Correlated {
        let mut patch = None;
        if let Some(before) = self.written.get(key).filter(|before| before.count > 0) {
            let count = before.count.saturating_add(1);
            event.metadata.name.clone_from(&before.name);
            event.first_timestamp.clone_from(&before.first);
            event.count = Some(count);
            patch = Some(json!({
                "count": count,
                "lastTimestamp": event.last_timestamp,
                "message": event.message,
            }));
        }
        self.remember(key, &event);
        Correlated { event, patch }
    }

    fn remember(&mut self, key: u64, event: &Event) {
        let written = Written {
            count: event.count.unwrap_or(0),
            first: event.first_timestamp.clone(),
            name: event.metadata.name.clone(),
        };
        self.written.put(key, written);
    }
}

/// The name of an event about the object `name` (`GenerateEventName`).
pub(super) fn event_name(name: &str, wall: Timestamp) -> String {
    let text = format!("{name}.{:x}", wall.as_nanosecond());
    // Names of objects are names of events but for their length, and for the colons of some.
    let is_name = text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if is_name { text } else { uuid::Uuid::new_v4().to_string() }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What all keys have in common: who says it of what.
fn base(event: &Event) -> impl Hash + use<'_> {
    let EventSource { component, host } = event.source.as_ref().unwrap_or(&NO_SOURCE);
    let ObjectReference { kind, namespace, name, uid, api_version, .. } = &event.involved_object;
    (component, host, kind, namespace, name, uid, api_version, &event.type_)
}

/// An event that has none has this source.
static NO_SOURCE: EventSource = EventSource { component: None, host: None };

/// `getEventKey`
fn full_key(event: &Event) -> u64 {
    hash(&(base(event), &event.involved_object.field_path, &event.reason, &event.message))
}

/// `EventAggregatorByReasonFunc`
fn similar_key(event: &Event) -> u64 {
    let by = (&event.reporting_component, &event.reporting_instance);
    hash(&("similar", base(event), &event.reason, by))
}

/// `getSpamKey`
fn object_key(event: &Event) -> u64 {
    hash(&base(event))
}

/// A bucket of tokens that fills by itself.
#[derive(Debug)]
pub(super) struct Bucket {
    burst: f64,
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one: `burst` at once, `rate` a second thereafter.
    pub(super) fn new(burst: f64, rate: f64, at: Instant) -> Self {
        Self { burst, rate, tokens: burst, at }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, at: Instant) -> bool {
        self.fill(at);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// How long until there is a token.
    pub(super) fn wait(&mut self, at: Instant) -> Duration {
        self.fill(at);
        let missing = (1.0 - self.tokens).max(0.0);
        Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::MAX)
    }

    fn fill(&mut self, at: Instant) {
        let passed = at.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        self.at = at;
    }
}

/// A map of [`REMEMBERED`] entries at most; the one that was used least recently makes room.
#[derive(Debug)]
struct Lru<V> {
    entries: HashMap<u64, (u64, V)>,
    /// From the time of its last use to a key.
    order: BTreeMap<u64, u64>,
    time: u64,
}

impl<V> Lru<V> {
    fn new() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), time: 0 }
    }

    fn get(&mut self, key: u64) -> Option<&V> {
        self.touch(key);
        self.entries.get(&key).map(|(_, value)| value)
    }

    fn put(&mut self, key: u64, value: V) {
        self.touch(key);
        if !self.entries.contains_key(&key) {
            self.make_room(key);
        }
        self.entries.insert(key, (self.time, value));
    }

    /// The entry of a key, made if there is none.
    fn entry(&mut self, key: u64, make: impl FnOnce() -> V) -> &mut V {
        self.touch(key);
        if !self.entries.contains_key(&key) {
            self.make_room(key);
        }
        &mut self.entries.entry(key).or_insert_with(|| (self.time, make())).1
    }

    /// An entry, if there is one, was used just now.
    fn touch(&mut self, key: u64) {
        if let Some((used, _)) = self.entries.get_mut(&key) {
            self.time += 1;
            self.order.remove(used);
            *used = self.time;
            self.order.insert(self.time, key);
        }
    }

    /// Makes room for one that is used now.
    fn make_room(&mut self, key: u64) {
        if self.entries.len() >= REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.time += 1;
        self.order.insert(self.time, key);
    }
}

#[cfg(test)]
#[path = "correlate_test.rs"]
mod tests;
