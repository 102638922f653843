//! The Native format as a client's revision of ClickHouse's protocol wants it.
//!
//! In: blocks as the engine writes them, of revision 0. Out: the same with what `client_protocol_version`
//! adds: what is known of a block before it, and behind each column's type a byte that says how the
//! column is written (always the usual way). The columns' bytes are the same in all revisions; they
//! are read only to find where a column ends.
//! Always true: a block that is not understood to its last byte is an error, never half a block.

use crate::Exception;

/// Blocks begin with what is known of them.
const BLOCK_INFO: u64 = 51_903;
/// A byte behind each type: whether the column is written in an unusual way.
const CUSTOM_SERIALIZATION: u64 = 54_454;
/// Field 1: no overflow row; field 2: no bucket of an aggregation; end.
const INFO: [u8; 8] = [1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];
/// Types in types: deeper ones are nobody's.
const DEPTH_MAX: usize = 40;

/// The blocks of a piece, for a client of that revision.
pub(super) fn revise(blocks: Vec<u8>, revision: u64) -> Result<Vec<u8>, Exception> {
    if revision < BLOCK_INFO || blocks.is_empty() {
        return Ok(blocks);
    }
    let mut out = Vec::with_capacity(blocks.len() + 64);
    let mut rest = Bytes(&blocks);
    while !rest.0.is_empty() {
        out.extend_from_slice(&INFO);
        let before = rest.0;
        let (columns, rows) = (rest.var_uint()?, rest.var_uint()?);
        out.extend_from_slice(between(before, &rest));
        for _ in 0..columns {
            let before = rest.0;
            let name = rest.string()?;
            let kind = rest.string()?;
            out.extend_from_slice(between(before, &rest));
            if revision >= CUSTOM_SERIALIZATION {
                out.push(0);
            }
            let before = rest.0;
            if rows > 0 {
                let understood = String::from_utf8_lossy(kind);
                let kind = Type::parse(&understood, 0).ok_or_else(|| unknown(name, kind))?;
                kind.skip_prefix(&mut rest)?;
                kind.skip(&mut rest, rows)?;
            }
            out.extend_from_slice(between(before, &rest));
        }
    }
    Ok(out)
}

fn between<'a>(before: &'a [u8], after: &Bytes<'_>) -> &'a [u8] {
    before.get(..before.len() - after.0.len()).unwrap_or_default()
}

fn unknown(name: &[u8], kind: &[u8]) -> Exception {
    let (name, kind) = (String::from_utf8_lossy(name), String::from_utf8_lossy(kind));
    let message = format_args!(
        "the column `{name}` of type {kind} cannot be sent in Native to a client that asks for \
         `client_protocol_version`: convert it, for example with toString, or ask for another format"
    );
    Exception::new(48, "NOT_IMPLEMENTED", message)
}

fn broken() -> Exception {
    Exception::new(1002, "UNKNOWN_EXCEPTION", "a block in Native ends before its columns do")
}

/// What is left of a piece.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Exception> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn var_uint(&mut self) -> Result<usize, Exception> {
        let mut value = 0_usize;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            value |= usize::from(byte & 0x7f).checked_shl(shift).ok_or_else(broken)?;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken())
    }

    fn string(&mut self) -> Result<&'a [u8], Exception> {
        let length = self.var_uint()?;
        self.take(length)
    }

    fn number(&mut self) -> Result<usize, Exception> {
        let bytes = self.take(8)?.first_chunk::<8>().ok_or_else(broken)?;
        usize::try_from(u64::from_le_bytes(*bytes)).map_err(|_too_large| broken())
    }

    fn items(&mut self, count: usize, size: usize) -> Result<&'a [u8], Exception> {
        self.take(count.checked_mul(size).ok_or_else(broken)?)
    }
}

/// A column's type, as far as it matters where the column ends.
#[derive(Debug, PartialEq, Eq)]
enum Type {
    Fixed(usize),
    String,
    Nullable(Box<Type>),
    Array(Box<Type>),
    Tuple(Vec<Type>),
    LowCardinality(Box<Type>),
    /// In the order in which their columns are written: that of their names.
    Variant(Vec<Type>),
}

