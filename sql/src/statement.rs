//! What a request asks for: to read, to insert data that follows, or something else.
//!
//! In: the text of a request. Out: [`Statement`], with the place where an INSERT's data begins.
//! Not here: permission (see [`crate::guard`]); whether the statement is valid (ClickHouse says).

use crate::lexer::{Kind, Lexer, Token};

/// A request's statement, as far as it matters how it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// SELECT or WITH: the result can be streamed.
    Select,
    /// SHOW, DESCRIBE, EXISTS, EXPLAIN, CHECK: reads, and answers at once.
    Inspect,
    /// INSERT whose data follows the statement.
    Insert(Insert),
    /// SET or USE: changes the session, not the data.
    Session,
    /// Anything that changes data or schema.
    Change,
    /// No statement at all.
    Empty,
}

/// An INSERT without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insert {
    /// `INSERT INTO table (columns)`.
    pub(crate) target: String,
    /// ` SETTINGS a = 1`, or nothing.
    pub(crate) settings: String,
    /// The format of the data, if the statement names one.
    pub(crate) format: Option<String>,
    /// Where the data begins.
    pub(crate) data_at: usize,
}

impl Insert {
    /// The statement that reads the data from a file. Data inside of a query would be cut at a
    /// blank line.
    pub(crate) fn reading_file(&self, path: &str, default_format: &str) -> String {
        let Self { target, settings, format, data_at: _ } = self;
        let format = format.as_deref().unwrap_or(default_format);
        format!("{target} FROM INFILE '{path}' COMPRESSION 'none'{settings} FORMAT {format}")
    }
}

/// Reads the beginning of a request.
pub(crate) fn classify(sql: &[u8]) -> Statement {
    let first = Lexer::new(sql).find(|token| !token.is_sign(b'('));
    let Some(first) = first else { return Statement::Empty };
    let is = |words: &[&str]| words.iter().any(|word| first.is_word(sql, word));
    if is(&["SELECT", "WITH", "FROM", "VALUES"]) {
        Statement::Select
    } else if is(&["SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK"]) {
        Statement::Inspect
    } else if is(&["SET", "USE"]) {
        Statement::Session
    } else if is(&["INSERT"]) {
        insert(sql).map_or(Statement::Change, Statement::Insert)
    } else {
        Statement::Change
    }
}

/// `None` if the INSERT brings no data of its own (INSERT … SELECT).
fn insert(sql: &[u8]) -> Option<Insert> {
    let mut lexer = Lexer::new(sql).peekable();
    // Where SETTINGS begins. It ends where the format or the data begins.
    let mut settings: Option<usize> = None;
    let mut depth = 0_usize;
    let text = |from: usize, to: usize| {
        String::from_utf8_lossy(sql.get(from..to).unwrap_or_default()).trim().to_owned()
    };
    let start = lexer.peek()?.range.start;
    let finish = |settings: Option<usize>, end: usize, format, data_at| {
        Some(Insert {
            target: text(start, settings.unwrap_or(end)),
            settings: settings.map(|from| format!(" {}", text(from, end))).unwrap_or_default(),
            format,
            data_at,
        })
    };
    let mut previous_end = start;
    while let Some(token) = lexer.next() {
        if depth > 0 {
            match token.kind {
                Kind::Sign(b'(') => depth += 1,
                Kind::Sign(b')') => depth -= 1,
                Kind::Sign(_) | Kind::Word | Kind::QuotedName | Kind::Text | Kind::Number => {}
            }
        } else if token.is_sign(b'(') {
            depth = 1;
        } else if token.is_word(sql, "SETTINGS") {
            settings.get_or_insert(token.range.start);
        } else if token.is_word(sql, "FORMAT") {
            let name = lexer.next().filter(|name| name.kind == Kind::Word)?;
            let format = String::from_utf8_lossy(name.bytes(sql)).into_owned();
            return finish(settings, previous_end, Some(format), after_format(sql, &name));
        } else if token.is_word(sql, "VALUES") {
            let format = Some("Values".to_owned());
            return finish(settings, previous_end, format, token.range.end);
        } else if ["SELECT", "WITH", "FROM", "WATCH"].iter().any(|word| token.is_word(sql, word)) {
            return None;
        } else if token.is_sign(b';') {
            return finish(settings, previous_end, None, token.range.end);
        }
        previous_end = token.range.end;
    }
    finish(settings, previous_end, None, sql.len())
}

/// Data begins behind spaces and one line break after the format's name.
fn after_format(sql: &[u8], name: &Token) -> usize {
    let mut at = name.range.end;
    let byte = |at: usize| sql.get(at).copied();
    while matches!(byte(at), Some(b' ' | b'\t' | 0x0c)) {
        at += 1;
    }
    if byte(at) == Some(b'\r') {
        at += 1;
    }
    if byte(at) == Some(b'\n') {
        at += 1;
    }
    at
}

