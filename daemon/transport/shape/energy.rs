//! Energy on the wire, the same over both transports.

use serde_json::{Value, json};

use crate::job::{Energy, Joules};

/// What a job took of the board's energy, in joules; `null` where no sensor says.
pub fn energy_json(energy: Option<&Energy>) -> Value {
    let Some(energy) = energy else { return Value::Null };
    let (prefill, decode) = (&energy.prefill, &energy.decode);
    let both = Joules { gross: prefill.gross + decode.gross, net: prefill.net.zip(decode.net).map(|(a, b)| a + b) };
    json!({
        "gross_j": joules(both.gross),
        "net_j": both.net.map(joules),
        "prefill": part(prefill),
        "decode": part(decode),
        "coverage": (energy.coverage * 100.0).round() / 100.0,
    })
}

/// All of it, in joules.
pub fn energy_total(energy: &Energy) -> f64 {
    joules(energy.prefill.gross + energy.decode.gross)
}

fn part(part: &Joules) -> Value {
    json!({"gross_j": joules(part.gross), "net_j": part.net.map(joules)})
}

/// To the tenth of a millijoule: a token of a small model takes a few.
fn joules(joules: f64) -> f64 {
    (joules * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_told_whole_and_in_parts_and_is_null_without_a_sensor() {
        let energy = Energy {
            prefill: Joules { gross: 1.5, net: Some(1.0) },
            decode: Joules { gross: 0.25, net: Some(0.125) },
            coverage: 0.987,
        };
        assert_eq!(
            energy_json(Some(&energy)),
            json!({
                "gross_j": 1.75, "net_j": 1.125, "prefill": {"gross_j": 1.5, "net_j": 1.0},
                "decode": {"gross_j": 0.25, "net_j": 0.125}, "coverage": 0.99,
            })
        );
        let unknown = Energy { decode: Joules { gross: 1.0, net: None }, ..energy };
        assert_eq!(energy_json(Some(&unknown))["net_j"], Value::Null);
        assert_eq!(energy_json(None), Value::Null);
    }
}
