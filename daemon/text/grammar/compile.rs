//! A shape to a grammar of the library's, within the limits, on a stack that is deep enough.

use std::sync::Arc;

use llguidance::api::{GrammarInit, TopLevelGrammar};
use llguidance::{Logger, Matcher, ParserFactory};
use serde_json::{Value, json};

use super::blame;
use super::lexemes::{Kind, lexemes};
use super::limits::parser_limits;
use super::schema::{self, Style};
use super::size::{self, at_most, check_text};
use super::terminals;
use super::vocabulary::{Marks, capabilities};
use super::{Constraint, GrammarError, Limits, Shape};
use crate::job::{Format, Tool, ToolChoice};
use crate::text::dialect;

/// The library goes down with a schema's nesting, its chains of `$ref`s and a grammar's brackets; the limits on those fit this
/// stack several times over. Only what is used of it is ever real memory.
const STACK_BYTES: usize = 64 << 20;

/// A compiled shape, from which every answer has its own copy.
pub(super) struct Blueprint {
    /// At its start; never moved on.
    matcher: Matcher,
    /// Of its automata, as the library counts them.
    bytes: usize,
    flow: Flow,
}

/// What stands around the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Nothing: the answer is the grammar's from first to last token.
    Whole,
    /// Free text until the token `open`; then the grammar; then, where `again`, free text as before.
    Call { open: u32, again: bool },
}

impl Blueprint {
    /// The constraint of one answer.
    pub(super) fn constraint(self: &Arc<Self>, eos: &Arc<[u32]>, size: usize) -> Constraint {
        Constraint::new(Arc::clone(self), Arc::clone(eos), size)
    }

