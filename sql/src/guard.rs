//! Whether a reader may run a statement: decided from what ClickHouse parsed, not from the text.
//!
//! In: the statement in ClickHouse's canonical form (`formatQuery`), its syntax tree (`EXPLAIN
//! AST`) and the values of its parameters. Out: admitted, or an exception that says why not. What
//! is admitted is run in the canonical form, so that what was checked is what runs.
//! Always true: a node, table function or system table that is not named here is refused; a tree
//! that hides a subquery (it has fewer SELECTs than the text) is refused.
//! Not here: which views exist and may be read. ClickHouse's grants decide that (`engine/config.rs`),
//! and read-only mode decides again on everything that changes.

use crate::Exception;
use crate::engine::SYSTEM_TABLES;
use crate::lexer::{Kind, Lexer, Token};
use crate::libchdb::Parameters;

/// How an admitted statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// A SELECT: its result can be streamed.
    Select,
    /// SHOW, DESCRIBE or EXISTS.
    Inspect,
}

const DATABASE: &str = "chalkstream";

/// Statements, by the first node of their tree.
const SELECTS: &[&str] = &["SelectWithUnionQuery", "SelectIntersectExceptQuery"];
const INSPECTIONS: &[&str] = &[
    "DescribeQuery",
    "ShowTables",
    "ShowColumns",
    "ExistsTableQuery",
    "ExistsViewQuery",
    "ExistsDatabaseQuery",
];
/// Nodes inside of a statement.
const NODES: &[&str] = &[
    "SelectQuery",
    "ExpressionList",
    "Identifier",
    "TableIdentifier",
    "Function",
    "Literal",
    "Asterisk",
    "QualifiedAsterisk",
    "ColumnsRegexpMatcher",
    "ColumnsListMatcher",
    "QualifiedColumnsRegexpMatcher",
    "QualifiedColumnsListMatcher",
    "ColumnsTransformerList",
    "ColumnsApplyTransformer",
    "ColumnsExceptTransformer",
    "ColumnsReplaceTransformer",
    "ColumnsReplaceTransformer::Replacement",
    "Subquery",
    "TablesInSelectQuery",
    "TablesInSelectQueryElement",
    "TableExpression",
    "TableJoin",
    "ArrayJoin",
    "OrderByElement",
    "WindowListElement",
    "WindowDefinition",
    "WithElement",
    "SampleRatio",
    "InterpolateElement",
    "Collation",
];
/// Table functions that reach nothing but their arguments.
const TABLE_FUNCTIONS: &[&str] = &["numbers", "generateseries", "generate_series", "values"];
/// Functions that reach files, other tables, the machine or the network, or that waste time. A
/// name that ends in `*` stands for all that begin so.
const DENIED_FUNCTIONS: &[&str] = &[
    "__*",
    "addressto*",
    "aiclassify",
    "aiextract",
    "aigenerate",
    "aitranslate",
    "buildid",
    "catboostevaluate",
    "demangle",
    "dictget*",
    "dicthas",
    "dictisin",
    "evalmlmethod",
    "file",
    "filesystem*",
    "fqdn",
    "fullhostname",
    "generateserialid",
    "getclienthttpheader",
    "getmacro",
    "getmergetreesetting",
    "getoskernelversion",
    "getserver*",
    "hascolumnintable",
    "hostname",
    "joinget*",
    "logtrace",
    "naivebayesclassifier",
    "serveruuid",
    "showcertificate",
    "sleep",
    "sleepeachrow",
    "tcpport",
    "tid",
    "transactionid",
    "transactionlatestsnapshot",
    "transactionoldestsnapshot",
    "zookeepersessionuptime",
];

fn denied(message: impl std::fmt::Display) -> Exception {
    Exception::new(497, "ACCESS_DENIED", format_args!("reader: not enough privileges: {message}"))
}

/// Decides. Pure.
pub(crate) fn admit(
    canonical: &[u8],
    tree: &str,
    parameters: &Parameters,
) -> Result<Admitted, Exception> {
    let admitted = check_tree(tree)?;
    let selects = tree.lines().filter(|line| kind_of(line) == "SelectQuery").count();
    check_tokens(canonical, selects, parameters)?;
    if tree.lines().next().is_some_and(|root| kind_of(root) == "ShowTables") {
        check_show(canonical)?;
    }
    Ok(admitted)
}

/// The node of SHOW TABLES is also that of SHOW DATABASES, which is fine, and of a few more.
fn check_show(sql: &[u8]) -> Result<(), Exception> {
    let mut words = Lexer::new(sql).skip(1).skip_while(|token| token.is_word(sql, "FULL"));
    let listed = |token: Token| ["TABLES", "DATABASES"].iter().any(|word| token.is_word(sql, word));
    if words.next().is_some_and(listed) {
        return Ok(());
    }
    Err(denied("only SHOW TABLES, SHOW DATABASES and SHOW COLUMNS"))
}

