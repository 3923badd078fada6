//! How large a Lark grammar is when its terminals are written out: a terminal is made of terminals, and twenty lines of
//! `A1: A2 A2` are a million letters. Nothing inside the compiler bounds it, and its stack goes down with them.

use std::collections::HashMap;

use super::lexemes::{Kind, Lexeme};
use super::size::{Size, at_most, size_as_it_stands};
use super::{GrammarError, Limits};

/// Refuses a grammar that would be too large or too deep, in time that is linear in its length.
pub(super) fn check(lexemes: &[Lexeme], limits: &Limits) -> Result<(), GrammarError> {
    // On the safe side: terminals are made of terminals, so all repetitions may multiply.
    let product = repetitions(lexemes);
    at_most("as the product of its repetitions", product, limits.repeats)?;
    let definitions = Definitions::read(lexemes)?;
    at_most("written-out repetitions in expressions", definitions.repeats, limits.repeats)?;
    at_most("characters in expressions, 16 a class", definitions.expressions.weight, limits.weight)?;
    let mut weigher = Weigher { definitions: &definitions, known: HashMap::new(), limits };
    for body in &definitions.bodies {
        let written = weigher.weigh(body, 0)?.bytes.saturating_mul(product);
        at_most("bytes with its terminals written out", written, limits.written_bytes)?;
    }
    let all = weigher.known.values().flatten().fold(0_usize, |all, weight| all.saturating_add(weight.bytes));
    at_most("bytes with all its terminals written out", all.saturating_mul(product), limits.all_written_bytes)
}

/// `A{3}`, `A{3,5}`, `A{,5}`, `A ~ 3`, `A ~ 3..5`
fn repetitions(lexemes: &[Lexeme]) -> usize {
    let mut product = 1_usize;
    for (index, lexeme) in lexemes.iter().enumerate() {
        if lexeme.is("{") || lexeme.is("~") {
            let range = lexemes[index + 1..].iter().take_while(|lexeme| {
                lexeme.kind == Kind::Number || [",", ".", ".."].iter().any(|sign| lexeme.is(sign))
            });
            let most = range.filter(|lexeme| lexeme.kind == Kind::Number).map(|lexeme| count(lexeme.text)).max();
            product = product.saturating_mul(most.unwrap_or(1).max(1));
        }
    }
    product
}

/// The whole number that a number begins with.
fn count(number: &str) -> usize {
    let digits = number.bytes().skip_while(|byte| *byte == b'+').take_while(u8::is_ascii_digit);
    digits.fold(0, |count, digit| count.saturating_mul(10).saturating_add(usize::from(digit - b'0')))
}

/// A name and the grammar that it is a name in: the whole, or a `%lark {…}` inside.
type Name<'g> = (usize, &'g str);

/// What a terminal, a rule or a statement is made of.
#[derive(Default)]
struct Body<'g> {
    bytes: usize,
    terminals: Vec<Name<'g>>,
}

struct Definitions<'g> {
    bodies: Vec<Body<'g>>,
    /// A name that is defined twice is refused by the compiler; here the first counts.
    named: HashMap<Name<'g>, usize>,
    expressions: Size,
    /// What they come to beyond their length.
    repeats: usize,
}

