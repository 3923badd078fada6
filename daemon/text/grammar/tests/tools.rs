//! Calls and text around them.

use serde_json::json;

use super::{END, accept_text, tool, vocabulary};
use crate::job::{Format, Tool, ToolChoice};
use crate::text::grammar::{Constraint, Limits, Shape, Vocabulary};
use crate::text::test_tokenizer;

const OPEN: u32 = 259;

fn lamps() -> Vec<Tool> {
    vec![
        tool(
            "on",
            Some(json!({"type": "object", "properties": {"room": {"enum": ["hall", "attic"]}}, "required": ["room"]})),
            false,
        ),
        tool("off", None, false),
    ]
}

fn calls(choice: &ToolChoice, parallel: bool, format: &Format) -> Constraint {
    let tools = lamps();
    vocabulary().compile(&Shape::Tools { tools: &tools, choice, parallel, format }, &Limits::default()).unwrap()
}

fn force(constraint: &mut Constraint) -> String {
    let forced = constraint.forced();
    for token in &forced {
        constraint.accept(*token).unwrap();
    }
    let mut decoder = test_tokenizer().decoder();
    forced.iter().map(|token| decoder.push(*token).unwrap()).collect()
}

#[test]
fn text_is_free_until_a_call_opens_and_again_after_it() {
    let mut constraint = calls(&ToolChoice::Auto, true, &Format::Text);
    assert!(constraint.is_free() && constraint.mask().unwrap().count() == 264 && constraint.forced().is_empty());
    accept_text(&mut constraint, "Sure, <b>now</b>.\n").unwrap();
    assert!(constraint.is_free());
    constraint.accept(OPEN).unwrap();
    assert!(!constraint.is_free());
    assert_eq!(force(&mut constraint), "\n{\"name\": \"o");
    accept_text(&mut constraint, "n").unwrap();
    assert_eq!(force(&mut constraint), "\", \"arguments\": {\"room\": \"");
    accept_text(&mut constraint, "a").unwrap();
    assert_eq!(force(&mut constraint), "ttic\"}}\n</tool_call>");
    assert!(constraint.is_free() && !constraint.is_over());
    constraint.accept(END).unwrap();
    assert!(constraint.is_over());
}

#[test]
fn one_call_is_the_end_where_several_are_not_wanted() {
    let mut constraint = calls(&ToolChoice::Auto, false, &Format::Text);
    accept_text(&mut constraint, "<tool_call>\n{\"name\": \"off\", \"arguments\": {}}\n</tool_call>").unwrap();
    assert!(constraint.is_over());
    assert_eq!(constraint.mask().unwrap().tokens().collect::<Vec<_>>(), [256, END]);
    assert!(constraint.accept(OPEN).is_err());
}

#[test]
fn a_call_that_must_come_comes_at_once_and_may_be_followed_by_others() {
    let mut constraint = calls(&ToolChoice::Required, true, &Format::Text);
    assert_eq!(force(&mut constraint), "<tool_call>\n{\"name\": \"o");
    accept_text(&mut constraint, "ff").unwrap();
    assert_eq!(force(&mut constraint), "\", \"arguments\": {}}\n</tool_call>");
    assert_eq!(constraint.mask().unwrap().tokens().collect::<Vec<_>>(), [u32::from(b'\n'), 256, END]);
    accept_text(&mut constraint, "\n").unwrap();
    assert_eq!(force(&mut constraint), "<tool_call>\n{\"name\": \"o");
}

#[test]
fn a_named_tool_is_forced_to_its_arguments_and_called_once() {
    let mut constraint = calls(&ToolChoice::Named("on".to_owned()), true, &Format::Text);
    assert_eq!(force(&mut constraint), "<tool_call>\n{\"name\": \"on\", \"arguments\": {\"room\": \"");
    accept_text(&mut constraint, "h").unwrap();
    assert_eq!(force(&mut constraint), "all\"}}\n</tool_call>");
    assert!(constraint.is_over());
}

