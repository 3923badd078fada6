//! Small requests that would cost much: each is refused before it does, or compiled within its bounds.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::vocabulary;
use crate::text::grammar::{GrammarError, Limits, Shape};

/// Far longer than any of them takes, and far shorter than what they are bombs for.
const HANGING: Duration = Duration::from_mins(2);

fn named(count: usize, schema: impl Fn(usize) -> Value) -> Map<String, Value> {
    (0..count).map(|number| (format!("p{number}"), schema(number))).collect()
}

fn listed(count: usize, schema: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..count).map(schema).collect()
}

/// `levels` definitions, each made of the one below; the lowest is `end`.
fn chain(levels: usize, end: Value, level: impl Fn(Value) -> Value) -> Value {
    let mut definitions = named(levels, |number| level(json!({"$ref": format!("#/$defs/p{}", number + 1)})));
    definitions.insert(format!("p{levels}"), end);
    json!({"$ref": "#/$defs/p0", "$defs": definitions})
}

/// Compiles each on one thread after the other; a refusal says these words, and nothing is said of what is compiled.
fn defuse(bombs: Vec<(&'static str, &'static str, Bomb)>) {
    let (told, verdicts) = std::sync::mpsc::sync_channel(1);
    let names: Vec<_> = bombs.iter().map(|(name, words, _)| (*name, *words)).collect();
    std::thread::spawn(move || {
        let (vocabulary, limits) = (vocabulary(), Limits::default());
        for (_, _, bomb) in bombs {
            let shape = match &bomb {
                Bomb::Schema(schema) => Shape::JsonSchema { schema, strict: false },
                Bomb::Regex(expression) => Shape::Regex(expression),
                Bomb::Lark(grammar) => Shape::Lark(grammar),
            };
            let verdict = vocabulary.compile(&shape, &limits).and_then(|mut constraint| constraint.mask().map(|_| ()));
            if told.send(verdict).is_err() {
                return;
            }
        }
    });
    for (name, words) in names {
        match verdicts.recv_timeout(HANGING).unwrap_or_else(|error| panic!("{name}: {error}")) {
            Ok(()) => assert_eq!(words, "", "{name} was compiled"),
            Err(error @ (GrammarError::Stopped(_) | GrammarError::Machine(_))) => panic!("{name}: {error}"),
            Err(error) => {
                let said = error.to_string();
                assert!(!words.is_empty() && said.contains(words) && said.len() < 600, "{name}: {said}");
            }
        }
    }
}

enum Bomb {
    Schema(Value),
    Regex(String),
    Lark(String),
}

#[test]
fn schemas_that_are_deep_or_go_round_are_defused() {
    let mut deep = json!({"type": "null"});
    for _ in 0..400 {
        deep = json!({"type": "array", "items": deep});
    }
    let twice = |schema: Value| json!({"type": "object", "properties": {"a": schema, "b": schema}, "required": ["a", "b"], "additionalProperties": false});
    let all = |schema: Value| json!({"allOf": [schema, schema]});
    let any = |schema: Value| json!({"anyOf": [schema, {"type": "array", "items": schema}]});
    defuse(vec![
        ("deep", "levels of nesting, limit 32", Bomb::Schema(deep)),
        ("a long chain of references", "501 `$ref`s, limit 500", Bomb::Schema(chain(501, json!({}), |schema| schema))),
        ("a chain within the limit", "", Bomb::Schema(chain(499, json!({"type": "null"}), |schema| schema))),
        (
            "a circle of references",
            "`$ref`",
            Bomb::Schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})),
        ),
        ("2^30 values that must come", "`$ref`", Bomb::Schema(chain(30, json!({"const": 1}), twice))),
        ("2^24 parts of one", "", Bomb::Schema(chain(24, json!({"type": "object"}), all))),
        ("2^30 alternatives", "", Bomb::Schema(chain(30, json!({"type": "null"}), any))),
        (
            "lists of lists of lists",
            "",
            Bomb::Schema(json!({"type": "array", "minItems": 10_000, "items":
            {"type": "array", "minItems": 10_000, "items": {"type": "array", "minItems": 10_000}}})),
        ),
        (
            "a name as long as the schema, said at every place",
            "bound is at most 9e18",
            Bomb::Schema(json!({"properties":
            {"x".repeat(30_000): {"anyOf": listed(1_200, |_| json!({"minimum": 1e300}))}}})),
        ),
        (
            "all that can be wrong below a long name",
            "Expected f64",
            Bomb::Schema(json!({"properties":
            {"x".repeat(30_000): {"anyOf": listed(1_200, |_| json!({"minimum": "x"}))}}})),
        ),
    ]);
}

