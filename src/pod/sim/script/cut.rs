//! What is taken out of a script, as a text that can be given back.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{
    super::dice::{Trouble, listed},
    Script,
};

listed! {
    /// What a container may have and do without.
    Trait { Policy, Rule, Startup, Liveness, Readiness, PostStart, PreStop }
}

listed! {
    /// What a pod may have and do without.
    PodTrait { Sandbox, Api, Active }
}

/// One thing of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sim) enum Thing {
    Edit(usize),
    Part(usize),
    Pod(PodTrait),
    Trait(usize, Trait),
}

/// One trouble that strikes: which, where, and the how manieth of its kind there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sim) struct Strike(
    pub(in crate::sim) Trouble,
    pub(in crate::sim) usize,
    pub(in crate::sim) u32,
);

/// What is taken out of a script: some of its things, all troubles but some, and how much of the
/// time before the troubles end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Cut {
    pub(in crate::sim) out: BTreeSet<Thing>,
    pub(in crate::sim) strikes: Option<BTreeSet<Strike>>,
    pub(in crate::sim) heal_at: Option<Duration>,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Edit(number) => write!(f, "edit.{number}"),
            Thing::Part(slot) => write!(f, "part.{slot}"),
            Thing::Pod(of) => write!(f, "pod.{of:?}"),
            Thing::Trait(slot, of) => write!(f, "{of:?}.{slot}"),
        }
    }
}

impl Thing {
    fn parse(text: &str) -> Option<Thing> {
        let (kind, of) = text.split_once('.')?;
        match kind {
            "edit" => of.parse().ok().map(Thing::Edit),
            "part" => of.parse().ok().map(Thing::Part),
            "pod" => PodTrait::parse(of).map(Thing::Pod),
            kind => Some(Thing::Trait(of.parse().ok()?, Trait::parse(kind)?)),
        }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Strike(trouble, slot, number) = self;
        write!(f, "{trouble:?}.{slot}.{number}")
    }
}

impl Strike {
    fn parse(text: &str) -> Option<Strike> {
        let mut words = text.split('.');
        let trouble = Trouble::parse(words.next()?)?;
        Some(Strike(trouble, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    }
}

impl fmt::Display for Cut {
    /// `out=THING,… strikes=STRIKE,… heal=MILLISECONDS`, each only where there is any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if !self.out.is_empty() {
            let out: Vec<String> = self.out.iter().map(ToString::to_string).collect();
            words.push(format!("out={}", out.join(",")));
        }
        if let Some(strikes) = &self.strikes {
            let strikes: Vec<String> = strikes.iter().map(ToString::to_string).collect();
            words.push(format!("strikes={}", strikes.join(",")));
        }
        words.extend(self.heal_at.map(|at| format!("heal={}", at.as_millis())));
        f.write_str(&words.join(" "))
    }
}

impl Cut {
    /// The other way.
    pub(in crate::sim) fn parse(text: &str) -> Option<Cut> {
        let mut cut = Cut::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=')?;
            let values = || value.split(',').filter(|value| !value.is_empty());
            match key {
                "out" => cut.out = values().map(Thing::parse).collect::<Option<_>>()?,
                "strikes" => {
                    cut.strikes = Some(values().map(Strike::parse).collect::<Option<_>>()?)
                }
                "heal" => cut.heal_at = Some(Duration::from_millis(value.parse().ok()?)),
                _ => return None,
            }
        }
        Some(cut)
    }

    /// The script without what is taken out.
    pub(in crate::sim) fn of(&self, mut script: Script) -> Script {
        let is_out = |thing: Thing| self.out.contains(&thing);
        script.parts.retain(|part| !is_out(Thing::Part(part.slot)));
        for part in &mut script.parts {
            for of in Trait::ALL.iter().filter(|of| is_out(Thing::Trait(part.slot, **of))) {
                match of {
                    Trait::Policy => part.policy = None,
                    Trait::Rule => part.rule = None,
                    Trait::Startup => part.probes[0] = None,
                    Trait::Liveness => part.probes[1] = None,
                    Trait::Readiness => part.probes[2] = None,
                    Trait::PostStart => part.post_start = None,
                    Trait::PreStop => part.pre_stop = None,
                }
            }
            part.rule = part.rule.filter(|_| part.policy.is_some());
        }
        script.has_sandbox &= !is_out(Thing::Pod(PodTrait::Sandbox));
        script.has_api &= !is_out(Thing::Pod(PodTrait::Api));
        script.active = script.active.filter(|_| !is_out(Thing::Pod(PodTrait::Active)));
        let is_there = |slot: usize| script.parts.iter().any(|part| part.slot == slot);
        script.edits.retain(|planned| {
            !is_out(Thing::Edit(planned.number)) && planned.edit.slot().is_none_or(is_there)
        });
        script.strikes.clone_from(&self.strikes);
        script.heal_at = self.heal_at.unwrap_or(script.heal_at);
        script
    }
}

/// All that may be taken out of a script, the largest first.
pub(in crate::sim) fn things(script: &Script) -> Vec<Thing> {
    let edits = script.edits.iter().map(|planned| Thing::Edit(planned.number));
    let parts = script.parts.iter().map(|part| Thing::Part(part.slot));
    let pod = PodTrait::ALL.iter().filter(|of| match of {
        PodTrait::Sandbox => script.has_sandbox,
        PodTrait::Api => script.has_api,
        PodTrait::Active => script.active.is_some(),
    });
    let traits = script.parts.iter().flat_map(|part| {
        let has = |of: Trait| match of {
            Trait::Policy => part.policy.is_some(),
            Trait::Rule => part.rule.is_some(),
            Trait::Startup => part.probes[0].is_some(),
            Trait::Liveness => part.probes[1].is_some(),
            Trait::Readiness => part.probes[2].is_some(),
            Trait::PostStart => part.post_start.is_some(),
            Trait::PreStop => part.pre_stop.is_some(),
        };
        Trait::ALL.iter().copied().filter(move |of| has(*of)).map(|of| Thing::Trait(part.slot, of))
    });
    edits.chain(parts).chain(pod.copied().map(Thing::Pod)).chain(traits).collect()
}

#[test]
fn a_cut_is_given_back_by_its_text() {
    let text = "out=edit.3,part.1,pod.Api,Liveness.4 strikes=EventLost.0.2,Late.4.17 heal=1500";
    assert_eq!(Cut::parse(text).unwrap().to_string(), text);
    assert_eq!(Cut::parse("strikes=").unwrap().strikes, Some(BTreeSet::new()));
    assert_eq!(Cut::parse("").unwrap(), Cut::default());
    assert_eq!(Cut::parse("out=nothing"), None);
}
