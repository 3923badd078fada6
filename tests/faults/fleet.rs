//! Devices that ask: one connection to the broker for all of them, made anew whenever it breaks, and a ledger.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event};

use crate::broker::client_options;
use crate::harness::join_or_leave;
use crate::ledger::Ledger;

/// Requests on their way at a time: below what Mosquitto keeps for a node that is away (1,000), above every window.
pub const WINDOW: usize = 64;
/// Without any new answer for this long, a scenario has failed.
const STALL: Duration = Duration::from_mins(1);

struct Shared {
    ledger: Mutex<Ledger>,
    /// Present while subscribed.
    client: Mutex<Option<Client>>,
    over: AtomicBool,
}

/// The devices.
pub struct Fleet {
    shared: Arc<Shared>,
    ears: Option<JoinHandle<()>>,
    /// Where requests of a client go.
    topic: Box<dyn Fn(&str) -> String>,
    /// When a device asks again where nothing came; `None`: never, so that nothing that is lost is hidden.
    pub patience: Option<Duration>,
}

impl Fleet {
    pub fn new(port: u16, ledger: Ledger, topic: impl Fn(&str) -> String + 'static) -> Self {
        let shared = Arc::new(Shared { ledger: Mutex::new(ledger), client: Mutex::default(), over: false.into() });
        let ears = Arc::clone(&shared);
        let ears = std::thread::spawn(move || {
            while !ears.over.load(Ordering::Relaxed) {
                connection(port, &ears);
                *ears.client.lock().unwrap() = None;
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { shared, ears: Some(ears), topic: Box::new(topic), patience: None }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap()
    }

    pub fn answered(&self) -> usize {
        self.ledger().answered()
    }

    /// Sends what is due until the condition holds.
    pub fn drive(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let (mut seen, mut since) = (0, Instant::now());
        while !condition() {
            self.send_due();
            let answered = self.answered();
            if answered > seen {
                (seen, since) = (answered, Instant::now());
            }
            assert!(since.elapsed() < STALL, "{what}: no new answer for {STALL:?}, {answered} in all");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Drives until this many requests are answered.
    pub fn until_answered(&self, count: usize) {
        let count = count.min(self.ledger().len());
        self.drive(&format!("{count} answers"), || self.answered() >= count);
    }

    /// Drives until all that has been sent so far is answered.
    pub fn catch_up(&self) {
        let sent = self.ledger().sent_so_far();
        self.drive("what was asked", || self.ledger().has_answers(sent));
    }

    /// Asks for every answer once more; the copies must be the same.
    pub fn ask_all_again(&self) {
        let count = self.ledger().len();
        let before = self.ledger().counts.repeated;
        for number in 0..count {
            let room = || self.ledger().counts.repeated + WINDOW >= before + number;
            self.drive("room for another copy", room);
            self.drive("a connection", || self.publish(&self.ledger(), number));
        }
        self.drive("all copies", || self.ledger().counts.repeated >= before + count);
    }

    fn send_due(&self) {
        loop {
            let mut ledger = self.ledger();
            let Some(number) = ledger.due(WINDOW, self.patience) else { return };
            // Nobody hears a reply before it is noted that its request was sent.
            if !self.publish(&ledger, number) {
                return;
            }
            ledger.sent(number);
        }
    }

    /// Never waits: the ledger is held meanwhile.
    fn publish(&self, ledger: &Ledger, number: usize) -> bool {
        let asked = ledger.request(number);
        self.publish_raw(&(self.topic)(&asked.client), asked.payload())
    }

    /// Publishes whatever; `false` while there is no connection.
    pub fn publish_raw(&self, topic: &str, payload: Vec<u8>) -> bool {
        let client = self.shared.client.lock().unwrap();
        client.as_ref().is_some_and(|client| client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok())
    }

    /// Tells the node that every answer of this round has come.
    pub fn acknowledge_all(&self, topic: impl Fn(&str) -> String) {
        let count = self.ledger().len();
        for number in 0..count {
            let (topic, id) = {
                let ledger = self.ledger();
                let asked = ledger.request(number);
                (topic(&asked.client), asked.id.clone())
            };
            self.drive("a connection", || self.publish_raw(&topic, id.clone().into_bytes()));
        }
    }

    /// Prints the counts of all rounds and fails on what is lost or differs. `computed`: answers that were made, as the nodes
    /// logged them.
    pub fn judge(&self, scenario: &str, computed: usize) {
        let mut ledger = self.ledger();
        ledger.counts.computed = computed;
        ledger.counts.lost = ledger.counts.sent - ledger.counts.answered;
        println!("{scenario}: {}", ledger.counts);
        assert_eq!(ledger.complaints, Vec::<String>::new(), "{scenario}");
        assert_eq!((ledger.counts.lost, ledger.counts.differing), (0, 0), "{scenario}");
        assert_eq!(ledger.answered(), ledger.len(), "{scenario}: not all was asked");
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(client) = self.shared.client.lock().unwrap().as_ref() {
            // A connection that is gone already needs no goodbye.
            client.try_disconnect().ok();
        }
        if std::thread::panicking() {
            return;
        }
        if let Some(ears) = self.ears.take() {
            join_or_leave(ears);
        }
    }
}

/// One connection, until it breaks.
fn connection(port: u16, shared: &Shared) {
    let (client, mut connection) = Client::new(client_options("fleet", port), 2 * WINDOW);
    for event in connection.iter() {
        // A connection that came up while the fleet was told to end has heard nothing of it; its life signs do.
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => client.try_subscribe("moed/v1/c/#", QoS::AtLeastOnce).unwrap(),
            Ok(Event::Incoming(Packet::SubAck(_))) => *shared.client.lock().unwrap() = Some(client.clone()),
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                let client = topic.split('/').nth(3).unwrap_or_default();
                let reply = serde_json::from_slice(&publish.payload).unwrap();
                shared.ledger.lock().unwrap().hear(client, reply);
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
