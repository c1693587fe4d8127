//! The protobuf wire format: numbers, lengths, fields. Knows nothing of types.

use super::DecodeError;

/// A field's wire form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
    Fixed32(u32),
}

/// Reads fields one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn error(&self, problem: &'static str) -> DecodeError {
        DecodeError::Proto { problem, offset: self.at }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.error("unexpected EOF"))?;
            self.at += 1;
            if shift < 64 {
                number |= u64::from(byte & 0x7f) << shift;
            }
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.error("integer overflow"))
    }

    fn take(&mut self, len: u64) -> Result<&'b [u8], DecodeError> {
        let end =
            usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.error("unexpected EOF"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// The next field's number and content; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'b>)>, DecodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| self.error("illegal tag"))?;
        if number == 0 {
            return Err(self.error("illegal tag 0"));
        }
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
            }
            2 => {
                let len = self.varint()?;
                Wire::Bytes(self.take(len)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Wire::Fixed32(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
            }
            _ => return Err(self.error("unknown wire type")),
        };
        Ok(Some((number, wire)))
    }
}

pub(super) fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("less than 0x80"));
}

pub(super) fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(field) << 3, out);
    put_varint(number, out);
}

pub(super) fn put_fixed64(field: u32, bits: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(field) << 3 | 1, out);
    out.extend_from_slice(&bits.to_le_bytes());
}

pub(super) fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(field) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes a field whose content `write` appends; its length is put before it afterwards.
pub(super) fn put_message<T>(field: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    put_varint(u64::from(field) << 3 | 2, out);
    out.push(0);
    let start = out.len();
    let result = write(out);
    let len = out.len() - start;
    if len < 0x80 {
        out[start - 1] = u8::try_from(len).expect("less than 0x80");
    } else {
        let more = (usize::BITS - len.leading_zeros()).div_ceil(7) as usize - 1;
        out.resize(start + len + more, 0);
        out.copy_within(start..start + len, start + more);
        let mut left = len;
        for byte in &mut out[start - 1..start - 1 + more] {
            *byte = u8::try_from(left & 0x7f).expect("seven bits") | 0x80;
            left >>= 7;
        }
        out[start - 1 + more] = u8::try_from(left).expect("the last seven bits");
    }
    result
}
