//! The run of one lifetime: a queue of what is due, and the end it must come to.

/// What a step is judged by; a macro, since the checker beside it is changed meanwhile.
macro_rules! at {
    ($world:expr) => {
        $crate::sim::check::At {
            script: &$world.script,
            runtime: &$world.runtime,
            now: $world.now,
            wall: $world.wall(),
            jumps: $world.jumps,
            life: $world.life,
        }
    };
}

mod agent;
mod edits;
mod guests;
mod nature;
mod rest;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{
    check::{Broken, Check, Judged, seen::Seen},
    dice::{Dice, Draw, Rng, Trouble},
    runtime::{Process, Runtime},
    sabotage::Sabotage,
    script::{Edit, Kind, Script, cut::Strike, pod},
};
use crate::{Action, Event, Failure, HookKind, State};

/// More steps than any lifetime needs: a loop that makes no headway is found.
const MOST_STEPS: u32 = 20_000;
/// The wall clock at the start, in seconds.
const EPOCH: i64 = 1_800_000_000;

/// Something that happens.
#[derive(Clone, Debug)]
enum What {
    /// The machine is told.
    Tell(Event),
    /// The machine is told of the object as it is now: a watch gives no older one.
    Desire,
    /// The runtime tells all it knows; the next relist follows.
    Relist,
    /// The agent does what the machine gave; what a container was to be made from then.
    Do(Action, Option<u32>),
    Launch(u64),
    Vanish(u64),
    /// A process ends by itself.
    Ends(u64, i32),
    Exit(u64, i32),
    Sigkill(u64),
    /// A hook of a process comes back, and whether it went well.
    HookEnds(u64, HookKind, bool),
    AgentStarts,
    Edit(Edit),
}

#[derive(Debug)]
struct Item {
    /// It belongs to this life of the agent and dies with it.
    life: Option<u32>,
    what: What,
}

/// The world of one lifetime.
pub(super) struct World {
    script: Script,
    dice: Dice,
    sabotage: Sabotage,
    runtime: Runtime,
    check: Check,
    state: Option<State>,
    /// The pod's object, as the API server has it.
    pod: Arc<Pod>,
    /// The status that was last reported, where there is an API server.
    reported: Option<PodStatus>,
    life: u32,
    /// The sandbox that this life of the agent starts containers in.
    ready: u32,
    /// The hooks that the present agent runs, by their process.
    hooks: BTreeMap<u64, (usize, HookKind)>,
    now: Duration,
    wall_offset: i64,
    jumps: u32,
    is_healed: bool,
    /// By the time when it is due, then by the order in which it came.
    queue: BTreeMap<(Duration, u64), Item>,
    order: u64,
    images: u32,
    log: Option<Vec<String>>,
    struck: Option<BTreeSet<Strike>>,
}

impl World {
    pub(super) fn new(script: Script, sabotage: Sabotage) -> World {
        World {
            dice: Dice::new(script.seed),
            check: Check::new(&script),
            pod: pod::first(&script),
            script,
            sabotage,
            runtime: Runtime::default(),
            state: None,
            reported: None,
            life: 0,
            ready: 0,
            hooks: BTreeMap::new(),
            now: Duration::ZERO,
            wall_offset: 0,
            jumps: 0,
            is_healed: false,
            queue: BTreeMap::new(),
            order: 0,
            images: 0,
            log: None,
            struck: None,
        }
    }

    /// Has it write down what happens, and which troubles strike.
    pub(super) fn with_log(mut self) -> World {
        self.log = Some(Vec::new());
        self.struck = Some(BTreeSet::new());
        self
    }

    /// Has it write down which troubles strike.
    pub(super) fn with_strikes(mut self) -> World {
        self.struck = Some(BTreeSet::new());
        self
    }

    pub(super) fn log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    pub(super) fn struck(&mut self) -> BTreeSet<Strike> {
        self.struck.take().unwrap_or_default()
    }

    /// The whole lifetime; what was broken, if anything was.
    pub(super) fn live(&mut self) -> Result<Seen, Broken> {
        self.note(|world| format!("{:?}", world.script));
        // Edits are troubles.
        let heal_at = self.script.heal_at;
        for planned in self.script.edits.iter().filter(|planned| planned.at < heal_at) {
            self.order += 1;
            let item = Item { life: None, what: What::Edit(planned.edit) };
            self.queue.insert((planned.at, self.order), item);
        }
        self.agent_starts()?;
        self.run_until(self.script.heal_at, |_| false)?;
        self.heal()?;
        self.come_to_rest()?;
        self.end()?;
        Ok(self.check.seen)
    }