    /// A copy that shares nothing: what one answer's text makes of the automata is gone with it.
    pub(super) fn matcher(&self) -> Matcher {
        self.matcher.deep_clone()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn starts_free(&self) -> bool {
        matches!(self.flow, Flow::Call { .. })
    }

    pub(super) fn opens(&self, token: u32) -> bool {
        matches!(self.flow, Flow::Call { open, .. } if open == token)
    }

    pub(super) fn starts_again(&self) -> bool {
        matches!(self.flow, Flow::Call { again: true, .. })
    }

    #[cfg(test)]
    pub(super) fn nothing(bytes: usize) -> Self {
        Self { matcher: Matcher::new(Err(llguidance::Cancelled.into())), bytes, flow: Flow::Whole }
    }
}

/// Compiles for one vocabulary under one set of limits.
pub(super) struct Compiler<'a> {
    factory: &'a ParserFactory,
    marks: Marks,
    limits: &'a Limits,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(factory: &'a ParserFactory, marks: Marks, limits: &'a Limits) -> Self {
        Self { factory, marks, limits }
    }

    /// Compiles on a thread of its own, for its stack, and waits for it.
    pub(super) fn compile(&self, shape: &Shape) -> Result<Blueprint, GrammarError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || self.compile_here(shape))
                .map_err(|error| GrammarError::Machine(error.to_string()))?
                .join()
                .map_err(|_| GrammarError::Machine("the library fell over it".to_owned()))?
        })
    }

    fn compile_here(&self, shape: &Shape) -> Result<Blueprint, GrammarError> {
        match shape {
            Shape::JsonObject => self.schema(&json!({"type": "object"}), false),
            Shape::JsonSchema { schema, strict } => self.schema(schema, *strict),
            Shape::Regex(expression) => self.regex(expression),
            Shape::Lark(grammar) => self.lark(grammar),
            Shape::Tools { tools, choice, parallel, format } => self.tools(tools, choice, *parallel, format),
        }
    }

    fn schema(&self, schema: &Value, strict: bool) -> Result<Blueprint, GrammarError> {
        let schema = schema::prepare(schema, strict, self.limits)?;
        let grammar = |schema: &Value| TopLevelGrammar::from_json_schema(Style::Compact.write_into(schema));
        self.whole(grammar(&schema))
            .map_err(|error| blame::blame(&schema, error, |candidate| self.matcher(grammar(candidate)).map(drop)))
    }

    fn regex(&self, expression: &str) -> Result<Blueprint, GrammarError> {
        check_text(expression, "bytes of expression", self.limits)?;
        let size = size::size(expression, "").map_err(GrammarError::Invalid)?;
        at_most("written-out repetitions", size.repeats(expression), self.limits.repeats)?;
        at_most("characters, 16 a class", size.weight, self.limits.weight)?;
        self.whole(TopLevelGrammar::from_regex(expression)).map_err(blame::blame_nobody)
    }

    fn lark(&self, grammar: &str) -> Result<Blueprint, GrammarError> {
        check_text(grammar, "bytes of grammar", self.limits)?;
        let lexemes = lexemes(grammar);
        terminals::check(&lexemes, self.limits)?;
        for word in lexemes.iter().filter(|lexeme| lexeme.kind == Kind::Word) {
            let inside =
                |keyword| word.text.strip_prefix(keyword).and_then(|json| serde_json::from_str::<Value>(json).ok());
            if let Some(schema) = inside("%json") {
                schema::prepare(&schema, false, self.limits)?;
            }
            if inside("%llguidance").is_some_and(|options| options.get("allow_invalid_utf8").is_some()) {
                // The answer is a text on every wire.
                let (keyword, at) = ("allow_invalid_utf8".to_owned(), "%llguidance".to_owned());
                return Err(GrammarError::Unsupported { keyword, at, reason: "an answer is UTF-8".to_owned() });
            }
        }
        self.whole(TopLevelGrammar::from_lark(grammar.to_owned())).map_err(blame::blame_nobody)
    }

    fn whole(&self, grammar: TopLevelGrammar) -> Result<Blueprint, GrammarError> {
        let (matcher, bytes) = self.matcher(grammar)?;
        Ok(Blueprint { matcher, bytes, flow: Flow::Whole })
    }

    fn tools(
        &self,
        tools: &[Tool],
        choice: &ToolChoice,
        parallel: bool,
        format: &Format,
    ) -> Result<Blueprint, GrammarError> {
        let offered: Vec<(usize, &Tool)> = tools
            .iter()
            .enumerate()
            .filter(|(_, tool)| !matches!(choice, ToolChoice::Named(name) if *name != tool.name))
            .collect();
        let mut bytes = 0;
        let mut signatures = Vec::with_capacity(offered.len());
        for (index, tool) in &offered {
            let (signature, size) =
                self.signature(tool).map_err(|error| GrammarError::Tool { index: *index, error: Box::new(error) })?;
            bytes += size;
            at_most("bytes of signatures", bytes, self.limits.sources_bytes)?;
            signatures.push((tool.name.as_str(), signature));
        }
        // One name means one call: what else could a second one be?
        let parallel = parallel && !matches!(choice, ToolChoice::Named(_));
        let speech = match choice {
            ToolChoice::Required | ToolChoice::Named(_) => Speech::None,
            ToolChoice::Auto | ToolChoice::None => self.speech(format)?,
        };
        let flow = match self.marks.open {
            Some(open) if speech == Speech::Any => Flow::Call { open, again: parallel },
            _ => Flow::Whole,
        };
        let source = calls_grammar(&signatures, self.marks, &speech, parallel);
        let (matcher, bytes) = self.matcher(TopLevelGrammar::from_lark(source)).map_err(blame::blame_nobody)?;
        Ok(Blueprint { matcher, bytes, flow })
    }

    /// What may be said beside calls.
    fn speech(&self, format: &Format) -> Result<Speech, GrammarError> {
        match format {
            Format::Text => Ok(Speech::Any),
            Format::JsonObject => Ok(Speech::Json(Style::Compact.write_into(&json!({"type": "object"})))),
            Format::JsonSchema { schema, strict } => {
                // Compiled by itself first: its faults are its own and no tool's.
                self.schema(schema, *strict)?;
                Ok(Speech::Json(Style::Compact.write_into(&schema::prepare(schema, *strict, self.limits)?)))
            }
            Format::Regex(_) | Format::Lark(_) => {
                Err(GrammarError::Invalid("beside tools a format is JSON or plain text".to_owned()))
            }
        }
    }

    /// What a tool's arguments must be, and the bytes of its source. A schema that says more than can be enforced is refused
    /// where it is `strict`; otherwise the arguments are any object, and [`crate::text::signature`] judges what it can.
    fn signature(&self, tool: &Tool) -> Result<(Value, usize), GrammarError> {
        let Some(parameters) = &tool.parameters else {
            return Ok((Style::Spaced.write_into(&json!({"type": "object", "additionalProperties": false})), 0));
        };
        let grammar = |schema: &Value| TopLevelGrammar::from_json_schema(Style::Spaced.write_into(schema));
        let compiled = schema::prepare_signature(parameters, tool.strict, self.limits).and_then(|schema| {
            let checked = self.matcher(grammar(&schema));
            match checked {
                Ok(_) => Ok(schema),
                Err(error) => Err(blame::blame(&schema, error, |candidate| self.matcher(grammar(candidate)).map(drop))),
            }
        });
        let schema = match compiled {
            Ok(schema) => schema,
            Err(GrammarError::Unsupported { keyword, .. }) if !tool.strict => {
                tracing::debug!(tool = tool.name, keyword, "a signature is not enforced");
                json!({"type": "object"})
            }
            Err(error) => return Err(error),
        };
        let size = schema.to_string().len();
        Ok((Style::Spaced.write_into(&schema), size))
    }

    /// Compiles and takes the first step, so that a shape that no text has is found here and not in the middle of an answer.
    /// With it comes how many bytes its automata take.
    fn matcher(&self, grammar: TopLevelGrammar) -> Result<(Matcher, usize), GrammarError> {
        let parser = self.factory.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            Logger::new(0, 0),
            capabilities(),
            parser_limits(),
        );
        let parser = parser.map_err(|error| blame::read_error(&error.to_string()))?;
        // Shares the automata, which the matcher does not let anybody look at.
        let gauge = parser.parser.clone();
        let mut matcher = Matcher::new(Ok(parser));
        // Whatever the automata need for the first token is part of every copy.
        matcher.compute_mask_or_eos().map_err(|error| blame::read_error(&error.to_string()))?;
        let bytes = gauge.lexer_stats().num_bytes;
        at_most("bytes of automata", bytes, self.limits.automata_bytes)?;
        // A required property that holds itself is forced without end, and an object may be too wide for a row.
        let mut trial = matcher.deep_clone();
        trial.consume_ff_tokens();
        let stuck =
            if trial.is_stopped() { None } else { trial.compute_mask_or_eos().err().map(|error| error.to_string()) };
        match trial.get_error().or(stuck) {
            None => Ok((matcher, bytes)),
            Some(error) => Err(blame::read_error(&error)),
        }
    }
}

