//! Conversations that the node remembers, so that a device need not send all of what was said again.
//!
//! A client names a session in its requests; each answered one is a turn. One turn at a time: the next question comes after
//! the answer. What is remembered lies in the journal beside the answer that it ends with, in one transaction, so that a
//! second attempt sees the same conversation as the first. Past a bound a request is refused; nothing is forgotten early.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::config;
use crate::fault::{Code, Fault, Kind};
use crate::job::{Message, ToolCall};
use crate::journal::{Key, Session};
use crate::transport::shape::{read_messages, wrong};

/// When to come back to a session whose last question is not answered.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// All conversations; keys are client and session.
pub(super) struct Memory {
    talks: HashMap<Key, Talk>,
    limits: config::Journal,
}

#[derive(Default)]
struct Talk {
    history: Vec<Value>,
    bytes: usize,
    turns: u32,
    /// `None`: it has no turn yet.
    last: Option<Instant>,
    /// The request that has no answer yet.
    busy: Option<String>,
}

/// One question of a session, and all that was said before it.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    key: Key,
    /// From 1.
    pub(super) number: u32,
    history: Vec<Value>,
}

impl Turn {
    /// The session's name.
    pub(super) fn session(&self) -> &str {
        &self.key.id
    }

    /// The conversation up to the answer.
    pub(super) fn messages(&self) -> Result<Vec<Message>, Fault> {
        read_messages(&Value::Array(self.history.clone()))
    }

    /// The conversation with its answer, as it is kept.
    pub(super) fn answered(&self, text: &str, calls: &[ToolCall]) -> Session {
        let mut answer = json!({"role": "assistant"});
        if !text.is_empty() || calls.is_empty() {
            answer["content"] = text.into();
        }
        if !calls.is_empty() {
            let call = |call: &ToolCall| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            };
            answer["tool_calls"] = calls.iter().map(call).collect();
        }
        let mut history = self.history.clone();
        history.push(answer);
        let history = Value::Array(history).to_string().into_bytes();
        Session { key: self.key.clone(), turns: self.number, age: Duration::ZERO, history }
    }
}

impl Memory {
    /// What an earlier process remembered.
    pub(super) fn new(limits: config::Journal, kept: Vec<Session>, now: Instant) -> Self {
        let mut memory = Self { talks: HashMap::new(), limits };
        for session in kept {
            let since = now.checked_sub(session.age).unwrap_or(now);
            memory.keep(session, since);
        }
        memory
    }

    /// Begins a turn, or says why there can be none.
    pub(super) fn begin(&mut self, key: Key, id: &str, asked: &[Value], now: Instant) -> Result<Turn, Fault> {
        let keep = self.limits.session_keep.0;
        self.talks.retain(|_, talk| talk.busy.is_some() || talk.last.is_some_and(|last| now < last + keep));
        let asked_bytes: usize = asked.iter().map(|message| message.to_string().len()).sum();
        let name = &key.id;
        let limits = &self.limits;
        let (turns, bytes) = match self.talks.get(&key) {
            Some(Talk { busy: Some(other), .. }) => {
                let message = format!("session `{name}` has one question at a time, and `{other}` is not answered");
                return Err(Fault::new(Kind::Busy, Code::QueueFull, message).retry_after(BUSY_RETRY));
            }
            Some(talk) => (talk.turns, talk.bytes),
            None if self.talks.len() >= limits.sessions_max => {
                let first = self.talks.values().filter_map(|talk| talk.last).min().unwrap_or(now);
                let message = format!("{} sessions are remembered, limit {}", self.talks.len(), limits.sessions_max);
                return Err(Fault::new(Kind::Busy, Code::Overloaded, message)
                    .hint("a session ends `journal.session_keep` after its last turn")
                    .retry_after((first + keep).saturating_duration_since(now).max(BUSY_RETRY)));
            }
            None => (0, 0),
        };
        let full =
            |what: String| Fault::new(Kind::Caller, Code::TooLarge, what).param("session").hint("begin a new session");
        if turns >= limits.session_turns_max {
            return Err(full(format!("session `{name}` has {turns} turns, limit {}", limits.session_turns_max)));
        }
        let (bytes, bytes_max) = (bytes + asked_bytes, limits.session_bytes_max.bytes());
        if bytes > bytes_max {
            return Err(full(format!("session `{name}` would have {bytes} bytes, limit {bytes_max}")));
        }
        self.turn(key, id, asked)
    }

    /// The turn of a request that was accepted before: no bound is looked at again.
    pub(super) fn turn(&mut self, key: Key, id: &str, asked: &[Value]) -> Result<Turn, Fault> {
        let talk = self.talks.entry(key.clone()).or_default();
        let is_system = |message: &Value| message["role"] == "system";
        let asked = match asked.split_first() {
            Some((first, rest)) if is_system(first) && !talk.history.is_empty() => {
                if talk.history.first() != Some(first) {
                    return Err(wrong("messages[0]", "is not the system message that the session began with"));
                }
                rest
            }
            _ => asked,
        };
        talk.busy = Some(id.to_owned());
        let mut history = talk.history.clone();
        history.extend_from_slice(asked);
        Ok(Turn { number: talk.turns + 1, history, key })
    }

