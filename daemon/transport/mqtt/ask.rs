//! The other side: one question to a node over a broker, for `moed ask --mqtt`.

use std::time::Duration;

use rand_core::{OsRng, TryRngCore};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::access::Access;
use super::address::Address;
use super::codec::Refusal;
use super::line::{self, Hand, Happening, Line, Terms, Version};
use super::reply::{Parcel, Surety};
use super::topics::{Topics, Verb, is_name, node_of_info};
use super::wire::Mail;
use crate::fault::{Code, Fault, Kind};

/// How long a broker may take to show what it keeps. Cards are retained, so they come with the subscription.
const CARD_WAIT: Duration = Duration::from_secs(3);
/// How long it may take to tell whether a named node is here.
const WORD_WAIT: Duration = Duration::from_secs(1);
/// What a receipt and a goodbye may take at the end; the answer is here, and they are a courtesy.
const GOODBYE: Duration = Duration::from_secs(1);
/// The largest answer that is taken.
const PACKET_MAX: u32 = 64 << 20;

/// One question.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `mqtt://…`, `mqtts://…` or `unix:…`.
    pub url: String,
    /// `5` or `3.1.1`.
    pub version: String,
    pub access: Access,
    pub root: String,
    pub whom: Whom,
    /// Our level of the topics; `None`: the user where there is one, else a drawn name.
    pub client: Option<String>,
    /// The request without `v` and `id`.
    pub request: Map<String, Value>,
    /// How long to wait for the answer.
    pub patience: Duration,
}

/// Who is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The first ready node whose card the broker has.
    Anybody,
    Node(String),
    /// Whichever member takes it.
    Pool(String),
}

