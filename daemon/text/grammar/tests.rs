mod bombs;
mod judge;
mod refusals;
mod tools;
mod walk;

use serde_json::{Value, json};

use super::*;
use crate::text::test_tokenizer;

const END: u32 = 258;

/// The tiny test model's vocabulary: 256 bytes, 7 control tokens, rounded up.
pub(super) fn vocabulary() -> Vocabulary {
    Vocabulary::new(&test_tokenizer(), &[END, 256], 264).unwrap()
}

fn compile(shape: &Shape) -> Result<Constraint, GrammarError> {
    vocabulary().compile(shape, &Limits::default())
}

fn tool(name: &str, parameters: Option<Value>, strict: bool) -> Tool {
    Tool { name: name.to_owned(), description: None, parameters, strict }
}

fn accept_text(constraint: &mut Constraint, text: &str) -> Result<(), GrammarError> {
    test_tokenizer().encode(text).unwrap().into_iter().try_for_each(|token| constraint.accept(token))
}

fn fits(shape: &Shape, text: &str) -> bool {
    let mut constraint = compile(shape).unwrap();
    accept_text(&mut constraint, text).is_ok() && constraint.mask().is_ok_and(|allowed| allowed.contains(END))
}

#[test]
fn a_schema_lets_fitting_json_through_and_nothing_else() {
    let schema = json!({"type": "object", "properties": {"room": {"enum": ["hall", "kitchen"]}, "on": {"type": "boolean"}},
        "required": ["room", "on"], "additionalProperties": false});
    let shape = Shape::JsonSchema { schema: &schema, strict: false };
    assert!(fits(&shape, r#"{"room":"hall","on":true}"#));
    for wrong in [
        r#"{"room":"hall"}"#,
        r#"{"room": "hall","on":true}"#,
        r#"{"room":"loft","on":true}"#,
        r#"{"room":"hall","on":true"#,
    ] {
        assert!(!fits(&shape, wrong), "{wrong}");
    }
}

#[test]
fn what_must_come_is_forced_and_what_may_come_is_masked() {
    let schema = json!({"type": "object", "properties": {"room": {"enum": ["hall", "kitchen"]}}, "required": ["room"],
        "additionalProperties": false});
    let mut constraint = compile(&Shape::JsonSchema { schema: &schema, strict: false }).unwrap();
    let forced = constraint.forced();
    assert_eq!(forced, test_tokenizer().encode(r#"{"room":""#).unwrap());
    for token in forced {
        constraint.accept(token).unwrap();
    }
    let mut mask = Mask::default();
    constraint.mask_into(&mut mask).unwrap();
    assert_eq!(mask.allowed().tokens().collect::<Vec<_>>(), [u32::from(b'h'), u32::from(b'k')]);
    assert!(constraint.forced().is_empty());
    constraint.accept(u32::from(b'k')).unwrap();
    for token in constraint.forced() {
        constraint.accept(token).unwrap();
    }
    assert!(constraint.is_over() && constraint.forced().is_empty());
    assert_eq!(constraint.mask().unwrap().tokens().collect::<Vec<_>>(), [256, END]);
}

#[test]
fn a_token_that_the_mask_bans_breaks_the_constraint_for_good() {
    let mut constraint = compile(&Shape::JsonObject).unwrap();
    assert!(matches!(constraint.accept(u32::from(b'x')), Err(GrammarError::Stopped(_))));
    assert!(matches!(constraint.mask(), Err(GrammarError::Stopped(_))));
    assert!(constraint.accept(u32::from(b'{')).is_err() && constraint.forced().is_empty());
}

#[test]
fn a_constraint_can_go_to_another_thread_and_come_back_with_its_mask() {
    let mut constraint = compile(&Shape::Regex("[ab]c")).unwrap();
    let (constraint, mask) = std::thread::spawn(move || {
        let mut mask = Mask::new(264);
        constraint.mask_into(&mut mask).unwrap();
        (constraint, mask)
    })
    .join()
    .unwrap();
    assert_eq!(mask.allowed().tokens().collect::<Vec<_>>(), [u32::from(b'a'), u32::from(b'b')]);
    assert!(!constraint.is_over());
}
