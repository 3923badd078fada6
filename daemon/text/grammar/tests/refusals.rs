//! What cannot be had is refused by keyword, limit and number, before it costs anything.

use serde_json::{Map, Value, json};

use super::{compile, tool, vocabulary};
use crate::job::{Format, ToolChoice};
use crate::text::grammar::{GrammarError, Limits, Shape};

fn refusal(schema: &Value) -> GrammarError {
    match compile(&Shape::JsonSchema { schema, strict: false }) {
        Err(error) => error,
        Ok(_) => panic!("{schema} was accepted"),
    }
}

fn named(count: usize, schema: impl Fn(usize) -> Value) -> Map<String, Value> {
    (0..count).map(|number| (format!("p{number}"), schema(number))).collect()
}

#[test]
fn an_unsupported_keyword_is_named_with_its_place() {
    let inside = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
    for (schema, keyword, at) in [
        (inside(json!({"not": {}})), "not", "#/properties/a"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems", "#"),
        (json!({"if": {}, "then": {}}), "if", "#"),
        (json!({"x-guidance": {"lenient": true}}), "x-guidance", "#"),
        (inside(json!({"type": "string", "format": "hexagon"})), "format", "#/properties/a"),
        (inside(json!({"type": "string", "pattern": "(?=x)y"})), "pattern", "#/properties/a"),
        (inside(json!({"type": "string", "pattern": "["})), "pattern", "#/properties/a"),
        (inside(json!({"type": "string", "pattern": r"\bx\b"})), "pattern", "#/properties/a"),
        (json!({"oneOf": [{"type": "object"}, {"type": "object", "properties": {"a": {}}}]}), "oneOf", "#"),
        (inside(json!({"$ref": "https://example.com/schema"})), "$ref", "#/properties/a"),
        (json!({"$ref": "#/$defs/none"}), "$ref", "#"),
        (json!({"type": "hexagon"}), "type", "#"),
        (json!({"type": "integer", "minimum": -9e300}), "minimum", "#"),
        (
            json!({"type": "object", "properties": {"ü/~": {"minimum": "ü".repeat(200)}}}),
            "minimum",
            "#/properties/ü~1~0",
        ),
        (
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"],
            "additionalProperties": false}}}),
            "$ref",
            "#/$defs/a/properties/x",
        ),
    ] {
        let error = refusal(&schema);
        let GrammarError::Unsupported { keyword: found, at: place, .. } = &error else { panic!("{schema}: {error}") };
        assert_eq!((found.as_str(), place.as_str()), (keyword, at), "{error}");
        assert!(!error.to_string().contains("backtrace") && error.to_string().len() < 600, "{error}");
    }
}

#[test]
fn a_schema_that_nothing_fits_names_what_is_to_blame() {
    for (schema, keyword, at) in [
        (json!({"type": "array", "minItems": 3, "maxItems": 2}), "minItems", "#"),
        (json!({"allOf": [{"type": "string"}, {"type": "integer"}]}), "allOf", "#"),
        (json!({"type": "object", "required": ["x"], "additionalProperties": false}), "required", "#"),
        (json!({"enum": []}), "enum", "#"),
        (json!({"type": "string", "pattern": "^a$", "minLength": 3}), "pattern", "#"),
        (
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            "$ref",
            "#/$defs/a",
        ),
        (json!({"$ref": "#"}), "$ref", "#"),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"]}),
            "minimum",
            "#/properties/a",
        ),
    ] {
        let error = refusal(&schema);
        let GrammarError::Unsatisfiable { keyword: found, at: place, .. } = &error else { panic!("{schema}: {error}") };
        assert_eq!((found.as_str(), place.as_str()), (keyword, at), "{error}");
    }
}

