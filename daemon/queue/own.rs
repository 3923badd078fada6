//! The end of an answer that was given moed's own tools: calls that ask for knowledge are answered, the others are passed on
//! if the model was sure enough of them, and asked about if it was not.

use jiff::Timestamp;

use crate::home::{Home, Risk, Served};
use crate::job::{Event, Finish, Outcome, ToolCall};
use crate::model::manifest::Confidence;

/// What moed knows and how sure a model must be, for every job of the room.
#[derive(Clone)]
pub struct House {
    pub home: Home,
    pub confidence: Confidence,
}

/// One job's calls, held until its answer is whole.
pub(super) struct Held {
    house: House,
    calls: Vec<ToolCall>,
}

impl Held {
    pub(super) fn new(house: House) -> Self {
        Self { house, calls: Vec::new() }
    }

    pub(super) fn hold(&mut self, call: ToolCall) {
        self.calls.push(call);
    }

    /// What is said instead of, or as, the calls, and how the answer ends.
    pub(super) fn settle(self, mut outcome: Outcome) -> Vec<Event> {
        let now = Timestamp::now();
        let served: Vec<(ToolCall, Served)> = self
            .calls
            .into_iter()
            .map(|call| {
                let served = self.house.home.serve(&call, now);
                (call, served)
            })
            .collect();
        let needed = |risk: Risk| match risk {
            Risk::None => 0.0,
            Risk::Low => self.house.confidence.low,
            Risk::High => self.house.confidence.high,
        };
        let sure = outcome.confidence.unwrap_or(0.0);
        // All or nothing: of two calls in one answer the sure one was chosen beside the other.
        let doubted = served.iter().find(|(_, served)| matches!(served, Served::Pass(risk) if sure < needed(*risk)));
        let mut events = Vec::with_capacity(served.len() + 1);
        if let Some((call, _)) = doubted {
            tracing::info!(tool = call.name, confidence = sure, "a call became a question");
            events.push(Event::Text(Home::question(call)));
        } else {
            for (index, (call, served)) in served.into_iter().enumerate() {
                events.push(match served {
                    Served::Say(text) if index > 0 => Event::Text(format!("\n{text}")),
                    Served::Say(text) => Event::Text(text),
                    Served::Pass(_) => Event::Call(call),
                });
            }
        }
        if outcome.finish == Finish::Stop && events.iter().any(|event| matches!(event, Event::Call(_))) {
            outcome.finish = Finish::ToolCalls;
        }
        events.push(Event::Finished(outcome));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::{Device, Kind};
    use crate::job::{Timing, Usage};

    fn held(calls: &[(&str, &str)]) -> Held {
        let devices = vec![
            Device::new("Desk Lamp", Kind::Light, "Office"),
            Device::new("Front Door", Kind::Lock, "Hall"),
            Device::new("Freezer", Kind::Sensor, "Cellar"),
        ];
        let (home, _) = Home::new(devices);
        home.observe("Freezer", "-18.5", Timestamp::now());
        let mut held = Held::new(House { home, confidence: Confidence { low: 0.8, high: 0.98 } });
        for (name, arguments) in calls {
            held.hold(ToolCall { id: "1".into(), name: (*name).into(), arguments: (*arguments).into() });
        }
        held
    }

    fn settle(calls: &[(&str, &str)], confidence: f32) -> (Vec<Event>, Finish) {
        let outcome = Outcome {
            finish: Finish::Stop,
            usage: Usage::default(),
            timing: Timing::default(),
            seed: 1,
            confidence: Some(confidence),
        };
        let mut events = held(calls).settle(outcome);
        let Some(Event::Finished(outcome)) = events.pop() else { panic!("no end") };
        (events, outcome.finish)
    }

    const LAMP: (&str, &str) = ("device_set", r#"{"device": "Desk Lamp", "property": "state", "value": "on"}"#);
    const DOOR: (&str, &str) = ("device_set", r#"{"device": "Front Door", "property": "state", "value": "unlocked"}"#);

    #[test]
    fn a_call_passes_only_where_the_model_was_sure_enough_for_what_it_risks() {
        for (calls, confidence, passes) in [
            (&[LAMP][..], 0.85, true),
            (&[LAMP], 0.75, false),
            (&[DOOR], 0.85, false),
            (&[DOOR], 0.99, true),
            (&[LAMP, DOOR], 0.85, false),
            (
                &[("area_set", r#"{"area": "all", "kind": "lock", "property": "state", "value": "unlocked"}"#)],
                0.9,
                false,
            ),
            (&[("device_set", r#"{"device": "Nothing Known", "property": "state", "value": "on"}"#)], 0.9, false),
            (&[("timer_set", r#"{"minutes": 5}"#)], 0.85, true),
        ] {
            let (events, finish) = settle(calls, confidence);
            let passed = events.iter().filter(|event| matches!(event, Event::Call(_))).count();
            assert_eq!(passed, if passes { calls.len() } else { 0 }, "{calls:?} at {confidence}");
            assert_eq!(finish, if passes { Finish::ToolCalls } else { Finish::Stop });
            let asked = matches!(events.as_slice(), [Event::Text(text)] if text.contains('?'));
            assert_eq!(asked, !passes, "{events:?}");
        }
    }

    #[test]
    fn knowledge_is_told_however_sure_the_model_was_and_no_device_is_a_refusal() {
        let said = |calls: &[(&str, &str)]| match settle(calls, 0.1).0.as_slice() {
            [Event::Text(text)] => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(said(&[("device_get", r#"{"device": "Freezer"}"#)]), "Freezer is -18.5.");
        assert_eq!(
            said(&[("device_set", r#"{"device": "none of these", "property": "state", "value": "on"}"#)]),
            "There is no such device here."
        );
        let stats = r#"{"device": "Freezer", "operation": "count", "window": "1h"}"#;
        assert!(said(&[("sensor_stats", stats)]).starts_with("Freezer reported 1 values over the last hour"));
        // What is not known here may be known to whoever asked.
        let (events, finish) = settle(&[("device_get", r#"{"device": "Desk Lamp"}"#)], 0.1);
        assert!(matches!(events.as_slice(), [Event::Call(_)]) && finish == Finish::ToolCalls);
    }
}