/// The format that a statement names at its end.
pub(crate) fn output_format(sql: &[u8]) -> Option<String> {
    let tokens: Vec<Token> = Lexer::new(sql).collect();
    let found = tokens.windows(2).rev().find_map(|pair| match pair {
        [keyword, name] if keyword.is_word(sql, "FORMAT") && name.kind == Kind::Word => Some(name),
        _ => None,
    });
    found.map(|name| String::from_utf8_lossy(name.bytes(sql)).into_owned())
}

/// Words that statements begin with. libchdb is a client too, and takes other beginnings for words
/// to the client ("exit").
const BEGINNINGS: &[&str] = &[
    "ALTER", "ATTACH", "BACKUP", "CHECK", "CREATE", "DELETE", "DESC", "DESCRIBE", "DETACH", "DROP",
    "EXCHANGE", "EXISTS", "EXPLAIN", "FROM", "GRANT", "INSERT", "KILL", "MOVE", "OPTIMIZE",
    "RENAME", "REPLACE", "RESTORE", "REVOKE", "SELECT", "SET", "SHOW", "SYSTEM", "TRUNCATE",
    "UNDROP", "UPDATE", "USE", "VALUES", "WITH",
];

/// Whether it begins like a statement of ClickHouse.
pub(crate) fn is_known(sql: &[u8]) -> bool {
    let first = Lexer::new(sql).find(|token| !token.is_sign(b'('));
    first.is_some_and(|first| BEGINNINGS.iter().any(|word| first.is_word(sql, word)))
}

/// Whether a bare word occurs, as a keyword would.
pub(crate) fn mentions(sql: &[u8], word: &str) -> bool {
    Lexer::new(sql).any(|token| token.is_word(sql, word))
}

/// Whether something follows the first `;`.
pub(crate) fn is_several(sql: &[u8]) -> bool {
    Lexer::new(sql).skip_while(|token| !token.is_sign(b';')).any(|token| !token.is_sign(b';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_insert(sql: &[u8], statement: &str, data: &[u8]) {
        let Statement::Insert(insert) = classify(sql) else {
            panic!("not an insert with data: {}", String::from_utf8_lossy(sql))
        };
        assert_eq!(insert.reading_file("/f", "Values"), statement);
        assert_eq!(&sql[insert.data_at..], data);
    }

    #[test]
    fn an_insert_is_cut_where_its_data_begins() {
        check_insert(
            b"INSERT INTO db.t (a, `b)c`) FORMAT RowBinary\n\n\n\x00\xff",
            "INSERT INTO db.t (a, `b)c`) FROM INFILE '/f' COMPRESSION 'none' FORMAT RowBinary",
            b"\n\n\x00\xff",
        );
        check_insert(
            b"insert into t settings async_insert=0, x='FORMAT' format CSV 1,2",
            "insert into t FROM INFILE '/f' COMPRESSION 'none' settings async_insert=0, x='FORMAT' FORMAT CSV",
            b"1,2",
        );
        check_insert(
            b"INSERT INTO t VALUES (1),\n\n(2)",
            "INSERT INTO t FROM INFILE '/f' COMPRESSION 'none' FORMAT Values",
            b" (1),\n\n(2)",
        );
        check_insert(
            b"INSERT INTO t",
            "INSERT INTO t FROM INFILE '/f' COMPRESSION 'none' FORMAT Values",
            b"",
        );
        check_insert(
            b"INSERT INTO `FORMAT` (* EXCEPT (a)) FORMAT TSV\r\nx",
            "INSERT INTO `FORMAT` (* EXCEPT (a)) FROM INFILE '/f' COMPRESSION 'none' FORMAT TSV",
            b"x",
        );
    }

    #[test]
    fn statements_are_told_apart() {
        let check = |sql: &str, expected| assert_eq!(classify(sql.as_bytes()), expected, "{sql}");
        check("-- x\n (select 1)", Statement::Select);
        check("WITH a AS (SELECT 1) SELECT * FROM a", Statement::Select);
        check("desc t", Statement::Inspect);
        check("INSERT INTO t SELECT 1", Statement::Change);
        check("INSERT INTO t (a) FROM INFILE 'x' FORMAT CSV", Statement::Change);
        check("use x", Statement::Session);
        check("DROP TABLE t", Statement::Change);
        check(" /* only */ ", Statement::Empty);
    }

    #[test]
    fn the_last_format_counts_and_quoted_words_do_not() {
        let format = |sql: &str| output_format(sql.as_bytes());
        assert_eq!(format("SELECT 'x FORMAT CSV' FORMAT JSON"), Some("JSON".to_owned()));
        assert_eq!(format("SELECT `FORMAT` FROM t"), None);
        assert!(is_several(b"select 1; select 2") && !is_several(b"select ';'; ; -- x"));
    }
}
