//! What one sequence keeps between two runs: element types, forms and sizes of caches, and which output goes with which input.

use crate::engine::binding::{BindingError, Declared, known, typed};
use crate::model::folder::Hints;

/// An element type that the engine can hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Float32,
    Float16,
    Bfloat16,
    Int64,
    Int32,
    Int8,
    Uint8,
    Bool,
}

impl Kind {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Int64 => 8,
            Self::Float32 | Self::Int32 => 4,
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
        }
    }

    pub(super) fn named(dtype: &str) -> Option<Self> {
        Some(match dtype {
            "float32" => Self::Float32,
            "float16" => Self::Float16,
            "bfloat16" => Self::Bfloat16,
            "int64" => Self::Int64,
            "int32" => Self::Int32,
            "int8" => Self::Int8,
            "uint8" => Self::Uint8,
            "bool" => Self::Bool,
            _ => return None,
        })
    }
}

/// What one sequence keeps in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Keys or values: `[heads, positions, head_size]`, one position more with each token.
    Growing { heads: usize, head_size: usize },
    /// A convolution's or a recurrence's state, of these sizes whatever was read.
    Fixed { sizes: Vec<usize> },
}

/// One cache: bound as past and as present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePair {
    pub past: String,
    pub present: String,
    pub kind: Kind,
    pub form: Form,
}

impl StatePair {
    /// Strips of memory that one sequence has: a growing cache has one a head.
    pub fn strips(&self) -> usize {
        match &self.form {
            Form::Growing { heads, .. } => *heads,
            Form::Fixed { .. } => 1,
        }
    }

    /// Bytes of a strip that holds `positions`; a fixed state always has the same.
    pub fn strip_bytes(&self, positions: usize) -> usize {
        match &self.form {
            Form::Growing { head_size, .. } => positions * head_size * self.kind.bytes(),
            Form::Fixed { sizes } => sizes.iter().product::<usize>() * self.kind.bytes(),
        }
    }

    /// Bytes that one sequence of `positions` takes.
    pub fn row_bytes(&self, positions: usize) -> usize {
        self.strips() * self.strip_bytes(positions)
    }

    pub fn is_fixed(&self) -> bool {
        matches!(self.form, Form::Fixed { .. })
    }

    /// The tensor's shape for so many sequences of so many positions.
    pub fn shape(&self, rows: usize, positions: usize) -> Vec<usize> {
        match &self.form {
            Form::Growing { heads, head_size } => vec![rows, *heads, positions, *head_size],
            Form::Fixed { sizes } => [rows].iter().chain(sizes).copied().collect(),
        }
    }
}

const STATES: &[Kind] = &[Kind::Float32, Kind::Float16, Kind::Bfloat16, Kind::Int8, Kind::Uint8];

/// The number in a name: `past_key_values.12.key` → `12`.
pub(super) fn layer(name: &str) -> Option<&str> {
    name.split(['.', '_']).find(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads a cache; `None` for an input that is none.
pub(super) fn state(input: &Declared, outputs: &[Declared], hints: &Hints) -> Result<Option<StatePair>, BindingError> {
    let candidates = present_names(&input.name, &hints.states);
    if candidates.is_empty() {
        return Ok(None);
    }
    let present = outputs.iter().find(|output| candidates.contains(&output.name));
    let present = present.ok_or_else(|| BindingError::Unpaired(input.name.clone()))?;
    let wanted = "float32, float16, bfloat16, int8 or uint8";
    let kind = typed(input, STATES, wanted, &[2, 3, 4, 5], "2 to 5")?.kind;
    if input.dtype != present.dtype {
        return Err(BindingError::Changes {
            past: input.name.clone(),
            past_dtype: input.dtype.clone(),
            present: present.name.clone(),
            present_dtype: present.dtype.clone(),
        });
    }
    let open = |what| BindingError::Open { name: input.name.clone(), what };
    let form = if input.dims.len() == 4 && known(input.dims[2]).is_none() {
        Form::Growing {
            heads: known(input.dims[1]).or(hints.kv_heads).ok_or_else(|| open("number of heads"))?,
            head_size: known(input.dims[3]).or(hints.head_size).ok_or_else(|| open("head size"))?,
        }
    } else {
        let sizes = input.dims[1..].iter().map(|size| known(*size).ok_or_else(|| open("size")));
        Form::Fixed { sizes: sizes.collect::<Result<_, _>>()? }
    };
    Ok(Some(StatePair { past: input.name.clone(), present: present.name.clone(), kind, form }))
}

/// What the output beside a cache input may be called: as the config's templates say, else by habit. Empty: no cache.
fn present_names(past: &str, templates: &[(String, String)]) -> Vec<String> {
    for (from, to) in templates {
        if let Some((head, tail)) = from.split_once("%d")
            && let Some(number) = past.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail))
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            return vec![to.replace("%d", number)];
        }
    }
    let Some(rest) = past.strip_prefix("past").filter(|_| layer(past).is_some()) else { return Vec::new() };
    let mut names = vec![format!("present{rest}")];
    names.extend(rest.strip_prefix("_key_values").map(|rest| format!("present{rest}")));
    names
}
