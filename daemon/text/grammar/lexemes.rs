//! The words of a Lark grammar, cut where the compiler's own lexer cuts them.
//!
//! What the compiler would fail at is cut in any way: it is refused there. Everything else must be cut as the compiler does it,
//! or a terminal is overlooked that it will write out.

use serde::de::IgnoredAny;

/// One word. White space and comments are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lexeme<'g> {
    pub(super) kind: Kind,
    pub(super) text: &'g str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `NAME`
    Terminal,
    /// `name`
    Rule,
    Number,
    /// `/…/flags`
    Expression,
    /// `%word`, for `%json` and its like together with the JSON behind it.
    Word,
    Newline,
    /// Texts, special tokens, references to other grammars, signs.
    Other,
}

impl Lexeme<'_> {
    pub(super) fn is(&self, sign: &str) -> bool {
        self.kind == Kind::Other && self.text == sign
    }
}

/// All words in order. Linear in the grammar's length.
pub(super) fn lexemes(grammar: &str) -> Vec<Lexeme<'_>> {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(first) = grammar[start..].chars().next() {
        let rest = &grammar[start..];
        let (kind, length) = match first {
            ' ' | '\t' => (None, 1),
            '#' => (None, line(rest)),
            '/' if rest.starts_with("//") => (None, line(rest)),
            '/' => (Some(Kind::Expression), expression(rest)),
            '"' => (Some(Kind::Other), text(rest)),
            '\n' => (Some(Kind::Newline), 1),
            '%' => (Some(Kind::Word), word(rest)),
            '<' => (Some(Kind::Other), special(rest)),
            '@' => (Some(Kind::Other), 1 + span(&rest[1..], |byte| byte.is_ascii_alphanumeric() || is_joint(byte))),
            '0'..='9' => (Some(Kind::Number), number(rest)),
            '+' | '-' if rest[1..].starts_with(|next: char| next.is_ascii_digit()) => {
                (Some(Kind::Number), 1 + number(&rest[1..]))
            }
            _ => {
                name(rest).map_or_else(|| (Some(Kind::Other), sign(rest, first)), |(kind, length)| (Some(kind), length))
            }
        };
        if let Some(kind) = kind {
            found.push(Lexeme { kind, text: &rest[..length] });
        }
        start += length;
    }
    found
}

fn is_joint(byte: u8) -> bool {
    matches!(byte, b'_' | b'-')
}

/// How many bytes at the start are such bytes.
fn span(rest: &str, is_such: impl Fn(u8) -> bool) -> usize {
    rest.bytes().take_while(|byte| is_such(*byte)).count()
}

fn line(rest: &str) -> usize {
    rest.find('\n').unwrap_or(rest.len())
}

/// Up to the first such character that no backslash stands before, and including it.
fn until(rest: &str, end: u8) -> usize {
    let mut bytes = rest.bytes().enumerate().skip(1);
    while let Some((index, byte)) = bytes.next() {
        if byte == b'\\' {
            bytes.next();
        } else if byte == end {
            return index + 1;
        }
    }
    rest.len()
}

fn text(rest: &str) -> usize {
    let end = until(rest, b'"');
    end + usize::from(rest[end..].starts_with('i'))
}

fn expression(rest: &str) -> usize {
    let end = until(rest, b'/');
    end + span(&rest[end..], |byte| b"imslux".contains(&byte))
}

fn special(rest: &str) -> usize {
    let end = rest[1..].find(|next: char| matches!(next, '<' | '>') || next.is_whitespace());
    end.map_or(rest.len(), |end| 1 + end + usize::from(rest[1 + end..].starts_with('>')))
}

/// Without a sign before it.
fn number(rest: &str) -> usize {
    let digits = |from: usize| span(&rest[from..], |byte| byte.is_ascii_digit());
    let mut end = digits(0);
    if rest[end..].starts_with('.') {
        end += 1;
        end += digits(end);
    }
    if rest[end..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
        let power = digits(end + 1 + sign);
        end += if power > 0 { 1 + sign + power } else { 0 };
    }
    end
}

