//! The other side: one question to a node over a broker, for `moed ask --mqtt`.

use std::time::Duration;

use rand_core::{OsRng, TryRngCore};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::address::Address;
use super::line::{self, Hand, Happening, Line, Terms, Version};
use super::reply::{Parcel, Surety};
use super::topics::{Topics, Verb, is_name, node_of_info};
use super::wire::Mail;
use crate::fault::{Code, Fault, Kind};

/// How long a broker may take to show the card of a node. Cards are retained, so they come with the subscription.
const CARD_WAIT: Duration = Duration::from_secs(3);
/// The largest answer that is taken.
const PACKET_MAX: u32 = 64 << 20;

/// One question.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `mqtt://…` or `unix:…`.
    pub url: String,
    pub root: String,
    /// Whom to ask; `None`: the first ready node whose card the broker has.
    pub node: Option<String>,
    /// The request without `v` and `id`.
    pub request: Map<String, Value>,
    /// How long to wait for the answer.
    pub patience: Duration,
}

/// Asks, tells the text as it comes (each piece once, in order, all of it by the end), and returns the result's payload.
pub async fn ask(ask: Ask, on_text: impl FnMut(&str)) -> Result<Value, Fault> {
    let number = OsRng.try_next_u64().map_err(|error| Fault::machine(format!("drawing a client name: {error}")))?;
    let client = format!("ask-{number:016x}");
    let address = Address::read(&ask.url)?;
    let terms = Terms {
        address: address.clone(),
        version: Version::V5,
        client_id: client.clone(),
        keep_alive: Duration::from_secs(15),
        session_expiry: Duration::ZERO,
        durable: false,
        window: 8,
        packet_max: PACKET_MAX,
        will: None,
    };
    let (hand, line) = line::open(&terms);
    let mut asker = Asker { hand, line, address, on_text, heard: String::new(), attempt: 0, next_seq: 0, said: 0 };
    let patience = ask.patience;
    let conversation = asker.converse(&ask, &client);
    match timeout(patience, conversation).await {
        Ok(ended) => ended,
        Err(_) => Err(Fault::unavailable(format!("no answer within {patience:?}"), Duration::ZERO)),
    }
}

struct Asker<F> {
    hand: Hand,
    line: Line,
    address: Address,
    on_text: F,
    /// The text of the current attempt, as far as no piece of it was lost.
    heard: String,
    attempt: u64,
    next_seq: u64,
    /// Bytes that were told.
    said: usize,
}

impl<F: FnMut(&str)> Asker<F> {
    async fn converse(&mut self, ask: &Ask, client: &str) -> Result<Value, Fault> {
        while !matches!(self.poll().await?, Happening::Connected { .. }) {}
        let node = match &ask.node {
            Some(node) if is_name(node) => node.clone(),
            Some(node) => return Err(Fault::invalid(format!("`{node}` is no node's name"))),
            None => match timeout(CARD_WAIT, self.find_node(ask)).await {
                Ok(node) => node?,
                Err(_) => {
                    return Err(Fault::new(Kind::Busy, Code::Unavailable, "no node has left its card at the broker")
                        .hint("name one with `--node`"));
                }
            },
        };
        let topics = Topics::new(&ask.root, &node);
        let reply = topics.reply(client, "1");
        self.subscribe(std::slice::from_ref(&reply)).await?;
        let mut request = ask.request.clone();
        request.insert("v".to_owned(), 1.into());
        request.insert("id".to_owned(), "1".into());
        let payload = Value::Object(request).to_string().into_bytes();
        let mut parcel = Parcel::retained(topics.verb(client, Verb::Request), payload, true);
        parcel.retain = false;
        parcel.surety = Surety::Sure;
        self.hand.publish(&parcel).map_err(|_| Fault::bug("the request found no room in an empty box"))?;
        loop {
            if let Some(mail) = self.mail().await?
                && mail.topic == reply
                && let Some(ended) = self.read(&mail)
            {
                return ended;
            }
        }
    }

    async fn find_node(&mut self, ask: &Ask) -> Result<String, Fault> {
        self.subscribe(&[Topics::any_info(&ask.root)]).await?;
        loop {
            let Some(mail) = self.mail().await? else { continue };
            let ready = serde_json::from_slice::<Value>(&mail.payload).is_ok_and(|card| card["state"] == "ready");
            if let Some(node) = node_of_info(&ask.root, &mail.topic).filter(|_| ready) {
                return Ok(node.to_owned());
            }
        }
    }

