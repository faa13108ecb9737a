//! SoftHSM's object files: a generation counter, then attributes. Numbers are 8 bytes, big-endian.
//!
//! An attribute is its type, the kind of its value, and the value: one byte for a boolean; a number; a length and
//! bytes; a length and a nested template; a count and that many mechanisms.

use super::{Malformed, StoredObject, Value};

/// Reads the content of a file.
///
/// # Errors
/// What is wrong with it.
pub fn parse(content: &[u8]) -> Result<StoredObject, Malformed> {
    let mut rest = content;
    number(&mut rest)?;
    let mut object = StoredObject::default();
    while !rest.is_empty() {
        let kind = number(&mut rest)?;
        let value = match number(&mut rest)? {
            BOOLEAN => Value::Bool(take(&mut rest, 1)? != [0]),
            NUMBER => Value::Ulong(number(&mut rest)?),
            BYTES => Value::Bytes(counted(&mut rest, 1)?.to_vec().into()),
            TEMPLATE => Value::Template { empty: counted(&mut rest, 1)?.is_empty() },
            MECHANISMS => {
                let list = counted(&mut rest, 8)?.chunks_exact(8);
                Value::Mechanisms(
                    list.filter_map(|item| item.try_into().ok().map(u64::from_be_bytes)).collect(),
                )
            }
            _ => return Err(Malformed("an attribute is of an unknown kind")),
        };
        object.set(kind, value)?;
    }
    Ok(object)
}

fn number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let (number, after) = rest.split_first_chunk::<8>().ok_or(CUT_SHORT)?;
    *rest = after;
    Ok(u64::from_be_bytes(*number))
}

/// What follows its own count, of items of this size.
fn counted<'a>(rest: &mut &'a [u8], item_bytes: usize) -> Result<&'a [u8], Malformed> {
    let count = usize::try_from(number(rest)?).ok();
    let len = count.and_then(|count| count.checked_mul(item_bytes)).ok_or(CUT_SHORT)?;
    take(rest, len)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (taken, after) = rest.split_at_checked(len).ok_or(CUT_SHORT)?;
    *rest = after;
    Ok(taken)
}

const CUT_SHORT: Malformed = Malformed("it is cut short");
// Kinds of values.
const BOOLEAN: u64 = 1;
const NUMBER: u64 = 2;
const BYTES: u64 = 3;
const TEMPLATE: u64 = 4;
const MECHANISMS: u64 = 5;

#[cfg(test)]
mod tests {
    use cryptoki_sys::*;

    use super::*;

    fn file(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let mut content = file(&[7, CKA_CLASS, NUMBER, CKO_DATA, CKA_TOKEN, BOOLEAN]);
        content.push(1);
        content.extend(file(&[CKA_LABEL, BYTES, 3]));
        content.extend(b"abc");
        content.extend(file(&[CKA_WRAP_TEMPLATE, TEMPLATE, 0, CKA_ALLOWED_MECHANISMS, MECHANISMS, 2, 5, 6]));
        let object = parse(&content).expect("well formed");
        assert_eq!(object.ulong(CKA_CLASS), Some(CKO_DATA));
        assert_eq!(object.bool(CKA_TOKEN), Some(true));
        assert_eq!(object.bytes(CKA_LABEL), Some(&b"abc"[..]));
        for cut in 1..content.len() {
            // At some places, what is there is an object with fewer attributes.
            assert!(
                parse(&content[..cut]).is_ok_and(|part| part.0.len() < object.0.len())
                    || parse(&content[..cut]).is_err()
            );
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for (kind, count) in
            [(BYTES, u64::MAX), (TEMPLATE, 1), (MECHANISMS, u64::MAX / 8 + 1), (MECHANISMS, 1 << 60)]
        {
            assert!(parse(&file(&[1, CKA_LABEL, kind, count])).is_err());
        }
        assert!(parse(&file(&[1, CKA_LABEL, 6, 0])).is_err());
        assert!(parse(&[]).is_err());
    }
}
