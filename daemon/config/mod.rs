//! The settings: one struct a section, every default here with its reason.
//!
//! [`load`] reads a file into [`Config`]; [`check`] says what types cannot; [`find`] fills what was left empty from the machine.
//! An empty text or a 0 means "found at start". Unknown keys are refused.

pub mod check;
pub mod find;
pub mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::home::Device;

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

/// The local socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Socket {
    /// Empty: the socket that systemd passes, else `$XDG_RUNTIME_DIR/moed.sock`, else one in a private folder.
    pub path: PathBuf,
    /// The group that owns the socket file; empty: the daemon's own.
    pub group: String,
    /// Permission bits of the socket file, octal.
    pub mode: String,
    /// The largest request body. A request over it is answered with 413.
    pub body_max: Size,
    /// How long a client may take to send its whole body.
    pub body_timeout: Span,
    /// How long an idle connection stays open.
    pub idle_timeout: Span,
    /// How long a stream may stand still because its reader does not read.
    pub stall_timeout: Span,
    /// Connections of one user at a time.
    pub connections_max: usize,
    /// Who may give orders (`/admin/*`) beside root and the daemon's own user: users, and groups as `@group`, each by name
    /// or number.
    pub admins: Vec<String>,
    /// Who may ask, written like `admins`; who may give orders may ask too. Empty: whoever may open the socket's file.
    pub peers: Vec<String>,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            group: String::new(),
            mode: "0660".to_owned(),
            body_max: Size(4 << 20),
            body_timeout: Span(Duration::from_secs(30)),
            idle_timeout: Span(Duration::from_mins(1)),
            stall_timeout: Span(Duration::from_secs(20)),
            connections_max: 64,
            admins: Vec::new(),
            peers: Vec::new(),
        }
    }
}

/// The broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// `mqtt://host[:port]`, `mqtts://host[:port]` (TLS) or `unix:/path`; empty: no MQTT.
    pub url: String,
    /// Other brokers, tried in this order when those before are away.
    pub fallback: Vec<String>,
    /// The user that the broker knows us by; empty: none, or the one of the certificate.
    pub user: String,
    /// The file with the password. Here and below a name without a slash is a systemd credential. A file that others than its
    /// owner may read is refused.
    pub password_file: String,
    /// The authorities, PEM, that may have signed the broker's certificate; empty: the system's.
    pub ca: String,
    /// Our own certificate, PEM, where the broker wants one.
    pub cert: String,
    /// Its key, PEM, secret like the password.
    pub key: String,
    /// `5` or `3.1.1`.
    pub version: String,
    /// Stable over restarts, since the broker keeps the session under it; empty: `moed-<node>`.
    pub client_id: String,
    /// What every topic starts with.
    pub root: String,
    /// The pool that this node is a member of; empty: none.
    pub pool: String,
    /// Unanswered requests at which a member leaves its pool; 0: `engine.slots` and half of `queue.waiting_max`. What is asked
    /// of a pool that all have left is lost, so a member leaves late.
    pub pool_leave: usize,
    /// Unanswered requests at which it comes back; 0: `engine.slots`.
    pub pool_rejoin: usize,
    /// The largest request payload. A request over it is answered with `too_large`.
    pub payload_max: Size,
    /// Topic filters where answers may go beside the asking client's own subtree (`<root>/c/<client>/`). Whoever may ask can
    /// make the node publish there.
    pub reply_topics: Vec<String>,
    /// Requests received and not yet acknowledged (our Receive Maximum), and answers sent and not yet acknowledged.
    pub window: u16,
    /// The MQTT keep-alive interval; a link that makes no progress for more than twice this is cut and opened again.
    pub keep_alive: Span,
    /// How long the broker keeps our session while we are away.
    pub session_expiry: Span,
    /// How often the gauges are published; "0s": never.
    pub metrics_every: Span,
    /// `homeassistant`: the node is a device there, with a sensor for each gauge of interest; empty: it is none.
    pub discovery: String,
    /// Who may give orders (drain, reload, loglevel) over the broker, as the level of their topics; empty: nobody.
    pub admins: Vec<String>,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: String::new(),
            fallback: Vec::new(),
            user: String::new(),
            password_file: String::new(),
            ca: String::new(),
            cert: String::new(),
            key: String::new(),
            version: "5".to_owned(),
            client_id: String::new(),
            root: "moed/v1".to_owned(),
            pool: String::new(),
            pool_leave: 0,
            pool_rejoin: 0,
            payload_max: Size(256 << 10),
            reply_topics: Vec::new(),
            window: 8,
            keep_alive: Span(Duration::from_secs(5)),
            session_expiry: Span(Duration::from_hours(24)),
            metrics_every: Span(Duration::from_secs(30)),
            discovery: String::new(),
            admins: Vec::new(),
        }
    }
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

