//! Calls in what a model writes: the `hermes` dialect, `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
//!
//! Text streams through; from `<tool_call>` on it is held back until the call is whole.
//! White space beside a call belongs to neither and is dropped.

use serde::Deserialize;

use crate::job::ToolCall;

/// What a call starts with; one token in most vocabularies.
pub const OPEN: &str = "<tool_call>";
/// What a call ends with.
pub const CLOSE: &str = "</tool_call>";
/// From [`OPEN`] to the tool's name, as chat templates write earlier calls, and so as models were trained to.
pub const BEFORE_NAME: &str = "\n{\"name\": \"";
/// From the name to the arguments.
pub const BEFORE_ARGUMENTS: &str = "\", \"arguments\": ";
/// From the arguments to [`CLOSE`].
pub const AFTER_ARGUMENTS: &str = "}\n";
/// Between two calls.
pub const BETWEEN_CALLS: &str = "\n";
/// What stands between two items and behind a key inside a call: Python's way, for the same reason.
pub const SEPARATORS: [&str; 2] = [", ", ": "];

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Call(ToolCall),
    /// Something between the marks that is no call.
    Broken(String),
}

/// Splits an answer, piece by piece.
#[derive(Debug, Default)]
pub struct Splitter {
    held: String,
    inside: bool,
    /// White space that is text only if more text follows.
    space: String,
    /// Whether the last thing given out was a call.
    after_call: bool,
    calls: usize,
    /// Makes the calls' ids differ between answers.
    salt: u64,
}

#[derive(Deserialize)]
struct Written<'a> {
    name: String,
    #[serde(borrow, default)]
    arguments: Option<&'a serde_json::value::RawValue>,
}

impl Splitter {
    /// A splitter for one answer; `salt` makes its call ids its own.
    pub fn new(salt: u64) -> Self {
        Self { salt, ..Self::default() }
    }

    /// Takes more text and gives out what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        loop {
            if self.inside {
                let Some(end) = self.held.find(CLOSE) else { return pieces };
                let body = self.held[..end].to_owned();
                self.held.drain(..end + CLOSE.len());
                self.inside = false;
                pieces.push(self.read_call(&body));
                self.after_call = true;
                self.space.clear();
            } else if let Some(start) = self.held.find(OPEN) {
                let before = self.held[..start].to_owned();
                self.held.drain(..start + OPEN.len());
                self.give_text(&before, &mut pieces);
                self.space.clear();
                self.inside = true;
            } else {
                let keep = (1..OPEN.len()).rev().find(|length| self.held.ends_with(&OPEN[..*length])).unwrap_or(0);
                let rest = self.held.split_off(self.held.len() - keep);
                let certain = std::mem::replace(&mut self.held, rest);
                self.give_text(&certain, &mut pieces);
                return pieces;
            }
        }
    }

    /// The answer is over: what was held back is given out; an open call is whole text again.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut rest = std::mem::take(&mut self.held);
        if self.inside {
            rest.insert_str(0, OPEN);
            self.inside = false;
        }
        self.give_text(&rest, &mut pieces);
        if !self.space.is_empty() && !self.after_call {
            pieces.push(Piece::Text(std::mem::take(&mut self.space)));
        }
        pieces
    }

    /// Calls found so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Whether an answer that ended now would end inside a call.
    pub fn is_inside(&self) -> bool {
        self.inside
    }

    fn give_text(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        let solid = text.trim_end();
        if solid.is_empty() {
            self.space.push_str(text);
            return;
        }
        let mut out = std::mem::take(&mut self.space);
        out.push_str(solid);
        self.space.push_str(&text[solid.len()..]);
        let out = if self.after_call { out.trim_start().to_owned() } else { out };
        self.after_call = false;
        pieces.push(Piece::Text(out));
    }

    fn read_call(&mut self, body: &str) -> Piece {
        match serde_json::from_str::<Written>(body.trim()) {
            Ok(written) => {
                self.calls += 1;
                let arguments = written.arguments.map_or("{}", serde_json::value::RawValue::get).to_owned();
                Piece::Call(ToolCall {
                    id: format!("call_{:016x}_{}", self.salt, self.calls),
                    name: written.name,
                    arguments,
                })
            }
            Err(_) => Piece::Broken(body.trim().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&str]) -> Vec<Piece> {
        let mut splitter = Splitter::new(1);
        let mut all: Vec<Piece> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
        all.extend(splitter.finish());
        // Neighbouring texts are one text, however they were cut.
        let mut joined: Vec<Piece> = Vec::new();
        for piece in all {
            match (joined.last_mut(), piece) {
                (Some(Piece::Text(last)), Piece::Text(text)) => last.push_str(&text),
                (_, piece) => joined.push(piece),
            }
        }
        joined
    }

    fn call(number: usize, name: &str, arguments: &str) -> Piece {
        Piece::Call(ToolCall {
            id: format!("call_0000000000000001_{number}"),
            name: name.into(),
            arguments: arguments.into(),
        })
    }

    #[test]
    fn calls_come_out_whole_and_white_space_beside_them_is_dropped() {
        let answer = "Sure.\n<tool_call>\n{\"name\": \"on\", \"arguments\": {\"name\": \"Hall\"}}\n</tool_call>\n<tool_call>{\"name\":\"off\"}</tool_call>\n";
        let expected = vec![Piece::Text("Sure.".into()), call(1, "on", "{\"name\": \"Hall\"}"), call(2, "off", "{}")];
        assert_eq!(split(&[answer]), expected);
        let letters: Vec<String> = answer.chars().map(String::from).collect();
        assert_eq!(split(&letters.iter().map(String::as_str).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn what_is_no_call_is_broken_and_an_open_call_is_text() {
        assert_eq!(split(&["<tool_call>{nonsense}</tool_call>"]), [Piece::Broken("{nonsense}".into())]);
        assert_eq!(split(&["a <tool_call>{\"na"]), [Piece::Text("a<tool_call>{\"na".into())]);
        assert_eq!(split(&["1 < 2 and <tool"]), [Piece::Text("1 < 2 and <tool".into())]);
        assert_eq!(split(&["end\n\n"]), [Piece::Text("end\n\n".into())]);
    }

    proptest! {
        #[test]
        fn text_without_marks_comes_back_unchanged(text in "[a-z<> \n]{0,50}", cut in 0_usize..50) {
            prop_assume!(!text.contains(OPEN));
            let cut = cut.min(text.len());
            let all: String = split(&[&text[..cut], &text[cut..]]).into_iter().map(|piece| match piece {
                Piece::Text(text) => text,
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(all, text);
        }
    }
}