#[test]
fn each_limit_is_named_with_the_number_that_broke_it() {
    let limits = Limits::default();
    let mut deep = json!({"type": "null"});
    for _ in 0..=limits.nesting {
        deep = json!({"items": deep});
    }
    let chain = named(limits.references, |number| json!({"$ref": format!("#/$defs/p{}", number + 1)}));
    let values: Vec<usize> = (0..100_000).collect();
    let few: Vec<usize> = (0..=limits.values).collect();
    let text = json!({"description": "x".repeat(limits.source_bytes)});
    for (schema, what, found, limit) in [
        (text, "bytes of schema", limits.source_bytes + 18, limits.source_bytes),
        (json!({"enum": values}), "bytes of schema", 588_900, limits.source_bytes),
        (json!({"enum": few}), "values and alternatives", limits.values + 1, limits.values),
        (deep, "levels of nesting", limits.nesting + 1, limits.nesting),
        (
            json!({"properties": named(limits.properties + 1, |_| json!({}))}),
            "properties",
            limits.properties + 1,
            limits.properties,
        ),
        (json!({"$ref": "#/$defs/p0", "$defs": chain}), "`$ref`s", limits.references + 1, limits.references),
        (json!({"type": "string", "minLength": 1_000_000_000}), "in one count", 1_000_000_000, limits.count),
        (json!({"type": "array", "maxItems": 1e30}), "in one count", usize::MAX, limits.count),
        (
            json!({"type": "string", "pattern": "(a{1000}){1000}"}),
            "written-out repetitions in patterns",
            999_985,
            limits.repeats,
        ),
        (
            json!({"properties": named(6, |_| json!({"type": "string", "pattern": "a{1000}"}))}),
            "written-out repetitions in patterns",
            6 * 993,
            limits.repeats,
        ),
        (
            json!({"type": "string", "pattern": "(".repeat(limits.brackets + 1)}),
            "opening brackets",
            limits.brackets + 1,
            limits.brackets,
        ),
    ] {
        assert_eq!(refusal(&schema), GrammarError::TooLarge { what, found, limit });
    }
    let error = GrammarError::TooLarge { what: "properties", found: 7, limit: 5 };
    assert_eq!(error.to_string(), "it has 7 properties, limit 5");
}

/// Within every limit, as large as each lets it be: it compiles or says why, and the stack holds.
#[test]
fn what_the_limits_let_through_is_compiled_or_refused_but_never_breaks_the_process() {
    let limits = Limits::default();
    let mut deep = json!({"type": "null"});
    for _ in 0..limits.nesting - 2 {
        deep = json!({"type": "object", "properties": {"x": deep}, "required": ["x"]});
    }
    let mut chain = named(
        limits.references - 1,
        |number| json!({"type": "object", "properties": {"x": {"$ref": format!("#/$defs/p{}", number + 1)}}}),
    );
    chain.insert(format!("p{}", limits.references - 1), deep.clone());
    for schema in [
        deep,
        json!({"$ref": "#/$defs/p0", "$defs": chain}),
        json!({"enum": (0..limits.values).map(|number| format!("s{number}")).collect::<Vec<_>>()}),
        json!({"type": "object", "properties": named(limits.properties, |_| json!({"type": "null"}))}),
        json!({"type": "array", "items": {"type": "object"}, "minItems": limits.count}),
        json!({"type": "string", "pattern": format!("^(ab{{100}}){{{}}}$", limits.repeats / 110)}),
    ] {
        let mut constraint = compile(&Shape::JsonSchema { schema: &schema, strict: false }).unwrap();
        for _ in 0..20 {
            let token = constraint.mask().unwrap().tokens().last().unwrap();
            constraint.accept(token).unwrap();
        }
    }
    let rules: Vec<String> = (0..3_000).map(|number| format!("R{number}: R{}\n", number + 1)).collect();
    let rules = rules.concat();
    for grammar in [
        format!("start: R0\n{}R199: \"a\"\n", &rules[..rules.find("R199:").unwrap()]),
        format!("start: R0\n{rules}R3000: \"a\"\n").replace('R', "r"),
        format!("start: {}\"a\"{}", "(".repeat(limits.brackets), ")".repeat(limits.brackets)),
        format!("start: A\nA: {}\"a\"", "~".repeat(20_000)),
    ] {
        let compiled = compile(&Shape::Lark(&grammar));
        assert!(matches!(compiled, Ok(_) | Err(GrammarError::Invalid(_))), "{compiled:?}");
    }
    let nested = format!("{}a{}", "(".repeat(limits.brackets), ")".repeat(limits.brackets));
    assert!(matches!(compile(&Shape::Regex(&nested)), Err(GrammarError::Invalid(_))));
}