/// The engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// `auto` takes the first provider that runs a real kernel; `cpu` or `cuda` is never replaced.
    pub provider: String,
    /// `auto` makes a copy of the model for this machine at the first start and uses it from then on; `never`.
    pub prepare: String,
    /// Jobs that run at the same time.
    pub slots: usize,
    /// The most tokens of prompt and answer together; 0: what the model was trained for.
    pub context_max: usize,
    /// Threads that compute; 0: one, or one for each core where that was measured to be faster or could not be measured.
    pub threads: usize,
    /// The most memory the key/value cache may take; 0: half of what is available at start. While a reload exchanges models it
    /// holds for the caches of both together.
    pub memory_max: Size,
    /// Prompt tokens read in one step; a running stream never waits longer than one such step. 0: measured at start.
    pub prefill_chunk: usize,
    /// The longest that a measured step may keep running streams waiting.
    pub stall_max: Span,
    /// Slots, beside `slots`, that only alarms may take, so that an alarm starts at once on a busy machine.
    pub alarm_slots: usize,
    /// The most memory that kept beginnings of prompts may take; 0: a quarter of `memory_max`, at most 256 MiB. Less than one
    /// block of 32 tokens keeps nothing.
    pub prefix_max: Size,
    /// Whether text that an answer copies from its prompt is guessed and checked in wider steps, where that was found to pay.
    pub guesses: bool,
    /// Whether callers of different identity share kept beginnings. They could learn by the time to the first token whether
    /// somebody else's prompt began like theirs.
    pub prefix_shared: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            provider: "auto".to_owned(),
            prepare: "auto".to_owned(),
            slots: 8,
            context_max: 0,
            threads: 0,
            memory_max: Size(0),
            prefill_chunk: 0,
            stall_max: Span(Duration::from_millis(250)),
            alarm_slots: 1,
            prefix_max: Size(0),
            guesses: true,
            prefix_shared: false,
        }
    }
}

/// The waiting room in front of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Jobs that wait; one more is refused with `queue_full`.
    pub waiting_max: usize,
    /// A background job that has waited this long counts as interactive.
    pub aging: Span,
    /// How long a drain waits for what runs.
    pub drain_timeout: Span,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting_max: 64, aging: Span(Duration::from_secs(10)), drain_timeout: Span(Duration::from_secs(30)) }
    }
}

/// What one caller may have: a user of the socket, a client of the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Requests a minute; one more is refused with `quota_exceeded`. A caller that was silent may make a minute's worth at once.
    /// 0: any number, as below.
    pub requests_per_minute: u64,
    /// Bytes of requests a minute.
    pub bytes_per_minute: Size,
    /// Jobs at a time, waiting and running.
    pub concurrent: usize,
    /// The most urgent that a request may be: `alarm`, `interactive` or `background`. One above is refused with `forbidden`.
    pub priority: String,
    /// Other bounds for one client of the broker, `[quota.client.NAME]`.
    pub client: BTreeMap<String, Share>,
    /// Other bounds for one user of the socket, `[quota.uid.NUMBER]`.
    pub uid: BTreeMap<String, Share>,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            requests_per_minute: 0,
            bytes_per_minute: Size(0),
            concurrent: 0,
            priority: "alarm".to_owned(),
            client: BTreeMap::new(),
            uid: BTreeMap::new(),
        }
    }
}

/// What is said of one caller; the rest is as for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Share {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_minute: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
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