#[test]
fn a_format_beside_tools_is_what_may_be_said_instead_of_a_call() {
    let mut constraint = calls(&ToolChoice::Auto, true, &Format::JsonObject);
    assert!(!constraint.is_free());
    assert_eq!(constraint.mask().unwrap().tokens().collect::<Vec<_>>(), [u32::from(b'{'), OPEN]);
    accept_text(&mut constraint, "{\"a\":1}").unwrap();
    assert!(constraint.is_over());
    let mut constraint = calls(&ToolChoice::Required, false, &Format::JsonObject);
    assert_eq!(constraint.mask().unwrap().tokens().collect::<Vec<_>>(), [OPEN]);
    let (tools, format) = (lamps(), Format::Regex("a".to_owned()));
    let shape = Shape::Tools { tools: &tools, choice: &ToolChoice::Auto, parallel: true, format: &format };
    assert!(vocabulary().compile(&shape, &Limits::default()).is_err());
}

#[test]
fn an_argument_that_the_signature_does_not_name_is_not_allowed() {
    let mut constraint = calls(&ToolChoice::Required, false, &Format::Text);
    let call = "<tool_call>\n{\"name\": \"on\", \"arguments\": {\"room\": \"hall\", \"colour\": 1}}\n</tool_call>";
    assert!(accept_text(&mut constraint, call).is_err());
}

/// A vocabulary without tokens for the marks spells them in letters; the grammar then holds text and calls together.
#[test]
fn marks_that_are_plain_text_open_calls_too() {
    let mut file: serde_json::Value =
        serde_json::from_slice(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny/tokenizer.json")))
            .unwrap();
    file["added_tokens"].as_array_mut().unwrap().truncate(3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let tokenizer = crate::text::tokenizer::Tokenizer::load(&path).unwrap();
    assert_eq!(tokenizer.id("<tool_call>"), None);
    let vocabulary = Vocabulary::new(&tokenizer, &[END, 256], 264).unwrap();
    let tools = lamps();
    let compile = |choice: &ToolChoice, parallel| {
        let shape = Shape::Tools { tools: &tools, choice, parallel, format: &Format::Text };
        vocabulary.compile(&shape, &Limits::default()).unwrap()
    };
    let accept = |constraint: &mut Constraint, text: &str| {
        tokenizer.encode(text).unwrap().into_iter().try_for_each(|token| constraint.accept(token))
    };
    let call = "<tool_call>\n{\"name\": \"off\", \"arguments\": {}}\n</tool_call>";
    for (text, fits) in [
        ("just <text>\nand more", true),
        (call, true),
        ("Sure.\n<tool_call>\n{\"name\": \"off\", \"arguments\": {}}\n</tool_call>\nDone.", true),
        ("<tool_call>nonsense", false),
        ("<tool_call>\n{\"name\": \"up\"", false),
        ("<tool_call>\n{\"name\": \"off\", \"arguments\": {\"a\"", false),
    ] {
        let mut constraint = compile(&ToolChoice::Auto, true);
        let accepted = accept(&mut constraint, text).is_ok();
        assert_eq!(accepted && constraint.mask().unwrap().contains(END), fits, "{text}");
    }
    let mut once = compile(&ToolChoice::Auto, false);
    accept(&mut once, call).unwrap();
    assert!(once.is_over());
    let mut must = compile(&ToolChoice::Required, false);
    assert!(must.accept(u32::from(b'S')).is_err());
    let mut must = compile(&ToolChoice::Required, false);
    accept(&mut must, call).unwrap();
    assert!(must.is_over());
}

/// What is forced is spelled as the tokenizer spells the whole answer.
#[test]
fn forced_tokens_are_those_of_the_whole_text() {
    let ground = super::walk::Ground::whole();
    let signature = json!({"type": "object", "properties": {"room": {"const": "the old kitchen"}, "on": {"const": true}},
        "required": ["room", "on"]});
    let tools = [tool("set_light", Some(signature), true)];
    let shape = Shape::Tools { tools: &tools, choice: &ToolChoice::Required, parallel: false, format: &Format::Text };
    let mut constraint = ground.compile(&shape);
    let forced = constraint.forced();
    let call = "<tool_call>\n{\"name\": \"set_light\", \"arguments\": {\"room\": \"the old kitchen\", \"on\": true}}\n</tool_call>";
    assert_eq!(forced, ground.tokenizer.encode(call).unwrap());
    for token in forced {
        constraint.accept(token).unwrap();
    }
    assert!(constraint.is_over());
}