    /// Subscribes. The answer may overtake the broker's word on it by nothing: it comes before any message.
    async fn subscribe(&mut self, filters: &[String]) -> Result<(), Fault> {
        self.hand.subscribe(filters, true).map_err(|_| Fault::bug("a subscription found no room in an empty box"))?;
        loop {
            match self.poll().await? {
                Happening::Subscribed { refused: 0 } => return Ok(()),
                Happening::Subscribed { .. } => {
                    return Err(Fault::new(
                        Kind::Caller,
                        Code::Forbidden,
                        format!("broker refused to let us read `{}`", filters.join("`, `")),
                    ));
                }
                _ => {}
            }
        }
    }

    async fn mail(&mut self) -> Result<Option<Mail>, Fault> {
        let Happening::Mail { mail, packet_id } = self.poll().await? else { return Ok(None) };
        if packet_id != 0 && self.hand.ack(packet_id).is_err() {
            return Err(Fault::bug("an acknowledgement found no room"));
        }
        Ok(Some(mail))
    }

    async fn poll(&mut self) -> Result<Happening, Fault> {
        let address = &self.address;
        // Nobody at that address, as with a socket that nobody listens on: the machine's affair, not a busy daemon's.
        let lost = |error| {
            Fault::new(Kind::Machine, Code::Unavailable, format!("broker `{address}`: {error}"))
                .hint("is the broker up, and is the address right?")
        };
        self.line.poll().await.map_err(lost)
    }

    /// Takes one message of the answer in; the end, if it is that.
    fn read(&mut self, mail: &Mail) -> Option<Result<Value, Fault>> {
        let message: Value = serde_json::from_slice(&mail.payload).ok()?;
        let text = message["text"].as_str().unwrap_or_default();
        match message["type"].as_str()? {
            "delta" => {
                let attempt = message["attempt"].as_u64().unwrap_or(1);
                if attempt != self.attempt {
                    (self.attempt, self.next_seq) = (attempt, 0);
                    self.heard.clear();
                }
                if message["seq"].as_u64() == Some(self.next_seq) {
                    self.next_seq += 1;
                    self.heard.push_str(text);
                    let heard = self.heard.clone();
                    self.tell(&heard);
                }
                None
            }
            "result" => {
                let whole = text.to_owned();
                self.tell(&whole);
                Some(Ok(message))
            }
            "error" => Some(Err(fault_of(&message))),
            _ => None,
        }
    }

    /// Tells what of `text` was not told yet.
    fn tell(&mut self, text: &str) {
        if let Some(rest) = text.get(self.said..).filter(|rest| !rest.is_empty()) {
            (self.on_text)(rest);
            self.said = text.len();
        }
    }
}

fn fault_of(error: &Value) -> Fault {
    let code = error["code"].as_str().and_then(Code::from_name).unwrap_or(Code::Internal);
    let kind = if code.retryable() { Kind::Busy } else { Kind::Caller };
    let mut fault =
        Fault::new(kind, code, error["message"].as_str().unwrap_or("the node sent an error without a message"));
    fault.hint = error["hint"].as_str().map(str::to_owned);
    fault.retry_after = error["retry_after_ms"].as_u64().map(Duration::from_millis);
    fault
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(messages: &[Value]) -> String {
        let terms = Terms {
            address: Address::Unix("/nowhere".to_owned()),
            version: Version::V5,
            client_id: "t".to_owned(),
            keep_alive: Duration::from_secs(5),
            session_expiry: Duration::ZERO,
            durable: false,
            window: 1,
            packet_max: 1,
            will: None,
        };
        let (hand, line) = line::open(&terms);
        let mut all = String::new();
        let on_text = |text: &str| all.push_str(text);
        let address = Address::Unix("/nowhere".to_owned());
        let mut asker = Asker { hand, line, address, on_text, heard: String::new(), attempt: 0, next_seq: 0, said: 0 };
        for message in messages {
            asker.read(&Mail { payload: message.to_string().into_bytes(), ..Mail::default() });
        }
        drop(asker);
        all
    }

    #[test]
    fn each_piece_is_told_once_whatever_is_lost_or_computed_twice() {
        let delta =
            |attempt: u64, seq: u64, text: &str| json!({"type": "delta", "attempt": attempt, "seq": seq, "text": text});
        let result = json!({"type": "result", "text": "abcdef"});
        assert_eq!(told(&[delta(1, 0, "ab"), delta(1, 1, "cd"), delta(1, 2, "ef"), result.clone()]), "abcdef");
        assert_eq!(
            told(&[delta(1, 0, "ab"), delta(1, 2, "ef"), result.clone()]),
            "abcdef",
            "a lost piece comes with the result"
        );
        let again = [delta(1, 0, "ab"), delta(1, 1, "c"), delta(2, 0, "ab"), delta(2, 1, "cde"), result];
        assert_eq!(told(&again), "abcdef", "a second attempt says what the first had not");
    }
}