/// Asks, tells the text as it comes (each piece once, in order, all of it by the end), and returns the result's payload.
pub async fn ask(ask: Ask, on_text: impl FnMut(&str)) -> Result<Value, Fault> {
    let number = OsRng.try_next_u64().map_err(|error| Fault::machine(format!("drawing a client name: {error}")))?;
    let drawn = format!("ask-{number:016x}");
    let user = Some(&ask.access.user).filter(|user| !user.is_empty());
    let client = ask.client.as_ref().or(user).unwrap_or(&drawn).clone();
    for (what, name) in [("client", Some(&client)), ask.whom.named()] {
        if let Some(name) = name.filter(|name| !is_name(name)) {
            return Err(Fault::invalid(format!("`{name}` is no {what}'s name: it must match [A-Za-z0-9_.-]{{1,64}}"))
                .hint("with a user that is no such name, say `--client` as the broker's access list has it"));
        }
    }
    let address = Address::read("the broker's URL", &ask.url)?;
    ask.access.check(address.is_tls())?;
    let terms = Terms {
        address: address.clone(),
        fallback: Vec::new(),
        access: ask.access.clone(),
        version: Version::read("the protocol's version", &ask.version)?,
        // Never the client's own: a device with that id may be connected.
        client_id: drawn.clone(),
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
    let conversation = asker.converse(&ask, &client, &drawn);
    match timeout(patience, conversation).await {
        Ok(ended) => ended,
        Err(_) => Err(Fault::unavailable(format!("no answer within {patience:?}"), Duration::ZERO)
            .hint(format!("some brokers drop what a client may not read: is `{client}` let read its own subtree?"))),
    }
}

impl Whom {
    fn named(&self) -> (&'static str, Option<&String>) {
        match self {
            Self::Anybody => ("node", None),
            Self::Node(node) => ("node", Some(node)),
            Self::Pool(pool) => ("pool", Some(pool)),
        }
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
    async fn converse(&mut self, ask: &Ask, client: &str, id: &str) -> Result<Value, Fault> {
        while !matches!(self.poll().await?, Happening::Connected { .. }) {}
        let topic = match &ask.whom {
            Whom::Pool(pool) => Topics::pool_request(&ask.root, pool, client),
            Whom::Node(node) => {
                self.see_that_it_is_here(&ask.root, node).await?;
                Topics::new(&ask.root, node).verb(client, Verb::Request)
            }
            Whom::Anybody => match timeout(CARD_WAIT, self.find_node(&ask.root)).await {
                Ok(node) => Topics::new(&ask.root, &node?).verb(client, Verb::Request),
                Err(_) => {
                    return Err(Fault::new(Kind::Busy, Code::Unavailable, "no node has left its card at the broker")
                        .hint("name one with `--node`"));
                }
            },
        };
        let reply = Topics::new(&ask.root, "").reply(client, id);
        if !self.subscribe(std::slice::from_ref(&reply)).await? {
            return Err(forbidden(format!("the broker does not let `{client}` read `{reply}`")));
        }
        let mut request = ask.request.clone();
        request.insert("v".to_owned(), 1.into());
        request.insert("id".to_owned(), id.into());
        self.send(&topic, &Value::Object(request))?;
        loop {
            match self.poll().await? {
                Happening::Acked { remark: Some(remark), .. } if remark.code == Refusal::UNHEARD => {
                    return Err(Fault::new(Kind::Busy, Code::Unavailable, format!("nobody listens on `{topic}`"))
                        .hint("is the node up, and does the broker let it subscribe?"));
                }
                Happening::Acked { remark: Some(remark), .. } => {
                    return Err(forbidden(format!(
                        "the broker does not let `{client}` publish on `{topic}`: {remark}"
                    )));
                }
                Happening::Mail { mail, packet_id } => {
                    self.take(packet_id)?;
                    if mail.topic == reply
                        && let Some(ended) = self.read(&mail)
                    {
                        if let Ok(answer) = &ended {
                            self.say_thanks(&ask.root, client, id, answer).await;
                        }
                        return ended;
                    }
                }
                _ => {}
            }
        }
    }

    /// A node whose will the broker has told is not waited for.
    async fn see_that_it_is_here(&mut self, root: &str, node: &str) -> Result<(), Fault> {
        let available = Topics::new(root, node).available();
        let look = async {
            // Who may not read it asks all the same.
            if self.subscribe(std::slice::from_ref(&available)).await? {
                loop {
                    let Some(mail) = self.mail().await? else { continue };
                    if mail.topic == available {
                        return Ok(mail.payload == b"offline");
                    }
                }
            }
            Ok(false)
        };
        match timeout(WORD_WAIT, look).await {
            Ok(Ok(true)) => Err(Fault::new(Kind::Busy, Code::Unavailable, format!("node `{node}` is offline"))),
            Ok(Err(fault)) => Err(fault),
            // Here; or not kept, or not for our eyes: whether somebody listens is told when the question is taken.
            Ok(Ok(false)) | Err(_) => Ok(()),
        }
    }

    async fn find_node(&mut self, root: &str) -> Result<String, Fault> {
        let cards = Topics::any_info(root);
        if !self.subscribe(std::slice::from_ref(&cards)).await? {
            return Err(
                forbidden(format!("the broker does not let us read `{cards}`")).hint("name a node with `--node`")
            );
        }
        loop {
            let Some(mail) = self.mail().await? else { continue };
            let ready = serde_json::from_slice::<Value>(&mail.payload).is_ok_and(|card| card["state"] == "ready");
            if let Some(node) = node_of_info(root, &mail.topic).filter(|_| ready) {
                return Ok(node.to_owned());
            }
        }
    }

    /// Subscribes; `false` where the broker does not let us. Its word on that comes before any message.
    async fn subscribe(&mut self, filters: &[String]) -> Result<bool, Fault> {
        self.hand.subscribe(filters, true).map_err(|_| Fault::bug("a subscription found no room in an empty box"))?;
        loop {
            if let Happening::Subscribed { refused } = self.poll().await? {
                return Ok(refused.is_empty());
            }
        }
    }

    fn send(&self, topic: &str, payload: &Value) -> Result<(), Fault> {
        let mut parcel = Parcel::retained(topic.to_owned(), payload.to_string().into_bytes(), true);
        parcel.retain = false;
        parcel.surety = Surety::Sure;
        self.hand.publish(&parcel).map_err(|_| Fault::bug("the request found no room in an empty box"))
    }

    /// The node may forget the answer, which is here; and goodbye. What is lost of this costs nothing but room.
    async fn say_thanks(&mut self, root: &str, client: &str, id: &str, answer: &Value) {
        let Some(node) = answer["node"].as_str().filter(|node| is_name(node)) else { return };
        let receipt = Topics::new(root, node).verb(client, Verb::Ack);
        let goodbye = async {
            if self.send(&receipt, &json!({"v": 1, "id": id})).is_err() {
                return;
            }
            while !matches!(self.line.poll().await, Ok(Happening::Acked { .. }) | Err(_)) {}
            if self.hand.leave().is_ok() {
                while !matches!(self.line.poll().await, Ok(Happening::Left) | Err(_)) {}
            }
        };
        if timeout(GOODBYE, goodbye).await.is_err() {
            tracing::debug!("the receipt was not taken in time");
        }
    }

    async fn mail(&mut self) -> Result<Option<Mail>, Fault> {
        let Happening::Mail { mail, packet_id } = self.poll().await? else { return Ok(None) };
        self.take(packet_id)?;
        Ok(Some(mail))
    }

    fn take(&self, packet_id: u16) -> Result<(), Fault> {
        if packet_id != 0 && self.hand.ack(packet_id).is_err() {
            return Err(Fault::bug("an acknowledgement found no room"));
        }
        Ok(())
    }

    async fn poll(&mut self) -> Result<Happening, Fault> {
        self.line.poll().await.map_err(|error| error.fault(&self.address))
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

fn forbidden(message: String) -> Fault {
    Fault::new(Kind::Caller, Code::Forbidden, message).hint("look at the broker's access list")
}

fn fault_of(error: &Value) -> Fault {
    let code = error["code"].as_str().and_then(Code::from_name).unwrap_or(Code::Internal);
    // One that is stored is final, whatever its code.
    let kind = match (error["retryable"] == true, code.status()) {
        (true, _) => Kind::Busy,
        (false, 500..) => Kind::Machine,
        (false, _) => Kind::Caller,
    };
    let mut fault =
        Fault::new(kind, code, error["message"].as_str().unwrap_or("the node sent an error without a message"));
    fault.hint = error["hint"].as_str().map(str::to_owned);
    fault.retry_after = error["retry_after_ms"].as_u64().map(Duration::from_millis);
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(messages: &[Value]) -> String {
        let (hand, line) = line::open(&Terms::nowhere(Version::V5));
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
    fn an_error_is_worth_another_try_where_the_node_says_so() {
        let kind = |code: &str, retryable| fault_of(&json!({"code": code, "retryable": retryable})).kind;
        assert_eq!(kind("queue_full", true), Kind::Busy);
        assert_eq!(kind("internal", false), Kind::Machine);
        assert_eq!(kind("forbidden", false), Kind::Caller);
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