    /// Ends a turn: with its answer it is remembered, without one it never was.
    pub(super) fn end(&mut self, key: &Key, answered: Option<Session>, now: Instant) {
        if let Some(session) = answered {
            return self.keep(session, now);
        }
        if let Some(talk) = self.talks.get_mut(key) {
            talk.busy = None;
            if talk.turns == 0 {
                self.talks.remove(key);
            }
        }
    }

    fn keep(&mut self, session: Session, last: Instant) {
        let Ok(Value::Array(history)) = serde_json::from_slice(&session.history) else {
            // Ours, or another version's; the session begins anew, and its first answer says so by its number.
            return tracing::error!(
                client = session.key.client,
                session = session.key.id,
                "a session could not be read"
            );
        };
        let (bytes, turns) = (session.history.len(), session.turns);
        self.talks.insert(session.key, Talk { history, bytes, turns, last: Some(last), busy: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Size, Span};

    fn limits() -> config::Journal {
        config::Journal {
            sessions_max: 2,
            session_turns_max: 3,
            session_bytes_max: Size(400),
            session_keep: Span(Duration::from_mins(1)),
            ..config::Journal::default()
        }
    }

    fn ask(text: &str) -> Vec<Value> {
        vec![json!({"role": "user", "content": text})]
    }

    fn key(name: &str) -> Key {
        Key::new("lamp", name)
    }

    /// Asks and answers once.
    fn talk(memory: &mut Memory, name: &str, text: &str, now: Instant) -> Result<Session, Fault> {
        let session = memory.begin(key(name), "q", &ask(text), now)?.answered("yes", &[]);
        memory.end(&key(name), Some(session.clone()), now);
        Ok(session)
    }

    #[test]
    fn a_turn_sees_what_was_said_and_a_restart_changes_nothing() {
        let now = Instant::now();
        let mut memory = Memory::new(limits(), Vec::new(), now);
        let session = talk(&mut memory, "s", "one", now).unwrap();
        let mut again = Memory::new(limits(), vec![session], now);
        for memory in [&mut memory, &mut again] {
            let turn = memory.begin(key("s"), "q2", &ask("two"), now).unwrap();
            let said: Vec<_> = turn.messages().unwrap().into_iter().map(|message| message.content.unwrap()).collect();
            assert_eq!((turn.number, said), (2, vec!["one".to_owned(), "yes".to_owned(), "two".to_owned()]));
        }
    }

    #[test]
    fn one_question_at_a_time_and_an_unanswered_one_leaves_nothing() {
        let now = Instant::now();
        let mut memory = Memory::new(limits(), Vec::new(), now);
        memory.begin(key("s"), "q1", &ask("one"), now).unwrap();
        let fault = memory.begin(key("s"), "q2", &ask("two"), now).unwrap_err();
        assert_eq!((fault.code, fault.retry_after), (Code::QueueFull, Some(BUSY_RETRY)));
        memory.end(&key("s"), None, now);
        assert_eq!(memory.begin(key("s"), "q2", &ask("two"), now).unwrap().history, ask("two"));
    }

    #[test]
    fn every_bound_is_named_with_its_number_and_nothing_is_forgotten_early() {
        let now = Instant::now();
        let mut memory = Memory::new(limits(), Vec::new(), now);
        for text in ["one", "two", "three"] {
            talk(&mut memory, "s", text, now).unwrap();
        }
        let fault = talk(&mut memory, "s", "four", now).unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (Code::TooLarge, "session `s` has 3 turns, limit 3"));
        let fault = talk(&mut memory, "t", &"x".repeat(400), now).unwrap_err();
        assert!(fault.code == Code::TooLarge && fault.message.ends_with("bytes, limit 400"), "{fault}");
        talk(&mut memory, "t", "one", now).unwrap();
        let later = now + Duration::from_secs(59);
        let fault = talk(&mut memory, "u", "one", later).unwrap_err();
        assert_eq!((fault.code, fault.retry_after), (Code::Overloaded, Some(Duration::from_secs(1))));
        let over = now + Duration::from_mins(1);
        assert_eq!(talk(&mut memory, "u", "one", over).unwrap().turns, 1);
        assert_eq!(talk(&mut memory, "s", "anew", over).unwrap().turns, 1, "it is over, and the number says so");
    }

    #[test]
    fn a_system_message_is_said_once_and_calls_are_remembered() {
        let now = Instant::now();
        let mut memory = Memory::new(limits(), Vec::new(), now);
        let system = |text: &str| json!({"role": "system", "content": text});
        let first = [system("be brief"), ask("one")[0].clone()];
        let turn = memory.begin(key("s"), "q", &first, now).unwrap();
        let call = ToolCall { id: "c".to_owned(), name: "on".to_owned(), arguments: "{}".to_owned() };
        memory.end(&key("s"), Some(turn.answered("", &[call])), now);
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "done"});
        let turn = memory.begin(key("s"), "q", &[system("be brief"), result], now).unwrap();
        let messages = turn.messages().unwrap();
        assert_eq!((messages.len(), messages[2].tool_calls[0].name.as_str()), (4, "on"));
        memory.end(&key("s"), None, now);
        let fault = memory.begin(key("s"), "q", &[system("be long")], now).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("messages[0]"));
    }
}
