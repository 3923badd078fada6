//! How large a Lark grammar is when its terminals are written out: a terminal is made of terminals, and twenty lines of
//! `A1: A2 A2` are a million letters. Nothing inside the compiler bounds it.
//!
//! Not a parser: it errs on the large side. Names count wherever they stand, in comments and texts too.

use std::collections::HashMap;

/// Bytes of the largest terminal or rule with the terminals in it written out, repetitions left aside.
pub(super) fn written_out(grammar: &str) -> usize {
    let mut bodies: HashMap<&str, Vec<&str>> = HashMap::new();
    for body in definitions(grammar) {
        for (name, end) in names(body) {
            // What follows a name and is followed by a colon is a definition, wherever it stands.
            if body[end..].lines().next().is_some_and(|rest| rest.contains(':')) {
                bodies.entry(name).or_default().push(&body[end..]);
            }
        }
    }
    let mut sizes = HashMap::new();
    bodies.keys().map(|name| size_of(name, &bodies, &mut sizes)).max().unwrap_or(0)
}

/// The pieces that start where a line starts with a name and holds a colon.
fn definitions(grammar: &str) -> Vec<&str> {
    let mut starts = Vec::new();
    let mut place = 0;
    for line in grammar.split_inclusive('\n') {
        let first = line.trim_start().bytes().next().unwrap_or(b'|');
        if line.contains(':') && (first.is_ascii_alphabetic() || matches!(first, b'_' | b'!' | b'?')) {
            starts.push(place);
        }
        place += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([grammar.len()]);
    starts.iter().zip(ends).map(|(start, end)| &grammar[*start..end]).collect()
}

/// The names in a piece, each with where it ends.
fn names(piece: &str) -> impl Iterator<Item = (&str, usize)> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let bytes = piece.as_bytes();
    let mut place = 0;
    std::iter::from_fn(move || {
        let start = place + bytes[place..].iter().position(|byte| is_part(*byte))?;
        let end = start + bytes[start..].iter().position(|byte| !is_part(*byte)).unwrap_or(bytes.len() - start);
        place = end;
        Some((&piece[start..end], end))
    })
}

fn size_of<'g>(name: &'g str, bodies: &HashMap<&'g str, Vec<&'g str>>, sizes: &mut HashMap<&'g str, usize>) -> usize {
    if let Some(size) = sizes.get(name) {
        return *size;
    }
    // A terminal inside itself is the compiler's to refuse.
    sizes.insert(name, name.len());
    let mut size = 0_usize;
    for body in bodies.get(name).into_iter().flatten() {
        size = size.saturating_add(body.len());
        for (inner, _) in names(body) {
            let is_terminal = inner.bytes().find(|byte| *byte != b'_').is_some_and(|byte| byte.is_ascii_uppercase());
            if is_terminal && inner != name && bodies.contains_key(inner) {
                size = size.saturating_add(size_of(inner, bodies, sizes));
            }
        }
    }
    sizes.insert(name, size);
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubling(levels: usize) -> String {
        let lines: Vec<String> =
            (0..levels).map(|level| format!("A{level}: A{} A{}\n", level + 1, level + 1)).collect();
        format!("start: A0\n{}A{levels}: \"a\"\n", lines.concat())
    }

    #[test]
    fn terminals_count_as_often_as_they_are_written_out() {
        assert!(written_out("start: \"a\" | B\nB: /x{3}/\n") < 40);
        assert!((1 << 10..1 << 16).contains(&written_out(&doubling(10))));
        assert!(written_out(&doubling(60)) > 1 << 60);
        assert!(written_out(&doubling(60).replace('\n', "\n  ")) > 1 << 60, "indented");
        assert!(written_out(&doubling(60).replace(": ", ": /\"/ ").replace('A', "_A")) > 1 << 60, "behind a quote");
        assert!(written_out(&doubling(60).replace(": ", ".5: ")) > 1 << 60, "with a priority");
        assert!(written_out(&doubling(60).replace(": ", ":\n | ")) > 1 << 60, "on the next line");
    }

    #[test]
    fn rules_are_not_written_out_and_circles_end() {
        assert!(written_out(&doubling(60).replace('A', "a")) < 1 << 11);
        assert!(written_out("start: A\nA: B\nB: A\n") < 100);
        assert_eq!(written_out(""), 0);
    }
}
