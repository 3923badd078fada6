//! The wire format of protocol buffers: fields with a number and one of four kinds of content, one after another.

use crate::model::graph::GraphError;

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Number(u64),
    /// Text, a message or packed numbers, and where it starts in the file.
    Bytes(&'a [u8], usize),
    /// Four or eight bytes; nothing that is read here is stored so.
    Fixed,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) content: Content<'a>,
    /// Where its tag starts in the file, and where it ends.
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<'a> Field<'a> {
    /// The content as bytes; `what` is what the field is for people.
    pub(super) fn bytes(&self, what: &'static str) -> Result<&'a [u8], GraphError> {
        match self.content {
            Content::Bytes(bytes, _) => Ok(bytes),
            _ => Err(GraphError::Kind { what, at: self.start }),
        }
    }

    /// The content as text.
    pub(super) fn text(&self, what: &'static str) -> Result<String, GraphError> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| GraphError::Text { what, at: self.start })
    }

    /// The content as a signed number.
    pub(super) fn number(&self, what: &'static str) -> Result<i64, GraphError> {
        match self.content {
            Content::Number(number) => Ok(number.cast_signed()),
            _ => Err(GraphError::Kind { what, at: self.start }),
        }
    }

    /// The content as a message.
    pub(super) fn message(&self, what: &'static str) -> Result<Fields<'a>, GraphError> {
        match self.content {
            Content::Bytes(bytes, base) => Ok(Fields { bytes, at: 0, base }),
            _ => Err(GraphError::Kind { what, at: self.start }),
        }
    }

    /// A repeated number, which writers store one by one or packed.
    pub(super) fn numbers(&self, what: &'static str, into: &mut Vec<i64>) -> Result<(), GraphError> {
        match self.content {
            Content::Number(number) => into.push(number.cast_signed()),
            Content::Bytes(bytes, base) => {
                let mut packed = Fields { bytes, at: 0, base };
                while packed.at < bytes.len() {
                    into.push(packed.varint()?.cast_signed());
                }
            }
            Content::Fixed => return Err(GraphError::Kind { what, at: self.start }),
        }
        Ok(())
    }
}

/// The fields of a message, one after another. Ends with the message or after the first fault.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message starts in the file.
    base: usize,
}

impl<'a> Fields<'a> {
    /// The fields of a whole file.
    pub(super) fn of_file(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, base: 0 }
    }

    fn varint(&mut self) -> Result<u64, GraphError> {
        let start = self.base + self.at;
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(GraphError::Cut { at: start })?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(GraphError::Number { at: start });
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(GraphError::Number { at: start })
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], GraphError> {
        let cut = GraphError::Cut { at: self.base + self.at };
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let Some(taken) = end.and_then(|end| self.bytes.get(self.at..end)) else { return Err(cut) };
        self.at += taken.len();
        Ok(taken)
    }

    fn field(&mut self) -> Result<Field<'a>, GraphError> {
        let start = self.base + self.at;
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => self.take(8).map(|_| Content::Fixed)?,
            2 => {
                let length = self.varint()?;
                let base = self.base + self.at;
                Content::Bytes(self.take(length)?, base)
            }
            5 => self.take(4).map(|_| Content::Fixed)?,
            // Groups, which ONNX never used, and what no version of the format knows.
            _ => return Err(GraphError::Number { at: start }),
        };
        if tag >> 3 == 0 {
            return Err(GraphError::Number { at: start });
        }
        Ok(Field { number: tag >> 3, content, start, end: self.base + self.at })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, GraphError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

/// Appends a number in the format's own coding.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        // The mask leaves seven bits.
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a field that holds a number.
pub(super) fn put_number(out: &mut Vec<u8>, field: u64, number: i64) {
    put_varint(out, field << 3);
    put_varint(out, number.cast_unsigned());
}

/// Appends a field that holds text, a message or packed numbers.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
