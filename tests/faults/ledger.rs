//! What was asked, what came back, and whether it adds up: no request without an answer, no answer in two versions.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Clients that the requests come from, in turn.
const CLIENTS: usize = 8;
/// Different seeds, so that the right text of each can be known beforehand.
pub const SEEDS: usize = 23;

/// One request and all that was heard of it.
#[derive(Debug)]
pub struct Asked {
    pub client: String,
    pub id: String,
    /// A request with a seed has a text that is known; one without has the seed of the journal, and so one text all the same.
    pub seed: Option<usize>,
    sent: Option<Instant>,
    /// When it may be asked again, after a refusal that said so.
    again: Option<Instant>,
    /// The first answer, without `repeat`.
    answer: Option<Value>,
}

impl Asked {
    /// The request's payload.
    pub fn payload(&self) -> Vec<u8> {
        let mut params = json!({"max_tokens": 24, "ignore_eos": true, "temperature": 1.5});
        if let Some(seed) = self.seed {
            params["seed"] = seed.into();
        }
        // Some are heard while they are made: an answer that is heard whole is told of once, at its end.
        let stream = self.id.ends_with('3');
        json!({"v": 1, "id": self.id, "prompt": "hi", "params": params, "stream": stream}).to_string().into_bytes()
    }
}

/// The numbers of one scenario.
#[derive(Debug, Default)]
pub struct Counts {
    pub sent: usize,
    pub computed: usize,
    pub answered: usize,
    /// Copies that came beside the first.
    pub repeated: usize,
    /// Requests sent again because nothing came, or because the node said so.
    pub asked_again: usize,
    pub refused: usize,
    pub lost: usize,
    pub differing: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, computed, answered, repeated, asked_again, refused, lost, differing } = self;
        write!(
            f,
            "sent {sent} computed {computed} answered {answered} repeated {repeated} asked-again {asked_again} \
             refused {refused} lost {lost} differing {differing}"
        )
    }
}

/// All requests of one scenario.
pub struct Ledger {
    asked: Vec<Asked>,
    by_key: HashMap<(String, String), usize>,
    /// The right text of each seed.
    right: BTreeMap<usize, String>,
    pub counts: Counts,
    /// What was wrong, in words.
    pub complaints: Vec<String>,
    next: usize,
    waiting: usize,
    /// What the ids of this round begin with; copies of earlier rounds may still come.
    prefix: String,
    /// Answers of this round.
    answered: usize,
}

impl Ledger {
    pub fn new(requests: usize, right: BTreeMap<usize, String>) -> Self {
        let mut ledger = Self {
            asked: Vec::new(),
            by_key: HashMap::new(),
            right,
            counts: Counts::default(),
            complaints: Vec::new(),
            next: 0,
            waiting: 0,
            prefix: String::new(),
            answered: 0,
        };
        ledger.renew(0, requests);
        ledger
    }

    /// Begins a round of new requests; those before have been answered.
    pub fn renew(&mut self, round: usize, requests: usize) {
        self.prefix = format!("r{round}-");
        let asked: Vec<Asked> = (0..requests)
            .map(|number| Asked {
                client: format!("dev{}", number % CLIENTS),
                id: format!("{}{number}", self.prefix),
                seed: (number % 2 == 0).then_some(number / 2 % SEEDS),
                sent: None,
                again: None,
                answer: None,
            })
            .collect();
        let key = |(number, asked): (usize, &Asked)| ((asked.client.clone(), asked.id.clone()), number);
        self.by_key = asked.iter().enumerate().map(key).collect();
        (self.asked, self.next, self.waiting, self.answered) = (asked, 0, 0, 0);
    }

    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Different requests of this round that have been sent.
    pub fn sent_so_far(&self) -> usize {
        self.next
    }

    /// Whether the first `count` of this round are all answered.
    pub fn has_answers(&self, count: usize) -> bool {
        self.asked[..count].iter().all(|asked| asked.answer.is_some())
    }

    /// Answers of this round.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// First answers of each node.
    pub fn by_node(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for node in self.asked.iter().filter_map(|asked| asked.answer.as_ref()?["node"].as_str()) {
            *counts.entry(node.to_owned()).or_insert(0) += 1;
        }
        counts
    }

    /// The next request to send, `window` of them unanswered at most. `patience`: when to ask again where nothing came.
    pub fn due(&mut self, window: usize, patience: Option<Duration>) -> Option<usize> {
        let now = Instant::now();
        let late = |asked: &Asked| {
            asked.answer.is_none()
                && (asked.again.is_some_and(|again| now >= again)
                    || patience.zip(asked.sent).is_some_and(|(patience, sent)| now >= sent + patience))
        };
        if let Some(number) = self.asked[..self.next].iter().position(late) {
            return Some(number);
        }
        (self.next < self.asked.len() && self.waiting < window).then_some(self.next)
    }

    pub fn request(&self, number: usize) -> &Asked {
        &self.asked[number]
    }

    /// Notes that it was sent.
    pub fn sent(&mut self, number: usize) {
        let asked = &mut self.asked[number];
        (asked.sent, asked.again) = (Some(Instant::now()), None);
        if number == self.next {
            self.next += 1;
            self.waiting += 1;
            self.counts.sent += 1;
        } else {
            self.counts.asked_again += 1;
        }
    }

    /// Takes one reply in.
    pub fn hear(&mut self, client: &str, mut reply: Value) {
        let id = reply["id"].as_str().unwrap_or_default().to_owned();
        if !id.starts_with(&self.prefix) || reply["type"] == "delta" {
            return;
        }
        let Some(number) = self.by_key.get(&(client.to_owned(), id)).copied() else {
            self.complaints.push(format!("a reply that nobody waits for: {reply}"));
            return;
        };
        let asked = &mut self.asked[number];
        if let Some(object) = reply.as_object_mut() {
            object.remove("repeat");
        }
        if reply["type"] == "error" && reply["retryable"] == true {
            self.counts.refused += 1;
            let after = Duration::from_millis(reply["retry_after_ms"].as_u64().unwrap_or(1000));
            // What a device would wait a minute for, a test asks for every second.
            asked.again = Some(Instant::now() + after.min(Duration::from_secs(1)));
            return;
        }
        match &asked.answer {
            None => {
                self.counts.answered += 1;
                self.answered += 1;
                self.waiting -= 1;
                if reply["type"] != "result" {
                    self.complaints.push(format!("{client} got no result: {reply}"));
                    self.counts.differing += 1;
                } else if let Some(right) = asked.seed.and_then(|seed| self.right.get(&seed))
                    && reply["text"] != right.as_str()
                {
                    self.complaints.push(format!("{client} got another text than `{right}`: {reply}"));
                    self.counts.differing += 1;
                }
                asked.answer = Some(reply);
            }
            Some(first) => {
                self.counts.repeated += 1;
                // Another member of a pool may have computed it, too; the requester keeps the first.
                if *first != reply && first["node"] == reply["node"] {
                    self.complaints.push(format!("{client} got two answers: {first} and {reply}"));
                    self.counts.differing += 1;
                }
            }
        }
    }
}
