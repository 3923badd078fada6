//! The devices that moed knows, and what it adds to a request that brings no tools of its own.
//!
//! A model whose manifest says `own_tools` answers "is the garage shut?" from a client that knows nothing of tools: [`Home`]
//! puts the devices and moed's own tools into the conversation ([`tools`], [`shortlist`]), and serves the calls that ask for
//! nothing but knowledge ([`serve`]): a state, or arithmetic over past values ([`series`]), which no small model can do. Calls that
//! would change something go to whoever asked; moed moves nothing by itself.
//!
//! Devices come from the config and from what Home Assistant and zigbee2mqtt publish ([`discovery`]). Pure but for the clock;
//! bounded in devices, names and samples.

mod device;
pub mod discovery;
mod series;
mod serve;
mod shortlist;
mod tools;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

pub use device::{Device, Kind, Risk, TOPIC_BYTES_MAX};
pub use serve::Served;

use crate::job::{Format, Job, Message, Role, Tool};
use series::Series;

/// Devices that are known at most; a list of 150 with their tools fills 4,096 tokens, and only some are shown.
const DEVICES_MAX: usize = 1000;

/// What is known of a home or a plant. Cheap to clone.
#[derive(Clone, Default)]
pub struct Home {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    devices: Arc<Vec<Device>>,
    /// By the device's name.
    states: HashMap<String, State>,
}

/// What a device last said of itself.
#[derive(Default)]
struct State {
    text: String,
    series: Series,
}

/// What was added to a job.
pub struct Furnished {
    /// The tools as the grammar and the judge of calls see them: names of devices and areas are choices.
    pub narrowed: Vec<Tool>,
}

impl Home {
    /// A home of these devices; those without a name, with the name of another, or too many are left out, and counted.
    pub fn new(devices: Vec<Device>) -> (Self, usize) {
        let home = Self::default();
        let left_out = home.replace(devices);
        (home, left_out)
    }

    /// From now on these are the devices; states of those that stay are kept.
    pub fn replace(&self, devices: Vec<Device>) -> usize {
        let count = devices.len();
        let devices = device::settle(devices, DEVICES_MAX);
        let left_out = count - devices.len();
        let mut known = self.known();
        known.states.retain(|name, _| devices.iter().any(|device| device.name == *name));
        known.devices = Arc::new(devices);
        left_out
    }

    /// The devices, in their order.
    pub fn devices(&self) -> Arc<Vec<Device>> {
        Arc::clone(&self.known().devices)
    }

    /// A device said something of itself; what nobody knows is not kept.
    pub fn observe(&self, name: &str, text: &str, at: Timestamp) {
        let mut known = self.known();
        if !known.devices.iter().any(|device| device.name == name) {
            return;
        }
        let state = known.states.entry(name.to_owned()).or_default();
        state.text = device::clean(text);
        state.series.push(&state.text, at);
    }

    /// Adds tools and devices to a job that said nothing of tools, if there is something to add.
    pub fn furnish(&self, job: &mut Job) -> Option<Furnished> {
        let devices = self.devices();
        if !job.tools_unsaid || !job.tools.is_empty() || job.format != Format::Text || devices.is_empty() {
            return None;
        }
        let question = job.messages.iter().rev().find(|message| message.role == Role::User)?.content.clone()?;
        let shown = shortlist::pick(&devices, &question);
        let (tools, narrowed) = tools::offer(&shown);
        let list = tools::list(&shown);
        match job.messages.first_mut().filter(|message| message.role == Role::System) {
            Some(system) => {
                let text = system.content.get_or_insert_default();
                text.push_str("\n\n");
                text.push_str(&list);
            }
            None => job.messages.insert(0, Message::text(Role::System, format!("You are moed.\n{list}"))),
        }
        job.tools = tools;
        Some(Furnished { narrowed })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic between two lines of this room leaves whole values behind.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