impl Type {
    /// `None` for a type whose columns cannot be measured here.
    fn parse(text: &str, depth: usize) -> Option<Self> {
        let text = text.trim();
        if depth > DEPTH_MAX {
            return None;
        }
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), split_arguments(rest.strip_suffix(')')?)?),
            None => (text, Vec::new()),
        };
        let number = |at: usize| arguments.get(at)?.trim().parse::<usize>().ok();
        let inner = |at: usize| Self::parse(arguments.get(at)?, depth + 1);
        let all = |named: bool| {
            let one = |text: &&str| {
                let text: &str = if named { without_name(text) } else { text };
                Self::parse(text, depth + 1)
            };
            arguments.iter().map(one).collect::<Option<Vec<_>>>()
        };
        let point = || Self::Tuple(vec![Self::Fixed(8), Self::Fixed(8)]);
        let array_of = |inner: Self| Self::Array(Box::new(inner));
        Some(match name {
            "Int8" | "UInt8" | "Bool" | "Enum8" | "Nothing" => Self::Fixed(1),
            "Int16" | "UInt16" | "BFloat16" | "Date" | "Enum16" => Self::Fixed(2),
            "Int32" | "UInt32" | "Float32" | "Date32" | "DateTime" | "IPv4" | "Time"
            | "Decimal32" => Self::Fixed(4),
            "Int64" | "UInt64" | "Float64" | "DateTime64" | "Time64" | "Decimal64" => {
                Self::Fixed(8)
            }
            "Int128" | "UInt128" | "UUID" | "IPv6" | "Decimal128" => Self::Fixed(16),
            "Int256" | "UInt256" | "Decimal256" => Self::Fixed(32),
            "Decimal" => Self::Fixed(match number(0)? {
                0..=9 => 4,
                10..=18 => 8,
                19..=38 => 16,
                _ => 32,
            }),
            "FixedString" => Self::Fixed(number(0)?),
            "String" => Self::String,
            "Nullable" => Self::Nullable(Box::new(inner(0)?)),
            "Array" => array_of(inner(0)?),
            // An empty tuple has a byte a row.
            "Tuple" if arguments.is_empty() => Self::Fixed(1),
            "Tuple" => Self::Tuple(all(true)?),
            "Nested" => array_of(Self::Tuple(all(true)?)),
            "Map" => array_of(Self::Tuple(vec![inner(0)?, inner(1)?])),
            "LowCardinality" => Self::LowCardinality(Box::new(match inner(0)? {
                // Null is an entry of the dictionary, and has no map of its own.
                Self::Nullable(inner) => *inner,
                inner => inner,
            })),
            "SimpleAggregateFunction" => inner(1)?,
            "Variant" => Self::Variant(all(false)?),
            "Point" => point(),
            "Ring" | "LineString" => array_of(point()),
            "Polygon" | "MultiLineString" => array_of(array_of(point())),
            "MultiPolygon" => array_of(array_of(array_of(point()))),
            name if name.starts_with("Interval") => Self::Fixed(8),
            _ => return None,
        })
    }

    /// What stands before a column's values.
    fn skip_prefix(&self, from: &mut Bytes<'_>) -> Result<(), Exception> {
        match self {
            Self::Fixed(_) | Self::String => Ok(()),
            Self::Nullable(inner) | Self::Array(inner) => inner.skip_prefix(from),
            Self::Tuple(all) => all.iter().try_for_each(|of| of.skip_prefix(from)),
            Self::LowCardinality(_) => from.take(8).map(drop),
            Self::Variant(all) => {
                // How the discriminators are written; 0 is one a row.
                if from.number()? != 0 {
                    return Err(broken());
                }
                all.iter().try_for_each(|of| of.skip_prefix(from))
            }
        }
    }

    fn skip(&self, from: &mut Bytes<'_>, rows: usize) -> Result<(), Exception> {
        if rows == 0 {
            return Ok(());
        }
        match self {
            Self::Fixed(size) => from.items(rows, *size).map(drop),
            Self::String => (0..rows).try_for_each(|_| from.string().map(drop)),
            Self::Nullable(inner) => {
                from.take(rows)?;
                inner.skip(from, rows)
            }
            Self::Array(inner) => {
                from.items(rows - 1, 8)?;
                let items = from.number()?;
                inner.skip(from, items)
            }
            Self::Tuple(all) => all.iter().try_for_each(|of| of.skip(from, rows)),
            Self::LowCardinality(inner) => {
                const HAS_KEYS: usize = 1 << 9;
                let kind = from.number()?;
                if kind & HAS_KEYS != 0 {
                    let keys = from.number()?;
                    inner.skip(from, keys)?;
                }
                let rows = from.number()?;
                let size = match kind & 0xff {
                    0 => 1,
                    1 => 2,
                    2 => 4,
                    3 => 8,
                    _ => return Err(broken()),
                };
                from.items(rows, size).map(drop)
            }
            Self::Variant(all) => {
                let which = from.take(rows)?;
                let count = |at: usize| which.iter().filter(|of| usize::from(**of) == at).count();
                all.iter().enumerate().try_for_each(|(at, of)| of.skip(from, count(at)))
            }
        }
    }
}