impl<'g> Definitions<'g> {
    fn read(lexemes: &[Lexeme<'g>]) -> Result<Self, GrammarError> {
        let mut read =
            Self { bodies: vec![Body::default()], named: HashMap::new(), expressions: Size::default(), repeats: 0 };
        // Grammars inside grammars that are open, each with the brackets that are open in it.
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut scopes = 0;
        let mut index = 0;
        while let Some(lexeme) = lexemes.get(index) {
            let scope = open.last().map_or(0, |(scope, _)| *scope);
            index += 1;
            match lexeme.kind {
                Kind::Terminal | Kind::Rule => {
                    if let Ok(words) = head(&lexemes[index - 1..]) {
                        read.named.entry((scope, lexeme.text)).or_insert(read.bodies.len());
                        read.bodies.push(Body::default());
                        index += words - 1;
                        continue;
                    }
                }
                Kind::Word if lexeme.text == "%lark" && lexemes.get(index).is_some_and(|next| next.is("{")) => {
                    scopes += 1;
                    open.push((scopes, 0));
                    read.bodies.push(Body::default());
                    index += 1;
                    continue;
                }
                Kind::Word if !["%json", "%regex", "%if"].iter().any(|inside| lexeme.text.starts_with(inside)) => {
                    read.bodies.push(Body::default());
                }
                Kind::Other if lexeme.is("{") => {
                    if let Some((_, brackets)) = open.last_mut() {
                        *brackets += 1;
                    }
                }
                Kind::Other if lexeme.is("}") => match open.last_mut() {
                    Some((_, 0)) => {
                        open.pop();
                        read.bodies.push(Body::default());
                    }
                    Some((_, brackets)) => *brackets -= 1,
                    None => {}
                },
                _ => {}
            }
            let mut bytes = lexeme.text.len();
            if lexeme.kind == Kind::Expression {
                let size = size_of(lexeme.text)?;
                bytes = bytes.max(size.steps);
                read.repeats = read.repeats.saturating_add(size.repeats(lexeme.text));
                read.expressions = read.expressions.and(size);
            }
            if let Some(body) = read.bodies.last_mut() {
                body.bytes = body.bytes.saturating_add(bytes);
                if lexeme.kind == Kind::Terminal {
                    body.terminals.push((scope, lexeme.text));
                }
            }
        }
        Ok(read)
    }
}

/// How many words a definition's head has (`NAME:`, `name.5:`, `name{a, b}:`, `name::_[capture]:`); where there is none, how
/// many were looked at.
fn head(lexemes: &[Lexeme]) -> Result<usize, usize> {
    let is = |at: usize, sign: &str| lexemes.get(at).is_some_and(|lexeme| lexeme.is(sign));
    let skip = |from: usize, is_inside: &dyn Fn(&Lexeme) -> bool| {
        from + lexemes.iter().skip(from).take_while(|lexeme| is_inside(lexeme)).count()
    };
    let mut at = 1;
    if is(at, "::") {
        at += 2;
    }
    if is(at, "{") {
        at = skip(at + 1, &|lexeme| matches!(lexeme.kind, Kind::Terminal | Kind::Rule) || lexeme.is(",")) + 1;
    }
    if is(at, ".") {
        at += 2;
    }
    if is(at, "[") {
        let ends = |lexeme: &Lexeme| lexeme.kind == Kind::Newline || ["[", "]", ":"].iter().any(|sign| lexeme.is(sign));
        at = skip(at + 1, &|lexeme| !ends(lexeme)) + 1;
    }
    if is(at, ":") { Ok(at + 1) } else { Err(at + 1) }
}

fn size_of(expression: &str) -> Result<Size, GrammarError> {
    let Some((written, flags)) = expression.strip_prefix('/').and_then(|rest| rest.rsplit_once('/')) else {
        // It has no end, which the compiler says better.
        return Ok(Size::default());
    };
    let size =
        if flags.is_empty() { size_as_it_stands(written) } else { size_as_it_stands(&format!("(?{flags}){written}")) };
    size.map_err(GrammarError::Invalid)
}

#[derive(Clone, Copy)]
struct Weight {
    bytes: usize,
    /// Terminals in terminals in it.
    levels: usize,
}

struct Weigher<'d, 'g> {
    definitions: &'d Definitions<'g>,
    /// `None`: on the way to it, so that it is inside itself.
    known: HashMap<Name<'g>, Option<Weight>>,
    limits: &'d Limits,
}

impl<'g> Weigher<'_, 'g> {
    /// `above`: how many terminals it is inside of.
    fn weigh(&mut self, body: &Body<'g>, above: usize) -> Result<Weight, GrammarError> {
        let mut weight = Weight { bytes: body.bytes, levels: 0 };
        for name in &body.terminals {
            let inner = self.weigh_named(*name, above + 1)?;
            weight.bytes = weight.bytes.saturating_add(inner.bytes);
            weight.levels = weight.levels.max(inner.levels + 1);
        }
        Ok(weight)
    }

