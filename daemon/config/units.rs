//! Sizes and lengths of time, as people write them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes, written as `"256MiB"`, `"4KiB"` or `"0"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Size {
    /// The bytes as an index type; saturates on 32-bit machines.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (number, factor) = SIZE_UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
            .unwrap_or((text.as_str(), 1));
        number
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size; write it as `256MiB`, `4KiB` or `0`"))
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        SIZE_UNITS[..3]
            .iter()
            .find(|(_, factor)| size.0 != 0 && size.0.is_multiple_of(*factor))
            .map_or_else(|| size.0.to_string(), |(unit, factor)| format!("{}{unit}", size.0 / factor))
    }
}

/// A length of time, written as `"24h"`, `"30s"`, `"5m"` or `"250ms"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        SPAN_UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*factor))
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("`{text}` is not a length of time; write it as `24h`, `30s` or `250ms`"))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let millis = u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) = SPAN_UNITS
            .iter()
            .rev()
            .find(|(_, factor)| millis != 0 && millis.is_multiple_of(*factor))
            .unwrap_or(&SPAN_UNITS[1]);
        format!("{}{unit}", millis / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_and_write_the_same_text() {
        for text in ["256MiB", "4KiB", "0", "17", "1GiB"] {
            assert_eq!(String::from(Size::try_from(text.to_owned()).unwrap()), text);
        }
        for text in ["1d", "30s", "250ms", "5m", "0s"] {
            assert_eq!(String::from(Span::try_from(text.to_owned()).unwrap()), text);
        }
        assert_eq!(Span::try_from("24h".to_owned()).unwrap().0, Duration::from_hours(24));
        assert!(Size::try_from("12 furlongs".to_owned()).unwrap_err().contains("is not a size"));
        assert!(Span::try_from("soon".to_owned()).unwrap_err().contains("is not a length of time"));
        assert!(Size::try_from("99999999999GiB".to_owned()).is_err());
    }
}
