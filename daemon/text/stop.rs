//! When text ends: stop texts, found across pieces, never given out in part.

/// Watches an answer for stop texts.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that may yet turn out to be the start of a stop text.
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No end yet; this much is certain.
    Text(String),
    /// A stop text was reached; this much lies before it.
    Stop(String),
}

impl StopMatcher {
    /// Watches for `stops`; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new() }
    }

    /// Takes more text.
    pub fn push(&mut self, piece: &str) -> Found {
        self.held.push_str(piece);
        // The one that is complete first wins, whatever the pieces; of two that end together, the longer.
        let first =
            self.stops.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at))).min();
        if let Some((_, at)) = first {
            self.held.truncate(at);
            return Found::Stop(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Found::Text(std::mem::replace(&mut self.held, rest))
    }

    /// The answer is over: what was held back is text after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end of `text` are the start of `stop`, but not all of it. Always a character boundary of both.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).filter(|at| *at > 0 && text.ends_with(&stop[..*at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stop_text_split_over_pieces_is_found_and_not_given_out() {
        let mut matcher = StopMatcher::new(vec!["</end>".to_owned()]);
        assert_eq!(matcher.push("done <"), Found::Text("done ".to_owned()));
        assert_eq!(matcher.push("/en"), Found::Text(String::new()));
        assert_eq!(matcher.push("d> more"), Found::Stop(String::new()));
        let mut matcher = StopMatcher::new(vec!["</end>".to_owned()]);
        assert_eq!(matcher.push("a </e"), Found::Text("a ".to_owned()));
        assert_eq!(matcher.push("x"), Found::Text("</ex".to_owned()));
        assert_eq!(matcher.push("<"), Found::Text(String::new()));
        assert_eq!(matcher.finish(), "<");
    }

    proptest! {
        #[test]
        fn pieces_give_the_same_answer_as_the_whole(
            text in "[abé€ ]{0,40}", stops in prop::collection::vec("[abé€]{1,4}", 0..3), cuts in prop::collection::vec(0_usize..40, 0..8)
        ) {
            let whole = stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at))).min();
            let whole = whole.map_or(text.as_str(), |(_, at)| &text[..at]);
            let mut matcher = StopMatcher::new(stops.clone());
            let mut given = String::new();
            let mut stopped = false;
            let mut at = 0;
            let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut) && *cut <= text.len()).collect();
            ends.push(text.len());
            ends.sort_unstable();
            for end in ends {
                if stopped { break; }
                match matcher.push(&text[at..end]) {
                    Found::Text(text) => given.push_str(&text),
                    Found::Stop(text) => { given.push_str(&text); stopped = true; }
                }
                at = end;
            }
            if !stopped { given.push_str(&matcher.finish()); }
            prop_assert_eq!(given, whole);
        }
    }
}