#[test]
fn expressions_and_grammars_are_refused_with_a_reason() {
    let repeated = "start: A\nA: B{1000}\nB: C{1000}\nC: \"a\"";
    let doubling: Vec<String> = (0..40).map(|level| format!("A{level}: A{} A{}\n", level + 1, level + 1)).collect();
    let doubling = format!("start: A0\n{}A40: \"a\"\n", doubling.concat());
    // The compiler reads on where an alias has ended a definition.
    let one_line = doubling.replace('\n', " -> x ");
    for (shape, reason) in [
        (Shape::Regex("["), "unclosed character class"),
        (Shape::Regex("(?<=a)b"), "look-around"),
        (Shape::Regex("(a{1000}){1000}"), "999985 written-out repetitions, limit 5000"),
        (Shape::Lark("nothing"), "Expected token ':'"),
        (Shape::Lark(""), "no start rule"),
        (Shape::Lark(&doubling), "bytes with its terminals written out, limit 131072"),
        (Shape::Lark(repeated), "1000000 as the product of its repetitions, limit 5000"),
        (Shape::Lark("%llguidance {\"allow_\\u0069nvalid_utf8\": true}\nstart: \"a\""), "allow_invalid_utf8"),
        (Shape::Lark(&one_line), "terminals written out, limit 131072"),
        (Shape::Lark("start: A{\t+1000}\nA: /b{ 1000}/"), "bytes with its terminals written out, limit 131072"),
        (Shape::Lark("start: \"a\" b\nb: b"), "no text fits it"),
        (
            Shape::Lark("start: %json {\"type\": \"string\", \"minLen\\u0067th\": 1000000000}"),
            "1000000000 in one count",
        ),
        (Shape::Lark("start: %json {\"not\": {}}"), "`not`"),
    ] {
        let error = vocabulary().compile(&shape, &Limits::default()).map(drop).unwrap_err();
        assert!(error.to_string().contains(reason), "{shape:?}: {error}");
    }
}

#[test]
fn a_strict_tool_is_refused_where_a_plain_one_takes_any_object() {
    let signature = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let choice = ToolChoice::Required;
    let compile_with = |strict: bool, signature: &Value| {
        let tools = [tool("fine", None, true), tool("f", Some(signature.clone()), strict)];
        compile(&Shape::Tools { tools: &tools, choice: &choice, parallel: false, format: &Format::Text })
    };
    let error = compile_with(true, &signature).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "tool 1: `uniqueItems` at `#/properties/a` is not supported");
    let mut plain = compile_with(false, &signature).unwrap();
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"whatever\": [1, 1]}}\n</tool_call>";
    super::accept_text(&mut plain, call).unwrap();
    assert!(plain.is_over());
    // Too large is too large for both, and so is what nothing fits.
    let wide = json!({"type": "object", "properties": named(1_001, |_| json!({}))});
    assert!(matches!(compile_with(false, &wide), Err(GrammarError::Tool { index: 1, .. })));
    let empty = json!({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]});
    assert!(matches!(compile_with(false, &empty), Err(GrammarError::Tool { index: 1, .. })));
    let open = json!({"type": "object", "additionalProperties": true});
    let error = compile_with(true, &open).map(drop).unwrap_err();
    assert!(error.to_string().contains("`additionalProperties`"), "{error}");
}

/// Each of the names begins something that is as long as the rest of the line. Whoever goes through all of it for each of them
/// is at it for minutes.
#[test]
fn a_line_full_of_names_is_refused_before_it_costs_anything() {
    let (told, verdicts) = std::sync::mpsc::sync_channel(4);
    std::thread::spawn(move || {
        for name in ["A ", "a ", "A: ", "A ~"] {
            let grammar = format!("{}: \"a\"", name.repeat((60 << 10) / name.len()));
            told.send(compile(&Shape::Lark(&grammar)).map(drop)).ok();
        }
    });
    for _ in 0..4 {
        // Far more than it takes, and far less than going through all of it would.
        let verdict = verdicts.recv_timeout(std::time::Duration::from_mins(1)).unwrap();
        assert!(matches!(verdict, Err(GrammarError::Invalid(_))), "{verdict:?}");
    }
}
