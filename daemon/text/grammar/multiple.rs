//! What `multipleOf` costs: the compiler makes a state for each remainder, and counts with 32 bits, unchecked.

use serde_json::{Map, Value};

use super::size::at_most;
use super::{GrammarError, Limits};

/// Places behind the point that the compiler's 32 bits can tell apart.
const PLACES_MAX: u32 = 8;
/// Keywords that may bring two schemas to bear on one value.
const MEETING: [&str; 4] = ["allOf", "anyOf", "oneOf", "$ref"];

/// The `multipleOf`s of a schema.
#[derive(Default)]
pub(super) struct Multiples {
    /// Digits without their point, and how many stood behind it.
    found: Vec<(u32, u32)>,
    may_meet: bool,
}

impl Multiples {
    /// Takes in what stands right in a schema.
    pub(super) fn add(&mut self, fields: &Map<String, Value>) -> Result<(), &'static str> {
        self.may_meet |= MEETING.iter().any(|keyword| fields.contains_key(*keyword));
        // What is no number, below 0 or has more digits than the compiler reads, it refuses itself.
        let Some((digits, places)) = fields.get("multipleOf").and_then(Value::as_f64).and_then(digits) else {
            return Ok(());
        };
        if places > PLACES_MAX {
            return Err("it has at most 8 places behind the point");
        }
        if !self.found.contains(&(digits, places)) {
            self.found.push((digits, places));
        }
        Ok(())
    }

    /// Whether the automata have few enough states.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), GrammarError> {
        for (digits, _) in &self.found {
            at_most("as the digits of a `multipleOf`", *digits as usize, limits.multiple)?;
        }
        if self.may_meet {
            let places = self.found.iter().map(|(_, places)| *places).max().unwrap_or(0);
            let whole = |(digits, behind): &(u32, u32)| u128::from(*digits) * 10_u128.pow(places - behind);
            let common = self.found.iter().map(whole).fold(1, common_multiple);
            let what = "as the least common multiple of its `multipleOf`s";
            at_most(what, usize::try_from(common).unwrap_or(usize::MAX), limits.multiple)?;
        }
        Ok(())
    }
}

/// As the compiler reads a number.
fn digits(number: f64) -> Option<(u32, u32)> {
    let (mut whole, mut places) = (number, 0);
    while whole.fract() != 0.0 {
        whole *= 10.0;
        places += 1;
    }
    if !(0.0..=f64::from(u32::MAX)).contains(&whole) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number within the bounds")]
    Some((whole as u32, places))
}

/// Saturates; 0 where one of them is 0.
fn common_multiple(one: u128, other: u128) -> u128 {
    let (mut divisor, mut rest) = (one, other);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    one.checked_div(divisor).unwrap_or(0).saturating_mul(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(schemas: &[Value]) -> Result<(), String> {
        let mut multiples = Multiples::default();
        for schema in schemas {
            multiples.add(schema.as_object().unwrap()).map_err(str::to_owned)?;
        }
        multiples.check(&Limits::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn steps_with_few_remainders_are_taken_whatever_their_size() {
        let step = |step: f64| json!({"multipleOf": step});
        let whole = [0.0, 0.5, 0.01, 0.25, 5.0, 60.0, 1e4, 9_973.0, 0.07, -1.0, 1e300].map(step);
        assert_eq!(verdict(&whole), Ok(()), "those that meet no other");
        let [half, five, thousand, meet] = [step(0.5), step(5.0), step(1e3), json!({"allOf": []})];
        assert_eq!(verdict(&[half, five, thousand.clone(), meet.clone()]), Ok(()));
        let no = |schemas: &[Value]| verdict(schemas).unwrap_err();
        assert_eq!(no(&[step(1_000_003.0)]), "it has 1000003 as the digits of a `multipleOf`, limit 10000");
        assert_eq!(no(&[step(12.3457)]), "it has 123457 as the digits of a `multipleOf`, limit 10000");
        let common = no(&[thousand, step(7.0), step(0.01), meet]);
        assert_eq!(common, "it has 700000 as the least common multiple of its `multipleOf`s, limit 10000");
        assert!(no(&[step(1e-9)]).contains("8 places"));
    }
}