/// The arguments between a type's brackets; `None` if the brackets or quotes do not match.
fn split_arguments(text: &str) -> Option<Vec<&str>> {
    let mut arguments = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    let mut quote: Option<u8> = None;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(of), _) if of == byte => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'`' | b'"') => quote = Some(byte),
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.checked_sub(1)?,
            (None, b',') if depth == 0 => {
                arguments.push(text.get(start..at)?);
                start = at + 1;
            }
            (None, _) => {}
        }
    }
    arguments.extend(text.get(start..).filter(|last| !last.trim().is_empty()));
    (depth == 0 && quote.is_none()).then_some(arguments)
}

/// `name Type` of a tuple's element without the name, which may stand in backquotes.
fn without_name(text: &str) -> &str {
    let text = text.trim();
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'`' => quoted = !quoted,
            b'(' if !quoted => return text,
            b' ' if !quoted => return text.get(at + 1..).unwrap_or_default(),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: &str, rows: u8, data: &[u8]) -> Vec<u8> {
        let length = u8::try_from(kind.len()).unwrap();
        [&[1, rows, 1, b'a', length][..], kind.as_bytes(), data].concat()
    }

    /// Blocks one after another, each of which ends where the next one begins.
    #[track_caller]
    fn check(kind: &str, rows: u8, data: &[u8]) {
        let blocks = block(kind, rows, data).repeat(2);
        let info = |revised: &[u8]| revised.windows(8).filter(|of| *of == INFO).count();
        let revised = revise(blocks.clone(), 54_405).unwrap();
        assert_eq!((revised.len(), info(&revised)), (blocks.len() + 16, 2), "{kind}");
        let revised = revise(blocks.clone(), 54_460).unwrap();
        assert_eq!(revised.len(), blocks.len() + 18, "{kind}");
        assert_eq!(revised.get(13 + kind.len()), Some(&0), "{kind}");
        assert_eq!(revise(blocks.clone(), 0).unwrap(), blocks);
        if rows > 0 {
            assert!(revise(blocks[..blocks.len() - 1].to_vec(), 54_460).is_err(), "{kind}");
        }
    }

    #[test]
    fn columns_end_where_their_type_says() {
        check("UInt32", 2, &[7; 8]);
        check("DateTime64(3, 'Europe/Berlin')", 1, &[7; 8]);
        check("Enum8('a)' = 1, 'b\\'(' = 2)", 2, &[7; 2]);
        check("Decimal(20, 3)", 1, &[7; 16]);
        check("FixedString(5)", 2, &[7; 10]);
        check("String", 2, b"\x03abc\x00");
        check("Nullable(String)", 2, b"\x01\x00\x00\x01x");
        check("Nothing", 2, b"00");
        check(
            "Tuple(a UInt8, `b (c` Array(Nullable(UInt16)))",
            1,
            &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9],
        );
        let offsets = [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        check("Map(String, UInt8)", 2, &[&offsets[..], b"\x01k\x07"].concat());
        check("Array(UInt8)", 1, &[0; 8]);
        check("AggregateFunction(sum, UInt64)", 0, b"");
        let dictionary = [
            &1_u64.to_le_bytes()[..],
            &(1_u64 << 9).to_le_bytes(),
            &2_u64.to_le_bytes(),
            b"\x00\x01k",
            &3_u64.to_le_bytes(),
            &[0, 1, 1],
        ];
        check("LowCardinality(Nullable(String))", 3, &dictionary.concat());
        let variant = [&[0; 8][..], &[1, 0, 0xff, 1], b"\x01a", &[5, 6]];
        check("Variant(String, UInt8)", 4, &variant.concat());
    }

    #[test]
    fn a_type_that_cannot_be_measured_is_named() {
        for kind in ["AggregateFunction(sum, UInt64)", "Dynamic", "JSON", "Array(Nope(1))", "A(b"] {
            let refused = revise(block(kind, 1, &[0; 8]), 54_460).unwrap_err();
            assert!(refused.code == 48 && refused.message.contains(kind), "{refused}");
        }
    }
}
