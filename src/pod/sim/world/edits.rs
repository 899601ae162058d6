//! What people and machines do to the pod from outside.

use std::time::Duration;

use super::{What, World, failure};
use crate::{
    Event,
    sim::{
        check::{Judged, seen::Happening},
        dice::Draw,
        script::{Edit, POD, pod},
    },
};

impl World {
    pub(super) fn edit(&mut self, edit: Edit) -> Judged {
        match edit {
            Edit::Delete(grace) => {
                self.pod = pod::deleted(&self.pod, grace, self.wall());
                self.desire();
            }
            Edit::Kill(grace) => {
                if self.state.is_some() {
                    self.tell(Event::Kill { grace: Duration::from_secs(grace) })?;
                }
            }
            Edit::Evict => self.tell(Event::Evict(failure()))?,
            Edit::Replace(slot) => {
                if let Some(part) = self.script.at_slot(slot) {
                    let container = self.script.parts[part].name.to_owned();
                    self.tell(Event::Replace { container })?;
                }
            }
            Edit::Image(slot) => {
                if let Some(part) = self.script.at_slot(slot) {
                    self.images += 1;
                    let name = self.script.parts[part].name;
                    self.pod = pod::with_image(&self.pod, name, self.images);
                    self.desire();
                }
            }
            Edit::Change => self.tell(Event::Changed)?,
            Edit::Jump(secs) => {
                self.wall_offset += secs;
                self.jumps += 1;
                self.check.seen.saw(Happening::ClockJump);
            }
            Edit::AgentDies => self.agent_dies(),
            Edit::SandboxDies => self.sandbox_dies()?,
            Edit::Reboot => self.reboot()?,
            Edit::Wipe => {
                self.reboot()?;
                self.runtime.wipe();
                self.check.forgotten();
            }
            Edit::Add(slot) => {
                if let Some(part) = self.script.at_slot(slot) {
                    self.pod = pod::with_ephemeral(&self.pod, self.script.parts[part].name);
                    self.desire();
                }
            }
            Edit::Deadline(secs) => {
                self.pod = pod::with_deadline(&self.pod, secs);
                self.desire();
            }
        }
        Ok(())
    }

    /// The agent will see the object as it is then.
    fn desire(&mut self) {
        let lag = self.draw(Draw::Lag, POD).millis(2000);
        self.plan_for_agent(lag, What::Desire);
    }
}