fn word(rest: &str) -> usize {
    const WITH_JSON: [&str; 3] = ["%json", "%regex", "%llguidance"];
    const PLAIN: [&str; 6] = ["%ignore", "%import", "%override", "%declare", "%lark", "%if"];
    if let Some(word) = PLAIN.iter().find(|word| rest.starts_with(**word)) {
        return word.len();
    }
    let Some(word) = WITH_JSON.iter().find(|word| rest.starts_with(**word)) else { return 1 };
    let mut values = serde_json::Deserializer::from_str(&rest[word.len()..]).into_iter::<IgnoredAny>();
    let whole = values.next().is_some_and(|value| value.is_ok());
    word.len() + if whole { values.byte_offset() } else { 0 }
}

fn name(rest: &str) -> Option<(Kind, usize)> {
    let under = usize::from(rest.starts_with('_'));
    let first = *rest.as_bytes().get(under)?;
    let (kind, is_part): (Kind, fn(u8) -> bool) = if first.is_ascii_uppercase() {
        (Kind::Terminal, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || is_joint(byte))
    } else if first.is_ascii_lowercase() {
        (Kind::Rule, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || is_joint(byte))
    } else {
        return None;
    };
    Some((kind, under + span(&rest[under..], is_part)))
}

fn sign(rest: &str, first: char) -> usize {
    if ["::", "..", "->"].iter().any(|sign| rest.starts_with(sign)) { 2 } else { first.len_utf8() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_is_cut_where_the_compiler_cuts_it() {
        use Kind::{Expression, Newline, Number, Other, Rule, Terminal, Word};
        for (grammar, words) in [
            ("A: b", vec![(Terminal, "A"), (Other, ":"), (Rule, "b")]),
            ("_A-1b_c !?x", vec![(Terminal, "_A-1"), (Rule, "b_c"), (Other, "!"), (Other, "?"), (Rule, "x")]),
            (r#""a\"B"iA"#, vec![(Other, r#""a\"B"i"#), (Terminal, "A")]),
            (r#"/"\//imA"#, vec![(Expression, r#"/"\//im"#), (Terminal, "A")]),
            ("A // B\n# C", vec![(Terminal, "A"), (Newline, "\n")]),
            ("A.-5:", vec![(Terminal, "A"), (Other, "."), (Number, "-5"), (Other, ":")]),
            (
                "~2A\t3..4",
                vec![(Other, "~"), (Number, "2"), (Terminal, "A"), (Number, "3."), (Other, "."), (Number, "4")],
            ),
            ("1e5A 1eA", vec![(Number, "1e5"), (Terminal, "A"), (Number, "1"), (Rule, "e"), (Terminal, "A")]),
            ("<\"A\">B<C D", vec![(Other, "<\"A\">"), (Terminal, "B"), (Other, "<C"), (Terminal, "D")]),
            ("@x-B C", vec![(Other, "@x-B"), (Terminal, "C")]),
            ("a::_ -> é", vec![(Rule, "a"), (Other, "::"), (Other, "_"), (Other, "->"), (Other, "é")]),
            ("%json {\"A: \": [1]}B", vec![(Word, "%json {\"A: \": [1]}"), (Terminal, "B")]),
            ("%ignoreA %json]", vec![(Word, "%ignore"), (Terminal, "A"), (Word, "%json"), (Other, "]")]),
            ("\"A", vec![(Other, "\"A")]),
            ("/A\\", vec![(Expression, "/A\\")]),
            ("<A", vec![(Other, "<A")]),
        ] {
            let found: Vec<_> = lexemes(grammar).into_iter().map(|lexeme| (lexeme.kind, lexeme.text)).collect();
            assert_eq!(found, words, "{grammar}");
        }
    }
}
