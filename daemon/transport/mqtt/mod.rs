//! The node on a broker: requests in, answers out, over MQTT 5 or 3.1.1. [`serve`] is called by `app`.
//!
//! [`link`] keeps the connection, [`pipe`] its books, [`mod@line`] moves its bytes, [`codec`] knows the packets (the only
//! home of `rumqttc`), [`dial`] opens the way with what [`access`] holds.
//! [`desk`] takes messages in: [`topics`] says whose they are, [`wire`] what they ask, the journal whether they are new;
//! [`request`], [`verbs`] and [`settle`] act on that, each message as soon as it is known what it comes to ([`intake`]), [`memory`] knows conversations, and [`backlog`] on what an earlier process left.
//! [`listen`] hears what devices there are and what they say, on a connection of its own.
//! [`card`] says who the node is, [`presence`] shows gauges and events, [`ears`] hears orders, [`herald`] makes events.
//! [`answer`] follows one job to its end: [`stream`] makes deltas, [`reply`] payloads.
//!
//! An accepted request is on disk before its PUBACK and gets exactly one stored answer, whatever dies in between.
//! MQTT itself promises less: brokers acknowledge what they have not written and deliver twice. So every answer stays in
//! the journal until its requester acknowledges it or `journal.keep` has passed, and copies say `repeat:true`.
//! Only QoS 1, both ways; the broker's session is a convenience, never the only place where something is kept.

pub mod access;
mod address;
mod answer;
pub mod ask;
mod backlog;
mod card;
mod codec;
mod desk;
mod dial;
mod ears;
mod herald;
mod intake;
mod line;
mod link;
pub mod listen;
mod memory;
mod patience;
mod pipe;
mod pool;
mod presence;
mod reply;
mod request;
mod same;
mod settle;
mod stream;
mod tombs;
pub mod topics;
mod verbs;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rand_core::{OsRng, TryRngCore};
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::config;
use crate::control::Control;
use crate::fault::Fault;
use crate::journal::Journal;
use crate::pulse::{Life, Part};
use crate::queue::Queue;
use crate::vitals::Vitals;
use access::Access;
use address::Address;
use card::Card;
pub use card::Served;
use desk::{Desk, Means};
use ears::{Aide, Ears};
use herald::Herald;
use line::{Terms, Version};
use link::Orders;
use memory::Memory;
use pool::Pool;
pub use presence::News;
use presence::{Device, Presence};
use reply::{Parcel, Voice};
use topics::Topics;

/// The announced Maximum Packet Size is this many payload limits, and at least [`PACKET_MIN`]: what is over the limit has
/// to arrive, or it could not be answered with `too_large`. What is over this, the broker drops without a word.
const PACKETS_PER_PAYLOAD: u64 = 4;
const PACKET_MIN: u64 = 1 << 20;

/// What the room works with.
pub struct Room {
    pub settings: config::Mqtt,
    /// The node's name, found.
    pub node: String,
    /// How long and how much is kept.
    pub retention: config::Journal,
    /// What is served: a reload may change it while the room stays.
    pub served: watch::Receiver<Served>,
    pub journal: Journal,
    pub queue: Queue,
    pub vitals: Arc<Vitals>,
    /// Where administrators' orders go.
    pub control: Control,
    /// What happens to the daemon, to be told on the `event` topic.
    pub news: mpsc::Receiver<News>,
}

/// Whether these settings can be served; for `moed check`.
pub fn check(settings: &config::Mqtt) -> Result<(), Fault> {
    terms(settings, "check", "").map(|_| ())
}