fn kind_of(line: &str) -> &str {
    line.trim_start_matches(' ').split(' ').next().unwrap_or_default()
}

/// What stands behind a node's kind, without `(alias x)` and `(children 2)`.
fn subject_of(line: &str) -> &str {
    let line = line.trim_start_matches(' ');
    let (_, subject) = line.split_once(' ').unwrap_or((line, ""));
    let end = subject.find(" (alias ").or_else(|| subject.find(" (children "));
    end.and_then(|end| subject.get(..end)).unwrap_or(subject)
}

/// Every line must be one that is known. A name with a line break in it makes lines of its own,
/// which are checked like any other: it can add lines, not hide one.
fn check_tree(tree: &str) -> Result<Admitted, Exception> {
    let mut lines = tree.lines().filter(|line| !line.is_empty());
    let root = kind_of(lines.next().unwrap_or_default());
    let admitted = if SELECTS.contains(&root) {
        Admitted::Select
    } else if INSPECTIONS.contains(&root) {
        Admitted::Inspect
    } else {
        return Err(denied("only SELECT, SHOW TABLES, SHOW COLUMNS, DESCRIBE and EXISTS"));
    };
    let mut parents: Vec<&str> = vec![root];
    for line in lines {
        let depth = line.bytes().take_while(|byte| *byte == b' ').count();
        let kind = kind_of(line);
        let subject = subject_of(line);
        parents.truncate(depth.max(1));
        let parent = parents.last().copied().unwrap_or_default();
        if kind == "Set" {
            return Err(Exception::new(
                164,
                "READONLY",
                "reader: settings go into the URL, not into the query",
            ));
        }
        if !NODES.contains(&kind) && !SELECTS.contains(&kind) {
            return Err(denied(format_args!("`{kind}` in a query")));
        }
        match kind {
            "Literal" if depth == 1 => return Err(denied("INTO OUTFILE")),
            "Function" if parent == "TableExpression" => check_table_function(subject)?,
            "Function" => check_name(subject)?,
            "Identifier" => {
                check_name(subject)?;
                check_qualified(subject, false)?;
            }
            "TableIdentifier" => check_qualified(subject, true)?,
            _ => {}
        }
        parents.push(kind);
    }
    Ok(admitted)
}

fn check_table_function(name: &str) -> Result<(), Exception> {
    if TABLE_FUNCTIONS.contains(&name.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(denied(format_args!("the table function `{name}`")))
}

fn check_name(name: &str) -> Result<(), Exception> {
    let lower = name.to_ascii_lowercase();
    let matches = |pattern: &&&str| match pattern.strip_suffix('*') {
        Some(prefix) => lower.starts_with(prefix),
        None => lower == **pattern,
    };
    match DENIED_FUNCTIONS.iter().find(matches) {
        Some(_) => Err(denied(format_args!("the function `{name}`"))),
        None => Ok(()),
    }
}

fn is_system(database: &str) -> bool {
    ["system", "information_schema"].iter().any(|of| of.eq_ignore_ascii_case(database))
}

/// `database.table`, of which the database must be ours or the table a public system table. A
/// column may be written `alias.column` too, so of columns only system's are looked at.
fn check_qualified(name: &str, is_table: bool) -> Result<(), Exception> {
    let Some((database, table)) = name.split_once('.') else { return Ok(()) };
    if is_system(database) {
        let table = table.split('.').next().unwrap_or_default();
        let full = format!("{database}.{table}").to_ascii_lowercase();
        if SYSTEM_TABLES.contains(&full.as_str()) {
            return Ok(());
        }
        return Err(denied(format_args!("the table `{name}`")));
    }
    if is_table && database != DATABASE {
        return Err(denied(format_args!("the table `{name}`: only views of `{DATABASE}`")));
    }
    Ok(())
}

/// What the tree does not show: the inside of windows and of APPLY, and clauses of the client.
fn check_tokens(sql: &[u8], selects: usize, parameters: &Parameters) -> Result<(), Exception> {
    let tokens: Vec<Token> = Lexer::new(sql).collect();
    let mut found = 0;
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Word | Kind::QuotedName => {}
            Kind::Sign(b'{') => {
                check_placeholder(sql, tokens.get(index..).unwrap_or_default(), parameters)?;
                continue;
            }
            Kind::Sign(b';') => return Err(denied("more than one statement")),
            Kind::Sign(_) | Kind::Text | Kind::Number => continue,
        }
        let name = token.name(sql);
        let quoted = token.kind == Kind::QuotedName;
        if quoted && name.iter().any(|byte| *byte == b'\\' || byte.is_ascii_control()) {
            return Err(denied("a name with a backslash or a control character"));
        }
        let name = String::from_utf8_lossy(name);
        if !quoted && ["OUTFILE", "INFILE"].iter().any(|word| token.is_word(sql, word)) {
            return Err(denied(format_args!("INTO {name}")));
        }
        if !quoted && token.is_word(sql, "SELECT") {
            found += 1;
        }
        check_name(&name)?;
        if is_system(&name)
            && let [dot, table, ..] = tokens.get(index + 1..).unwrap_or_default()
            && dot.is_sign(b'.')
        {
            check_qualified(&format!("{name}.{}", String::from_utf8_lossy(table.name(sql))), true)?;
        }
    }
    if found != selects {
        return Err(denied("a subquery in a place that cannot be checked"));
    }
    Ok(())
}