    fn weigh_named(&mut self, name: Name<'g>, above: usize) -> Result<Weight, GrammarError> {
        let definitions = self.definitions;
        let Some(index) = definitions.named.get(&name) else {
            // The compiler refuses it, or it is imported and small.
            return Ok(Weight { bytes: 0, levels: 0 });
        };
        let levels = "levels of terminals inside terminals";
        let weight = match self.known.get(&name) {
            Some(Some(weight)) => *weight,
            Some(None) => return Err(GrammarError::Invalid(format!("the terminal `{}` is inside itself", name.1))),
            None => {
                // We go down with them, too.
                at_most(levels, above, self.limits.levels)?;
                self.known.insert(name, None);
                let weight = self.weigh(&definitions.bodies[*index], above)?;
                self.known.insert(name, Some(weight));
                weight
            }
        };
        at_most(levels, above + weight.levels, self.limits.levels)?;
        Ok(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexemes::lexemes;
    use super::*;

    fn verdict(grammar: &str) -> Result<(), GrammarError> {
        check(&lexemes(grammar), &Limits::default())
    }

    /// Bytes of the largest part.
    fn written(grammar: &str) -> usize {
        let definitions = Definitions::read(&lexemes(grammar)).unwrap();
        let limits = Limits::default();
        let mut weigher = Weigher { definitions: &definitions, known: HashMap::new(), limits: &limits };
        definitions.bodies.iter().map(|body| weigher.weigh(body, 0).unwrap().bytes).max().unwrap()
    }

    fn doubling(levels: usize) -> String {
        let lines: Vec<String> =
            (0..levels).map(|level| format!("A{level}: A{} A{}\n", level + 1, level + 1)).collect();
        format!("start: A0\n{}A{levels}: \"a\"\n", lines.concat())
    }

    #[test]
    fn terminals_count_as_often_as_they_are_written_out_wherever_they_stand() {
        assert_eq!(written("start: \"a\" | B\nB: /x{30}/\n"), 37);
        assert!((1 << 10..1 << 16).contains(&written(&doubling(10))));
        let deep = doubling(60);
        assert!(written(&deep) > 1 << 60);
        for (how, grammar) in [
            ("indented", deep.replace('\n', "\n  ")),
            ("behind an expression", deep.replace(": ", ": /\"/ ").replace('A', "_A")),
            ("behind flags", deep.replace(": ", ": \"x\"i").replace(" A", "/x/iA")),
            ("behind a number", deep.replace(": ", ": \"\" ~2")),
            ("with a priority", deep.replace(": ", ".5: ")),
            ("on the next line", deep.replace(": ", ":\n | ")),
            ("in one line", deep.replace('\n', " -> x ")),
            ("in a grammar inside", format!("start: %lark {{ {deep} }}\nA40: \"b\"")),
        ] {
            assert!(written(&grammar) > 1 << 60, "{how}: {grammar}");
        }
        let large = doubling(10);
        let ignored = format!("{large}%ignore {}", "A0 ".repeat(100));
        assert!(written(&ignored) > 99 * written(&large), "without a name");
    }

    #[test]
    fn what_the_compiler_does_not_write_out_does_not_count() {
        assert!(written(&doubling(60).replace('A', "a")) < 1 << 11);
        let keys: Vec<String> = (0..40).map(|key| format!("\"Key{key}\": {{\"K{key}\": {{}}}}, ")).collect();
        let keys = keys.concat();
        for grammar in [
            "start: ON | OFF // ON: OFF OFF\nON: \"ON\" | \"OFF\"\nOFF: \"OFF: \" | \"ON: \" # ON\n%ignore ON\n"
                .to_owned(),
            "start: A %lark {\nstart: B\nB: A\nA: \"x\"\n} A\nA: B\nB: \"x\"\n".to_owned(),
            format!("start: %json {{\"properties\": {{{keys}\"on\": {{}}}}}}\n"),
            String::new(),
        ] {
            assert_eq!(verdict(&grammar), Ok(()), "{grammar}");
        }
    }

    #[test]
    fn each_bound_is_named_with_its_number() {
        let chain = |levels: usize| -> String {
            let lines: Vec<String> = (0..levels).map(|level| format!("A{level}: A{}\n", level + 1)).collect();
            // The longest way comes last, when most of it is known.
            format!("{}A{levels}: \"a\"\nstart: {}A0\n", lines.concat(), "A3 A2 A1 ")
        };
        let limits = Limits::default();
        assert_eq!(verdict(&chain(limits.levels - 1)), Ok(()));
        for (grammar, words) in [
            (chain(limits.levels), "it has 201 levels of terminals inside terminals, limit 200"),
            ("start: A\nA: \"a\" B\nB: A".to_owned(), "it does not compile: the terminal `A` is inside itself"),
            (
                "start: a ~ 30..40 b~\t20 c{,6} d{\t+2,}".to_owned(),
                "it has 9600 as the product of its repetitions, limit 5000",
            ),
            (
                "start: /a{\n3000}/ /(?x)b{ 3000 }/".to_owned(),
                "it has 5976 written-out repetitions in expressions, limit 5000",
            ),
            ("start: /a{ 6000 }/x".to_owned(), "it has 5989 written-out repetitions in expressions, limit 5000"),
            (
                "start: A{40}\nA: /a{4000}/".to_owned(),
                "it has 160240 bytes with its terminals written out, limit 131072",
            ),
            (
                format!("start: /{}/", "\\w".repeat(4_097)),
                "it has 65552 characters in expressions, 16 a class, limit 65536",
            ),
            ("start: /(/".to_owned(), "it does not compile: unclosed group"),
        ] {
            assert_eq!(verdict(&grammar).unwrap_err().to_string(), words, "{grammar}");
        }
        assert_eq!(verdict("start: A{3}\nA: B{2,5} C{,0}\nB: /c{7}/ \"{9999}\" // d{9999}"), Ok(()));
    }

    /// Every name of such a line looks like the beginning of something as long as the rest of it.
    #[test]
    fn a_line_of_names_is_looked_at_once() {
        for name in ["A ", "a ", "A: ", "a: ", "A{", "a[", "A{B", "A ~", "a::"] {
            let grammar = format!("{}: \"a\"", name.repeat((64 << 10) / name.len()));
            let lexemes = lexemes(&grammar);
            let looks: usize = (0..lexemes.len())
                .map(|index| match head(&lexemes[index..]) {
                    Ok(words) | Err(words) => words,
                })
                .sum();
            assert!(looks <= 5 * lexemes.len(), "{name}: {looks} looks at {} words", lexemes.len());
            let definitions = Definitions::read(&lexemes).unwrap();
            let parts: usize = definitions.bodies.iter().map(|body| body.terminals.len()).sum();
            assert!(parts <= lexemes.len(), "{name}: {parts} parts");
        }
    }
}