/// What was accepted, computed and delivered over MQTT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Empty: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/moed`, else a private temporary folder.
    pub dir: PathBuf,
    /// How long an answer is kept for a client that asks again.
    pub keep: Span,
    /// The most bytes of the journal file; a request that would pass it is refused.
    pub size_max: Size,
    /// The most requests in it, answered ones included; one more is refused.
    pub rows_max: usize,
    /// Conversations that are remembered at a time (`session` in a request over MQTT); one more is refused.
    pub sessions_max: usize,
    /// Questions in one conversation; one more is refused.
    pub session_turns_max: u32,
    /// Bytes of one conversation; a question that would pass it is refused.
    pub session_bytes_max: Size,
    /// How long a conversation is remembered after its last answer.
    pub session_keep: Span,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            keep: Span(Duration::from_hours(24)),
            size_max: Size(256 << 20),
            rows_max: 65_536,
            sessions_max: 64,
            session_turns_max: 32,
            session_bytes_max: Size(64 << 10),
            session_keep: Span(Duration::from_hours(1)),
        }
    }
}

/// ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// The shared library; empty: beside the binary, then in `/usr/lib/moed`, then in `./.runtime`.
    pub onnxruntime: PathBuf,
}

/// Where the kernel shows the board. Other roots are for containers and recorded boards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Board {
    pub sys: PathBuf,
    pub proc: PathBuf,
    pub etc: PathBuf,
    pub var: PathBuf,
    /// How often temperatures, load and memory are read.
    pub period: Span,
    /// How often power is read while the engine works.
    pub power_period: Span,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            etc: "/etc".into(),
            var: "/var".into(),
            period: Span(Duration::from_millis(500)),
            // 20 readings a second: the shortest answers take about this long.
            power_period: Span(Duration::from_millis(50)),
        }
    }
}

/// What is done when the board is hot, draws too much, or is short of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Governor {
    /// `auto` or `off`.
    pub mode: String,
    /// Degrees Celsius at which a zone is throttled; 0: what each zone says of itself.
    pub heat_max: u16,
    /// So many degrees below that the first step is taken; the others at 3/4, 1/2 and 1/4 of it.
    pub heat_margin: u16,
    /// The most watts that the board may draw, over some seconds; 0: as many as it likes.
    pub power_max: f32,
    /// The memory that must stay available; 0: a twentieth of all, at least 128 MiB.
    pub memory_min: Size,
    /// How long it must have been better before a step is taken back.
    pub recover: Span,
}

impl Default for Governor {
    fn default() -> Self {
        Self {
            mode: "auto".to_owned(),
            heat_max: 0,
            heat_margin: 12,
            power_max: 0.0,
            memory_min: Size(0),
            recover: Span(Duration::from_secs(10)),
        }
    }
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

/// A number of bytes, written as `"256MiB"`, `"4KiB"` or `"0"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Size {
    /// The bytes as an index type; saturates on 32-bit machines.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (number, factor) = SIZE_UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
            .unwrap_or((text.as_str(), 1));
        number
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size; write it as `256MiB`, `4KiB` or `0`"))
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        SIZE_UNITS[..3]
            .iter()
            .find(|(_, factor)| size.0 != 0 && size.0.is_multiple_of(*factor))
            .map_or_else(|| size.0.to_string(), |(unit, factor)| format!("{}{unit}", size.0 / factor))
    }
}

/// A length of time, written as `"24h"`, `"30s"`, `"5m"` or `"250ms"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        SPAN_UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*factor))
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("`{text}` is not a length of time; write it as `24h`, `30s` or `250ms`"))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let millis = u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) = SPAN_UNITS
            .iter()
            .rev()
            .find(|(_, factor)| millis != 0 && millis.is_multiple_of(*factor))
            .unwrap_or(&SPAN_UNITS[1]);
        format!("{}{unit}", millis / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_and_write_the_same_text() {
        for text in ["256MiB", "4KiB", "0", "17", "1GiB"] {
            assert_eq!(String::from(Size::try_from(text.to_owned()).unwrap()), text);
        }
        for text in ["1d", "30s", "250ms", "5m", "0s"] {
            assert_eq!(String::from(Span::try_from(text.to_owned()).unwrap()), text);
        }
        assert_eq!(Span::try_from("24h".to_owned()).unwrap().0, Duration::from_hours(24));
        assert!(Size::try_from("12 furlongs".to_owned()).unwrap_err().contains("is not a size"));
        assert!(Span::try_from("soon".to_owned()).unwrap_err().contains("is not a length of time"));
        assert!(Size::try_from("99999999999GiB".to_owned()).is_err());
    }
}
