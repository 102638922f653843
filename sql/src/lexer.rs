//! Tokens of ClickHouse's SQL: just enough to find statements, clauses and names.
//!
//! In: bytes, because the data of an INSERT follows in any encoding. Out: tokens with their place.
//! Comments and white space are skipped. Anything unclosed runs to the end.
//! Not here: deciding whether a statement is valid; ClickHouse parses it again.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or a bare identifier.
    Word,
    /// An identifier in backquotes or double quotes.
    QuotedName,
    /// A string in single quotes, or a here-document.
    Text,
    /// A number; what follows its first digit is not looked into.
    Number,
    /// Any other byte.
    Sign(u8),
}

/// A token and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) range: Range<usize>,
}

impl Token {
    /// Whether it is this keyword, in any case.
    pub(crate) fn is_word(&self, sql: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && self.bytes(sql).eq_ignore_ascii_case(word.as_bytes())
    }

    pub(crate) fn is_sign(&self, sign: u8) -> bool {
        self.kind == Kind::Sign(sign)
    }

    /// The token as written.
    pub(crate) fn bytes<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.range.clone()).unwrap_or_default()
    }

    /// The token as written, without the quotes of a name.
    pub(crate) fn name<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        let bytes = self.bytes(sql);
        match self.kind {
            Kind::QuotedName => bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or_default(),
            Kind::Word | Kind::Text | Kind::Number | Kind::Sign(_) => bytes,
        }
    }
}

/// Reads tokens one by one, so that what follows a statement need not be looked at.
#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(sql: &'a [u8]) -> Self {
        Self { sql, at: 0 }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.sql.get(self.at..).unwrap_or_default()
    }

    /// Moves behind the next `needle`, or to the end.
    fn skip_past(&mut self, needle: &[u8]) {
        let found = self.rest().windows(needle.len()).position(|window| window == needle);
        self.at = found.map_or(self.sql.len(), |found| self.at + found + needle.len());
    }

    fn skip_blank(&mut self) {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(byte), _) if byte.is_ascii_whitespace() || byte == 0x0b => self.at += 1,
                (Some(b'-'), Some(b'-')) | (Some(b'#'), Some(b' ' | b'!')) => self.skip_past(b"\n"),
                (Some(b'/'), Some(b'*')) => {
                    self.at += 2;
                    self.skip_past(b"*/");
                }
                _ => return,
            }
        }
    }

    /// Moves behind the closing quote; a quote is doubled or escaped by a backslash.
    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == b'\\' {
                self.at += 1;
            } else if byte == quote {
                if self.peek(0) != Some(quote) {
                    return;
                }
                self.at += 1;
            }
        }
        self.at = self.sql.len();
    }

    /// `$tag$ … $tag$`, if one begins here.
    fn skip_heredoc(&mut self) -> bool {
        let tag = self.rest().iter().skip(1).position(|byte| *byte == b'$');
        let Some(tag) = tag.and_then(|end| self.rest().get(..end + 2)) else { return false };
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'$';
        if !tag.iter().all(word) {
            return false;
        }
        self.at += tag.len();
        self.skip_past(tag);
        true
    }
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.at;
        let first = self.peek(0)?;
        let kind = match first {
            b'\'' => {
                self.skip_quoted(first);
                Kind::Text
            }
            b'`' | b'"' => {
                self.skip_quoted(first);
                Kind::QuotedName
            }
            b'$' if self.skip_heredoc() => Kind::Text,
            _ if in_word(first) => {
                while self.peek(0).is_some_and(in_word) {
                    self.at += 1;
                }
                if first.is_ascii_digit() { Kind::Number } else { Kind::Word }
            }
            _ => {
                self.at += 1;
                Kind::Sign(first)
            }
        };
        Some(Token { kind, range: start..self.at.min(self.sql.len()) })
    }
}

/// The statements of a file, without the `;` between them.
pub(crate) fn split_statements(sql: &str) -> Vec<&str> {
    let bytes = sql.as_bytes();
    let mut statements = Vec::new();
    let mut start = None;
    let mut end = 0;
    for token in Lexer::new(bytes) {
        if token.is_sign(b';') {
            if let Some(start) = start.take() {
                statements.extend(sql.get(start..end));
            }
        } else {
            start.get_or_insert(token.range.start);
            end = token.range.end;
        }
    }
    if let Some(start) = start {
        statements.extend(sql.get(start..end));
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: &[&str]) {
        let tokens: Vec<String> = Lexer::new(sql.as_bytes())
            .map(|token| String::from_utf8_lossy(token.bytes(sql.as_bytes())).into_owned())
            .collect();
        assert_eq!(tokens, expected);
    }

    #[test]
    fn tokens_are_found_between_comments_and_in_quotes() {
        check("SELECT a -- ; x\n,/* ' */b", &["SELECT", "a", ",", "b"]);
        check("'it''s; \\' ok' `a``b` \"c\\\"d\"", &["'it''s; \\' ok'", "`a``b`", "\"c\\\"d\""]);
        check("$x$ ; ' $x$ + $$a$$", &["$x$ ; ' $x$", "+", "$$a$$"]);
        check("t.c=1.5e3", &["t", ".", "c", "=", "1", ".", "5e3"]);
        check("'open", &["'open"]);
        check("", &[]);
        check("a # note\nb", &["a", "b"]);
    }

    #[test]
    fn statements_are_split_at_semicolons_that_are_not_quoted() {
        let sql = "-- first; comment\nCREATE TABLE a (b String DEFAULT ';');\n\n;SELECT 1 /* ; */ + 2;\n-- end\n";
        assert_eq!(
            split_statements(sql),
            ["CREATE TABLE a (b String DEFAULT ';')", "SELECT 1 /* ; */ + 2"]
        );
        assert!(split_statements("-- nothing\n").is_empty());
    }
}
