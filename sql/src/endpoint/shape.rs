//! How a result that comes in pieces is put together, by its format.
//!
//! libchdb writes every piece of a stream as a document of its own. Formats of bare rows can be
//! joined as they are; those with a header lose it from the second piece on; all others (JSON,
//! Parquet, Pretty …) are made as a whole instead.

/// What the pieces of a format are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Rows and nothing else.
    Rows,
    /// A header before the rows, which must come once.
    Headed(Header),
    /// One document: its pieces cannot be joined.
    Document,
}

/// What a header is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// So many lines, in which no line break can stand.
    Lines(usize),
    /// So many records of CSV, whose fields in quotes may hold line breaks.
    CsvRecords(usize),
    /// A count of columns, then so many strings for each.
    Binary(usize),
}

const ROWS: &[&str] = &[
    "csv",
    "jsoncompacteachrow",
    "jsoncompactstringseachrow",
    "jsoneachrow",
    "jsonlines",
    "jsonstringseachrow",
    "lineasstring",
    "msgpack",
    "native",
    "ndjson",
    "null",
    "raw",
    "rawblob",
    "rowbinary",
    "tabseparated",
    "tabseparatedraw",
    "tskv",
    "tsv",
    "tsvraw",
];

impl Shape {
    pub(super) fn of(format: &str) -> Self {
        let format = format.to_ascii_lowercase();
        if ROWS.contains(&format.as_str()) {
            return Self::Rows;
        }
        let (base, count) = match format.strip_suffix("withnamesandtypes") {
            Some(base) => (base, 2),
            None => match format.strip_suffix("withnames") {
                Some(base) => (base, 1),
                None => return Self::Document,
            },
        };
        match base {
            "rowbinary" => Self::Headed(Header::Binary(count)),
            "csv" => Self::Headed(Header::CsvRecords(count)),
            "tabseparated" | "tsv" | "jsoncompacteachrow" | "jsoncompactstringseachrow" => {
                Self::Headed(Header::Lines(count))
            }
            // Raw names may hold line breaks, and the rest is not known to have such a header.
            _ => Self::Document,
        }
    }
}

impl Header {
    /// Where the rows begin in a piece.
    pub(super) fn length(self, piece: &[u8]) -> Option<usize> {
        match self {
            Self::Lines(count) => {
                let breaks = piece.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                breaks.map(|(at, _)| at + 1).nth(count.checked_sub(1)?)
            }
            Self::CsvRecords(count) => {
                let mut quoted = false;
                let mut left = count;
                for (at, byte) in piece.iter().enumerate() {
                    match byte {
                        // A doubled quote ends and begins a quoted part: the state is right again.
                        b'"' => quoted = !quoted,
                        b'\n' if !quoted => left -= 1,
                        _ => {}
                    }
                    if left == 0 {
                        return Some(at + 1);
                    }
                }
                None
            }
            Self::Binary(strings) => {
                let (columns, mut at) = var_uint(piece, 0)?;
                for _ in 0..columns.checked_mul(strings)? {
                    let (length, next) = var_uint(piece, at)?;
                    at = next.checked_add(length).filter(|at| *at <= piece.len())?;
                }
                Some(at)
            }
        }
    }
}

/// ClickHouse's number of variable length, and what is behind it.
fn var_uint(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some((value, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: &str, piece: &[u8], rows: &[u8]) {
        let Shape::Headed(header) = Shape::of(format) else { panic!("{format} has a header") };
        assert_eq!(&piece[header.length(piece).unwrap()..], rows);
    }

    #[test]
    fn a_header_ends_where_the_rows_begin() {
        check("TSVWithNames", b"a\tb\n1\t2\n", b"1\t2\n");
        check("TabSeparatedWithNamesAndTypes", b"a\nUInt8\n1\n", b"1\n");
        check("CSVWithNames", b"\"a\"\"\nb\",\"c\"\n1,2\n", b"1,2\n");
        check("RowBinaryWithNamesAndTypes", b"\x01\x02ab\x05UInt8\x07", b"\x07");
        check("RowBinaryWithNames", b"\x02\x01a\x01b\x07\x08", b"\x07\x08");
        assert_eq!(Header::Binary(2).length(b"\x01\xff"), None);
    }

    #[test]
    fn documents_are_not_joined() {
        for format in
            ["JSON", "JSONCompact", "Parquet", "Pretty", "Values", "Arrow", "XML", "Vertical"]
        {
            assert_eq!(Shape::of(format), Shape::Document);
        }
        assert_eq!(Shape::of("jsoneachrow"), Shape::Rows);
    }
}