/// What an answer may hold instead of calls, or around them.
#[derive(Clone, Debug, PartialEq)]
enum Speech {
    None,
    Any,
    /// JSON of this schema, instead of calls.
    Json(Value),
}

/// The grammar of calls. With a token that opens a call and room for any text it is one call without that token: the
/// constraint waits for the token itself and needs no mask until then.
fn calls_grammar(signatures: &[(&str, Value)], marks: Marks, speech: &Speech, parallel: bool) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let open = if marks.open.is_some() { dialect::OPEN.to_owned() } else { quoted(dialect::OPEN) };
    let close = if marks.close.is_some() { dialect::CLOSE.to_owned() } else { quoted(dialect::CLOSE) };
    let more = if parallel { format!(" ({} {open} call)*", quoted(dialect::BETWEEN_CALLS)) } else { String::new() };
    let mut lines = match speech {
        Speech::None => vec![format!("start: {open} call{more}")],
        Speech::Json(schema) => vec![format!("start: {open} call{more} | json"), format!("json: %json {schema}")],
        Speech::Any if marks.open.is_some() => vec!["start: call".to_owned()],
        // Both terminals are regular: any text up to the first mark, and any text without one.
        Speech::Any => vec![
            if parallel { "start: (opened call)* TEXT?" } else { "start: TEXT? | opened call" }.to_owned(),
            format!("opened[suffix={open}]: /(.|\\n)*/"),
            format!("TEXT: ~/(.|\\n)*{}(.|\\n)*/", dialect::OPEN),
        ],
    };
    lines.push(format!("call: {} which {close}", quoted(dialect::BEFORE_NAME)));
    for (number, (name, signature)) in signatures.iter().enumerate() {
        let start = if number == 0 { "which:" } else { "  |" };
        let before = quoted(&format!("{name}{}", dialect::BEFORE_ARGUMENTS));
        lines.push(format!("{start} {before} %json {signature} {}", quoted(dialect::AFTER_ARGUMENTS)));
    }
    lines.push(String::new());
    lines.join("\n")
}
