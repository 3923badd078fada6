//! Which devices a question is about: a small model finds one of 24 where it loses one of 200, and a short list is read
//! faster.
//!
//! By words that the question shares with a device's names, place and kind; a word that few devices have counts more. An area
//! that is named stays whole, since "everything in the kitchen" is every device there.

use std::collections::HashMap;

use super::device::{Device, words};

/// Devices that are shown of those that share a word with the question, and of a home where none does. Fewer is better for a
/// small model until the one that is meant falls out: `python -m judge.own_home` (decision 0012).
const SHOWN: usize = 12;
const SHOWN_UNRELATED: usize = 24;
/// Devices that are shown at most, named areas included.
const SHOWN_MAX: usize = 60;

/// The devices to show, in their own order.
pub(super) fn pick(devices: &[Device], question: &str) -> Vec<Device> {
    if devices.len() <= SHOWN {
        return devices.to_vec();
    }
    let asked = words(question);
    let own: Vec<Vec<String>> = devices.iter().map(words_of).collect();
    let mut having: HashMap<&str, usize> = HashMap::new();
    for words in &own {
        for word in words {
            *having.entry(word).or_default() += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of devices are small")]
    let weight = |word: &str| (devices.len() as f64 / having.get(word).copied().unwrap_or(1) as f64).ln() + 0.1;
    let named_area = |device: &Device| {
        let area = words(&device.area);
        !area.is_empty() && area.iter().all(|word| asked.contains(word))
    };
    let mut ranked: Vec<(bool, f64, usize)> = devices
        .iter()
        .zip(&own)
        .enumerate()
        .map(|(index, (device, words))| {
            let score = words.iter().filter(|word| asked.contains(word)).map(|word| weight(word)).sum();
            (named_area(device), score, index)
        })
        .collect();
    ranked.sort_by(|one, other| other.0.cmp(&one.0).then(other.1.total_cmp(&one.1)).then(one.2.cmp(&other.2)));
    let in_area = ranked.iter().filter(|(named, _, _)| *named).count();
    let related = ranked.iter().filter(|(named, score, _)| *named || *score > 0.0).count();
    // Devices elsewhere that the question names by more than the area's words may still be meant.
    let count = match related {
        0 => SHOWN_UNRELATED,
        related => (in_area + SHOWN / 2).clamp(SHOWN, SHOWN_MAX).min(related),
    };
    let mut chosen: Vec<usize> = ranked.into_iter().take(count).map(|(_, _, index)| index).collect();
    chosen.sort_unstable();
    tracing::debug!(shown = chosen.len(), known = devices.len(), "devices for the question");
    chosen.into_iter().map(|index| devices[index].clone()).collect()
}

/// A device's words, each once.
fn words_of(device: &Device) -> Vec<String> {
    let mut own = words(&device.name);
    own.extend(device.aliases.iter().flat_map(|alias| words(alias)));
    own.extend(words(&device.area));
    own.extend(words(&device.floor));
    own.extend(device.kind.synonyms().iter().map(|word| (*word).to_owned()));
    own.sort_unstable();
    own.dedup();
    own
}