/// Serves until `drain` holds a time: from then on new requests are answered `unavailable`, and what runs has until then
/// to finish. What does not finish stays in the journal for the next start. Ends with `offline` and a goodbye.
pub async fn serve(room: Room, drain: watch::Receiver<Option<Instant>>) -> Result<(), Fault> {
    let Room { settings, node, retention, served, journal, queue, vitals, control, news } = room;
    let topics = Topics::new(&settings.root, &node).in_pool(&settings.pool).answering(&settings.reply_topics);
    let terms = terms(&settings, &node, &topics.available())?;
    let card = Card::new(&topics, &settings, boot(), served.clone());
    let online = Parcel::retained(topics.available(), b"online".to_vec(), false);
    let (orders, told) = watch::channel(Orders { birth: vec![online.clone(), card.say("ready")], leave: false });
    let herald = Herald::new(&topics);
    let (mut ears, heard) = if settings.admins.is_empty() { (Ears::default(), None) } else { ears::listen(&topics) };
    let device =
        (!settings.discovery.is_empty()).then(|| Device { served: served.clone(), born: Arc::new(Notify::new()) });
    if let Some(device) = &device {
        ears = ears.with_home_assistant(Arc::clone(&device.born));
    }
    let filters = [topics.filters(), ears.filters()].concat();
    let life = Life::begin(vitals.pulse(), Part::Link);
    let (link, mut inbox, task) =
        link::start(terms.clone(), filters, told, Some(Arc::clone(&vitals)), herald.clone(), ears.clone(), life);
    if let Some(aside) = journal.moved_aside() {
        let event = herald.event("journal_corrupt", &json!({"moved_to": aside.display().to_string()}));
        // The first in an empty pipe has room.
        if link.send(event).is_err() {
            tracing::error!("no room to say that the journal was corrupt");
        }
    }
    let keeper = tokio::spawn(card.clone().keep(link.clone(), orders.clone()));
    let voice = Voice { node: node.clone(), model: String::new(), keep: retention.keep.0 };
    let aide = heard.map(|heard| {
        let aide = Aide::new(topics.clone(), settings.admins.clone(), control, voice.clone(), link.clone());
        tokio::spawn(aide.work(heard, ears.clone()))
    });
    let presence = Presence {
        topics: topics.clone(),
        herald,
        vitals: Arc::clone(&vitals),
        link: link.clone(),
        orders: orders.clone(),
        every: settings.metrics_every.0,
        device,
    };
    let (hush, told) = oneshot::channel();
    let presence = tokio::spawn(presence.show(news, told));
    let means = Means {
        voice,
        topics: topics.clone(),
        journal,
        queue,
        vitals,
        link: link.clone(),
        payload_max: settings.payload_max.bytes(),
        card,
        online,
    };
    let pulse = Arc::clone(means.vitals.pulse());
    let remembered = means.journal.sessions().await?;
    let memory = Memory::new(retention, remembered, Instant::now());
    let mut desk = Desk::new(means, memory);
    desk.recover().await?;
    if !settings.pool.is_empty() {
        desk.pool = Some(Pool::join(&terms, &topics, &pulse));
    }
    desk.work(&mut inbox, drain).await;
    pulse.rest(Part::Mqtt);
    keeper.abort();
    // What has happened is said before the goodbye, and no gauge after it.
    drop(hush);
    if let Err(error) = presence.await {
        tracing::error!(%error, "the presence has ended in a panic");
    }
    ears.fall_silent().await;
    if let Some(aide) = aide {
        aide.abort();
    }

    let offline = Parcel::retained(topics.available(), b"offline".to_vec(), false);
    orders.send_modify(|orders| orders.birth = vec![offline.clone()]);
    // Nobody reads what still arrives: it is not acknowledged, so the broker keeps it for the next start.
    let unread = tokio::spawn(async move { while inbox.recv().await.is_some() {} });
    desk.close(offline).await;
    orders.send_modify(|orders| orders.leave = true);
    link::leave(&link);
    link::end(task).await;
    unread.abort();
    Ok(())
}

/// A name for this start of the daemon, so that whoever reads the card sees that it was started again.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        // Without random numbers from the system, the clock tells two starts apart.
        let number = OsRng.try_next_u64().unwrap_or_else(|_| {
            let now =
                std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
        });
        format!("{number:016x}")
    })
}

fn terms(settings: &config::Mqtt, node: &str, will_topic: &str) -> Result<Terms, Fault> {
    let version = Version::read("`mqtt.version`", &settings.version)?;
    let packet_max = settings.payload_max.0.saturating_mul(PACKETS_PER_PAYLOAD).max(PACKET_MIN);
    let address = Address::read("`mqtt.url`", &settings.url)?;
    let fallback =
        settings.fallback.iter().map(|url| Address::read("`mqtt.fallback`", url)).collect::<Result<Vec<_>, _>>()?;
    let access = Access {
        user: settings.user.clone(),
        password_file: settings.password_file.clone(),
        ca: settings.ca.clone(),
        cert: settings.cert.clone(),
        key: settings.key.clone(),
    };
    access.check(address.is_tls() || fallback.iter().any(Address::is_tls))?;
    Ok(Terms {
        address,
        fallback,
        access,
        version,
        client_id: if settings.client_id.is_empty() { format!("moed-{node}") } else { settings.client_id.clone() },
        keep_alive: settings.keep_alive.0,
        session_expiry: settings.session_expiry.0,
        durable: true,
        window: settings.window,
        packet_max: u32::try_from(packet_max).unwrap_or(u32::MAX),
        will: Some((will_topic.to_owned(), "offline".to_owned())),
    })
}