/// `{name:Identifier}` may only stand for a plain name.
fn check_placeholder(
    sql: &[u8],
    tokens: &[Token],
    parameters: &Parameters,
) -> Result<(), Exception> {
    let [_, name, colon, kind, ..] = tokens else { return Ok(()) };
    if !colon.is_sign(b':') || !kind.is_word(sql, "Identifier") {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name.name(sql));
    for (_, value) in parameters.iter().filter(|(of, _)| *of == name) {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        if !value.iter().all(plain) {
            return Err(denied(format_args!("the value of `{name}` as a name")));
        }
        let value = String::from_utf8_lossy(value);
        check_name(&value)?;
        check_qualified(&value, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "SelectWithUnionQuery (children 1)\n ExpressionList (children 1)\n  SelectQuery (children 2)\n   ExpressionList (children 1)\n    Identifier a\n   TablesInSelectQuery (children 1)\n    TablesInSelectQueryElement (children 1)\n     TableExpression (children 1)\n";

    #[track_caller]
    fn check(sql: &str, node: &str, expected: Result<Admitted, &str>) {
        let tree = format!("{TREE}      {node}\n");
        let admitted = admit(sql.as_bytes(), &tree, &[]);
        match expected {
            Ok(kind) => assert_eq!(admitted.unwrap(), kind),
            Err(text) => {
                let refused = admitted.unwrap_err();
                assert!(refused.to_string().contains(text), "{refused}");
            }
        }
    }

    #[test]
    fn views_are_admitted_and_other_databases_are_not() {
        check("SELECT a FROM v", "TableIdentifier v", Ok(Admitted::Select));
        check("SELECT a FROM v", "TableIdentifier chalkstream.v (alias x)", Ok(Admitted::Select));
        check("SELECT a FROM v", "TableIdentifier system.settings", Ok(Admitted::Select));
        check("SELECT a FROM v", "TableIdentifier INFORMATION_SCHEMA.tables", Ok(Admitted::Select));
        check("SELECT a FROM v", "TableIdentifier system.processes", Err("system.processes"));
        check("SELECT a FROM v", "TableIdentifier other.v", Err("other.v"));
    }

    #[test]
    fn what_the_tree_hides_is_found_in_the_text() {
        let table = "TableIdentifier v";
        check("SELECT a FROM v INTO OUTFILE 'x'", table, Err("OUTFILE"));
        check("SELECT * APPLY(file) FROM v", table, Err("function `file`"));
        check("SELECT 1 WINDOW w AS (ORDER BY (SELECT 1))", table, Err("subquery"));
        check("SELECT 1 WINDOW w AS (ORDER BY 1 IN system.parts)", table, Err("system.parts"));
        check("SELECT `a\\n SelectQuery` FROM v", table, Err("backslash"));
        check("SELECT 1; SELECT 2", table, Err("more than one"));
        check("SELECT 'file', 'system.parts; OUTFILE' FROM v", table, Ok(Admitted::Select));
    }

    #[test]
    fn functions_that_reach_out_are_refused_wherever_they_stand() {
        check("SELECT a FROM v", "Function numbers (children 1)", Ok(Admitted::Select));
        for name in ["file", "url", "s3", "merge", "remote", "cluster", "view", "input", "format"] {
            check("SELECT a FROM v", &format!("Function {name} (children 1)"), Err(name));
        }
        let tree = "SelectWithUnionQuery (children 1)\n ExpressionList (children 1)\n  Function FILE (children 1)\n";
        assert!(admit(b"", tree, &[]).is_err());
        assert!(admit(b"", "InsertQuery t (children 1)\n", &[]).is_err());
        assert!(admit(b"", "digraph {\n", &[]).is_err());
        assert!(admit(b"", "", &[]).is_err());
    }

    #[test]
    fn a_parameter_cannot_smuggle_a_name() {
        let tree = format!("{TREE}      TableIdentifier v\n");
        let admit = |value: &str| {
            let parameters = [("t".to_owned(), value.as_bytes().to_vec())];
            admit(b"SELECT a FROM {t:Identifier}", &tree, &parameters)
        };
        assert!(admit("events").is_ok());
        assert!(admit("system.processes").is_err());
        assert!(admit("v\n Function x").is_err());
    }
}