#[test]
fn schemas_that_are_wide_or_long_are_defused() {
    let object = |number: usize| json!({"type": "object", "properties": {format!("p{number}"): {"type": "integer"}}});
    let either = |number: usize| json!({"anyOf": [object(number), object(number + 1_000)]});
    let list: Vec<usize> = (0..6_000).collect();
    defuse(vec![
        (
            "1,001 properties",
            "1001 properties, limit 1000",
            Bomb::Schema(json!({"properties": named(1_001, |_| json!({}))})),
        ),
        (
            "1,000 properties",
            "",
            Bomb::Schema(json!({"type": "object", "properties": named(1_000, |_| json!({"type": "string"}))})),
        ),
        (
            "as many texts of as many lengths",
            "",
            Bomb::Schema(json!({"type": "object", "properties":
            named(1_000, |number| json!({"type": "string", "maxLength": 10_000 - number}))})),
        ),
        (
            "patterns for names",
            "33 `patternProperties`, limit 32",
            Bomb::Schema(json!({"type": "object",
            "patternProperties": named(33, |_| json!({}))})),
        ),
        (
            "patterns beside names",
            "",
            Bomb::Schema(json!({"type": "object", "properties": named(900, |_| json!({"type": "null"})),
            "patternProperties": (0..32).map(|number| (format!("^q{number}_"), json!({"type": "null"}))).collect::<Map<_, _>>()})),
        ),
        (
            "5,001 values",
            "5001 values and alternatives, limit 5000",
            Bomb::Schema(json!({"enum": listed(5_001, |number| json!(number))})),
        ),
        ("5,000 values", "", Bomb::Schema(json!({"enum": listed(5_000, |number| json!(format!("s{number}")))}))),
        (
            "100,000 values",
            "bytes of schema, limit 65536",
            Bomb::Schema(json!({"enum": listed(100_000, |number| json!(number))})),
        ),
        ("a long text", "", Bomb::Schema(json!({"const": "x".repeat(65_000)}))),
        ("a longer text", "65556 bytes of schema, limit 65536", Bomb::Schema(json!({"const": "x".repeat(65_544)}))),
        ("a long list", "", Bomb::Schema(json!({"const": list}))),
        ("1,000 kinds of object", "items; max is 5000", Bomb::Schema(json!({"anyOf": listed(1_000, object)}))),
        ("2^18 combinations", "schema too large", Bomb::Schema(json!({"allOf": listed(18, either)}))),
        (
            "a million remainders",
            "1000003 as the digits",
            Bomb::Schema(json!({"type": "integer", "multipleOf": 1_000_003})),
        ),
        (
            "a million remainders of two",
            "least common multiple",
            Bomb::Schema(json!({"allOf": [{"multipleOf": 1_009}, {"multipleOf": 997}]})),
        ),
        ("ten thousand remainders", "", Bomb::Schema(json!({"type": "number", "multipleOf": 9_973}))),
    ]);
}

#[test]
fn expressions_and_grammars_that_grow_are_defused() {
    let terminals: Vec<String> =
        (0..120).map(|number| format!("T{number}: {}\"{number}\"\n", "B ".repeat(120))).collect();
    let rules: Vec<String> = (0..120).map(|number| format!("r{number}: T{number}\n")).collect();
    let any: Vec<String> = (0..120).map(|number| format!("r{number}")).collect();
    let base = "ab".repeat(500);
    let many = format!("start: {}\n{}{}B: \"{base}\"\n", any.join(" | "), rules.concat(), terminals.concat());
    let levels: Vec<String> = (0..5_000).map(|number| format!("A{number}:A{}\n", number + 1)).collect();
    let below = "levels of terminals inside terminals, limit 200";
    defuse(vec![
        (
            "repeated repetitions",
            "999985 written-out repetitions, limit 5000",
            Bomb::Regex("(a{1000}){1000}".to_owned()),
        ),
        ("classes", "524272 characters, 16 a class, limit 65536", Bomb::Regex("\\w".repeat(32_767))),
        ("fewer classes", "", Bomb::Regex("\\w".repeat(4_000))),
        (
            "alternatives",
            "",
            Bomb::Regex(
                listed(9_000, |number| json!(number)).iter().map(Value::to_string).collect::<Vec<_>>().join("|"),
            ),
        ),
        ("a set of states for each of its past", "", Bomb::Regex("(a|b)*a(a|b){400}".to_owned())),
        ("large terminals, one a rule", "with all its terminals written out", Bomb::Lark(many)),
        ("terminals in terminals", below, Bomb::Lark(format!("start: A0\n{}A5000: \"a\"\n", levels.concat()))),
        ("a repeated rule", "", Bomb::Lark("start: a ~ 5000\na: \"a\" | \"b\"\n".to_owned())),
        ("many ways to say it", "", Bomb::Lark("start: s\ns: s s | s s s | \"a\" | \"\"\n".to_owned())),
        (
            "conditions that must hold together",
            "fuel",
            Bomb::Lark("start: A\nA: /.*a.{100}/ & /.*b.{101}/ & /.*c.{102}/\n".to_owned()),
        ),
    ]);
}
