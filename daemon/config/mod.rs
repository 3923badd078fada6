//! The settings: one struct a section, the larger ones in files of their own, every default with its reason.
//!
//! [`load`] reads a file into [`Config`]; [`check`] says what types cannot; [`find`] fills what was left empty from the machine.
//! An empty text or a 0 means "found at start". Unknown keys are refused.

mod board;
pub mod check;
mod engine;
pub mod find;
mod governor;
mod journal;
pub mod load;
mod mqtt;
mod queue;
mod quota;
mod socket;
mod units;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::home::Device;

pub use board::Board;
pub use engine::Engine;
pub use governor::Governor;
pub use journal::Journal;
pub use mqtt::Mqtt;
pub use queue::Queue;
pub use quota::{Quota, Share};
pub use socket::Socket;
pub use units::{Size, Span};

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    pub socket: Socket,
    pub mqtt: Mqtt,
    pub model: Model,
    pub engine: Engine,
    pub queue: Queue,
    pub quota: Quota,
    pub home: Home,
    pub journal: Journal,
    pub runtime: Runtime,
    pub board: Board,
    pub governor: Governor,
    pub log: Log,
}

impl Config {
    /// Unanswered requests at which a member leaves its pool, and at which it comes back.
    pub fn pool_marks(&self) -> (usize, usize) {
        let or = |setting: usize, found: usize| if setting == 0 { found } else { setting };
        let slots = self.engine.slots;
        let leave = slots.saturating_add(self.queue.waiting_max.div_ceil(2));
        (or(self.mqtt.pool_leave, leave), or(self.mqtt.pool_rejoin, slots))
    }
}

/// Who this daemon is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// `[A-Za-z0-9_.-]{1,64}`; empty: the host's name.
    pub name: String,
}

/// The model folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Empty: `models/default` beside the binary, then `/usr/share/moed/models/default`, then `./models/default`. A folder in it
    /// that is named after the provider in use (`cpu`, `cuda`) is taken instead, where it is a whole model folder.
    pub dir: PathBuf,
    /// Where copies that were made ready for this machine are kept; empty: `$CACHE_DIRECTORY`, else `$XDG_CACHE_HOME/moed`,
    /// else `$STATE_DIRECTORY/prepared`, else `$HOME/.cache/moed`, else in a private temporary folder.
    pub prepared: PathBuf,
}

/// The devices that moed knows. A model whose manifest says `own_tools` gets them, and moed's own tools, with a request that
/// says nothing of tools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Home {
    /// The prefix under which devices are announced to Home Assistant, `homeassistant` as a rule; empty: not read.
    pub homeassistant: String,
    /// zigbee2mqtt's base topic, `zigbee2mqtt` as a rule; empty: not read.
    pub zigbee2mqtt: String,
    /// One table each: `name`, `kind`, `area`, `floor`, `aliases`, `unit`, `risky`, `topic`, `field`.
    pub device: Vec<Device>,
}

/// ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// The shared library; empty: beside the binary, then in `/usr/lib/moed`, then in `./.runtime`.
    pub onnxruntime: PathBuf,
}

/// What is written to the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `auto` (text; as a service without time and colours, which the journal adds itself), `text` or `json`.
    pub format: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "auto".to_owned() }
    }
}