    fn heal(&mut self) -> Judged {
        self.note(|_| "the troubles end".to_owned());
        self.is_healed = true;
        // What is always to run runs on from here.
        let (runtime, script) = (&self.runtime, &self.script);
        self.queue.retain(|_, item| match item.what {
            What::Ends(id, code) => runtime.get(id).is_none_or(|process| {
                let kind = script.parts[process.part].kind;
                kind == Kind::Init || !script.restarts(process.part, code)
            }),
            What::Tell(_)
            | What::Desire
            | What::Relist
            | What::Do(..)
            | What::Launch(_)
            | What::Exit(..)
            | What::Vanish(_)
            | What::Sigkill(_)
            | What::HookEnds(..)
            | What::AgentStarts
            | What::Edit(_) => true,
        });
        let hooks: Vec<(u64, HookKind)> = self.hooks.iter().map(|(id, (_, k))| (*id, *k)).collect();
        for (id, hook) in hooks {
            self.plan_for_agent(Duration::ZERO, What::HookEnds(id, hook, true));
        }
        if self.state.is_none() { self.agent_starts() } else { Ok(()) }
    }

    /// Runs what is due until a time or until it is enough.
    fn run_until(&mut self, end: Duration, enough: fn(&World) -> bool) -> Judged {
        while !enough(self) {
            if self.check.seen.steps() > MOST_STEPS {
                return Err(Broken { rule: "no end of steps", how: String::new() });
            }
            let due = self.queue.first_key_value().map(|((due, _), _)| *due);
            let timer = self.state.as_ref().and_then(State::wake_at);
            let next = [due, timer].into_iter().flatten().min().unwrap_or(end);
            if next >= end {
                self.now = end;
                return Ok(());
            }
            self.now = self.now.max(next);
            if due == Some(next) {
                let Some((_, item)) = self.queue.pop_first() else { continue };
                if item.life.is_none_or(|of| of == self.life) {
                    self.happens(item.what)?;
                }
            } else {
                self.tell(Event::Timer)?;
            }
        }
        Ok(())
    }

    fn happens(&mut self, what: What) -> Judged {
        self.note(|_| format!("{what:?}"));
        match what {
            What::Tell(event) => self.tell(event)?,
            What::Desire => self.tell(Event::Desired(self.pod.clone()))?,
            What::Relist => self.relist()?,
            What::Do(action, definition) => self.act(action, definition),
            What::Launch(id) => self.launch(id)?,
            What::Vanish(id) => self.vanish(id)?,
            What::Ends(id, code) | What::Exit(id, code) => self.exit(id, code),
            What::Sigkill(id) => self.sigkill(id)?,
            What::HookEnds(id, hook, well) => self.hook_ends(id, hook, well),
            What::AgentStarts => self.agent_starts()?,
            What::Edit(edit) => self.edit(edit)?,
        }
        Ok(())
    }

    // --- chance

    fn slot(&self, part: usize) -> usize {
        self.script.parts[part].slot
    }

    fn draw(&mut self, draw: Draw, slot: usize) -> Rng {
        self.dice.draw(draw, slot)
    }

    /// Whether a trouble strikes now.
    fn strikes(&mut self, trouble: Trouble, slot: usize) -> bool {
        let (number, mut rng) = self.dice.trouble(trouble, slot);
        if self.is_healed {
            return false;
        }
        let strike = Strike(trouble, slot, number);
        let strikes = match &self.script.strikes {
            Some(listed) => listed.contains(&strike),
            None => rng.percent(self.script.chances[trouble as usize]),
        };
        if strikes && let Some(struck) = &mut self.struck {
            struck.insert(strike);
        }
        strikes
    }

    /// A short delay, and now and then a long one.
    fn delay(&mut self, slot: usize, millis: u64) -> Duration {
        if self.strikes(Trouble::Late, slot) {
            self.draw(Draw::Long, slot).millis(40_000)
        } else {
            self.draw(Draw::Delay, slot).millis(millis)
        }
    }

    // --- time

    fn wall(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.now).unwrap_or_default();
        Timestamp::from_second(EPOCH + self.wall_offset).unwrap() + elapsed
    }

    /// Something that happens whatever becomes of the agent.
    fn plan(&mut self, delay: Duration, what: What) {
        self.push(delay, None, what);
    }

    /// Something that this life of the agent does or hears.
    fn plan_for_agent(&mut self, delay: Duration, what: What) {
        self.push(delay, Some(self.life), what);
    }

    fn push(&mut self, delay: Duration, life: Option<u32>, what: What) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), Item { life, what });
    }

    fn note(&mut self, text: impl FnOnce(&World) -> String) {
        if self.log.is_some() {
            let line = format!("{:>10.3} {}", self.now.as_secs_f64(), text(self));
            self.log.iter_mut().for_each(|log| log.push(line.clone()));
        }
    }
}

fn failure() -> Failure {
    Failure { reason: "ErrImagePull".to_owned(), message: String::new() }
}
