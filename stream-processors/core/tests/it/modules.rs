//! No two modules of a crate import each other in a circle, in any crate of the repository.
//!
//! In: every source file, as text. Out: a failure that names each import which closes a circle.
//! What counts as an import: the paths of `use` lines, and paths in the code that begin with `crate`,
//! `super`, `self` or a child module. What does not: a `mod` line, so that a folder is no circle by
//! itself; comments; what `include!` brings. A module inside a file, such as its tests, is one of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

/// Imports that close circles still, by crate: without them there is none. To be emptied; one that
/// closes no circle any more fails the test, too.
const LEFT: &[(&str, &[(&str, &str)])] = &[
    (
        "batch-jobs",
        &[("archiver::run", "archiver"), ("lake", "lake::s3"), ("reports::runs", "reports")],
    ),
    (
        "chalkstream",
        &[
            ("commands", "cli"),
            ("commands", "commands::archive"),
            ("commands", "commands::dataset"),
            ("commands", "commands::doctor"),
            ("commands", "commands::ingest"),
            ("commands", "commands::keys"),
            ("commands", "commands::migrate"),
            ("commands", "commands::model"),
            ("commands", "commands::process"),
            ("commands", "commands::rejected"),
            ("commands", "commands::report"),
            ("commands", "commands::schools"),
            ("commands", "commands::send"),
            ("commands", "commands::sql"),
            ("commands", "commands::standalone"),
            ("commands", "commands::tail"),
            ("commands::rejected", "commands::rejected::list"),
            ("commands::rejected", "commands::rejected::replay"),
            ("config", "config::load"),
            ("config::keys", "config"),
            ("control", "control::server"),
            ("control::client", "control"),
            ("control::replay", "control::server"),
            ("control::tail", "control::server"),
            ("roles", "roles::pipeline"),
            ("roles", "roles::reload"),
            ("send", "send::progress"),
            ("send", "send::worker"),
        ],
    ),
    ("deploy/demo", &[("the root", "checks")]),
    (
        "event-log",
        &[
            ("embedded", "embedded::subscription"),
            ("embedded", "embedded::trim"),
            ("identities", "identities::buckets"),
            ("identities", "identities::generations"),
            ("identities::table", "identities"),
            ("kafka", "kafka::admin"),
            ("kafka", "kafka::producer"),
            ("kafka", "kafka::reader"),
            ("kafka", "kafka::subscription"),
            ("kafka", "kafka::table"),
            ("kafka::producer::rounds", "kafka::producer::calls"),
            ("kafka::table", "kafka::table::follower"),
            ("seen::shared", "seen"),
            ("seen::writer", "seen"),
            ("spool", "spool::forward"),
            ("spool::segments", "spool"),
            ("spool::segments", "spool::forward"),
            ("the root", "error"),
            ("the root", "intake"),
        ],
    ),
    (
        "schemas",
        &[
            ("control", "record"),
            ("event", "payload"),
            ("fields", "payload"),
            ("json", "json::text"),
            ("the root", "parse"),
            ("transcode", "payload"),
        ],
    ),
    (
        "sql",
        &[
            ("credentials", "the root"),
            ("endpoint", "endpoint::run"),
            ("engine::pool", "engine"),
            ("the root", "database"),
            ("the root", "endpoint"),
            ("the root", "libchdb"),
        ],
    ),
    (
        "stream-processors",
        &[
            ("first_seen", "first_seen::catch_up"),
            ("first_seen", "first_seen::partition"),
            ("processor::driver", "processor"),
        ],
    ),
    ("stream-processors's tests", &[("support", "child")]),
    (
        "stream-processors/core",
        &[
            ("control", "fold"),
            ("control", "partition"),
            ("learner", "registry"),
            ("partition", "registry"),
            ("shared", "partition"),
        ],
    ),
];

#[test]
fn no_two_modules_of_a_crate_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let crates = crates(&root);
    assert!(crates.len() > 8, "the workspace's members were not found in {}", root.display());
    let mut faults = Vec::new();
    for (name, files) in crates {
        let left = LEFT.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, pairs)| pairs);
        let is_left = |(from, to): &(String, String)| left.contains(&(from.as_str(), to.as_str()));
        let imports = imports(&files);
        for (from, to) in circles(&imports.iter().filter(|pair| !is_left(pair)).cloned().collect())
        {
            faults.push(format!("{name}: `{from}` imports `{to}`, which leads back to it"));
        }
        let closing = circles(&imports);
        for (from, to) in left {
            if !closing.contains(&((*from).to_owned(), (*to).to_owned())) {
                faults
                    .push(format!("{name}: `{from}` -> `{to}` is in no circle: take it off LEFT"));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn what_is_an_import_and_what_is_not() {
    let root = "
        mod a; mod b; mod c; // use crate::b::B;
        pub use a::A;
        fn f() -> c::C { c::new(\"crate::b\", '\"') }
    ";
    let a = "
        use super::b::{self, x::{Y, Z as z}};
        /* use crate::c; */
        mod inner { use super::Own; fn g() { super::super::c::h() } }
        #[cfg(test)] mod tests { use super::*; }
    ";
    let b = "use std::fmt; fn f<'a>(x: &'a str) { crate::a::f(x) } mod x;";
    let files = [(&[][..], root), (&["a"], a), (&["b"], b), (&["b", "x"], ""), (&["c"], "")];
    let files = files.map(|(path, text)| {
        (path.iter().map(|name| (*name).to_owned()).collect(), text.to_owned())
    });
    let imports = imports(&files);
    let expected = [
        ("a", "b"),
        ("a", "b::x"),
        ("a::inner", "a"),
        ("a::inner", "c"),
        ("a::tests", "a"),
        ("b", "a"),
        ("the root", "a"),
        ("the root", "c"),
    ];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(imports, BTreeSet::from(expected));
    let closing = [("a", "b"), ("b", "a")].map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(circles(&imports), BTreeSet::from(closing));
}

/// Names from the crate's root; none for the root.
type ModulePath = Vec<String>;
type Imports = BTreeSet<(String, String)>;

/// Every crate with its modules: the packages' sources, and their integration tests.
fn crates(root: &Path) -> BTreeMap<String, Vec<(ModulePath, String)>> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next());
    let mut crates = BTreeMap::new();
    for member in members.unwrap().split(',').map(|name| name.trim().trim_matches('"')) {
        if member.is_empty() {
            continue;
        }
        for (folder, kind) in [("src", ""), ("tests/it", "'s tests")] {
            let mut files = Vec::new();
            read_modules(&root.join(member).join(folder), &mut Vec::new(), &mut files);
            crates.insert(format!("{member}{kind}"), files);
        }
    }
    crates
}

fn read_modules(folder: &Path, path: &mut ModulePath, files: &mut Vec<(ModulePath, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries = entries.map(|entry| entry.unwrap().path()).collect::<Vec<PathBuf>>();
    entries.sort();
    for entry in entries {
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_root = path.is_empty() && ["lib", "main"].contains(&name.as_str());
        if entry.is_dir() {
            path.push(name);
            read_modules(&entry, path, files);
            path.pop();
        } else if entry.extension().is_some_and(|end| end == "rs") {
            let of_file = if is_root { None } else { Some(name) };
            let module = path.iter().cloned().chain(of_file).collect();
            files.push((module, fs::read_to_string(&entry).unwrap()));
        }
    }
}

/// Which module imports which, by their names.
fn imports(files: &[(ModulePath, String)]) -> Imports {
    let tokens = files.iter().map(|(path, text)| (path, tokens(text))).collect::<Vec<_>>();
    let mut modules = files.iter().map(|(path, _)| path.clone()).collect::<BTreeSet<_>>();
    for (path, tokens) in &tokens {
        walk(path, tokens, &mut |module, _| {
            modules.insert(module.to_vec());
        });
    }
    let mut imports = Imports::new();
    for (path, tokens) in &tokens {
        walk(path, tokens, &mut |module, rest| {
            for written in paths(rest) {
                let Some(target) = resolve(module, &written, &modules) else { continue };
                if target != module {
                    imports.insert((name(module), name(&target)));
                }
            }
        });
    }
    imports
}

fn name(module: &[String]) -> String {
    if module.is_empty() { "the root".to_owned() } else { module.join("::") }
}

/// Calls `look` at each place where a path may begin, with the module that the place is in.
fn walk(file: &[String], tokens: &[String], look: &mut dyn FnMut(&[String], &[String])) {
    let mut module = file.to_vec();
    // For each open brace whether it is a module's.
    let mut braces = Vec::new();
    let at = |place: usize| tokens.get(place).map_or("", String::as_str);
    for (place, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => {
                let opens = place >= 2 && at(place - 2) == "mod";
                if opens {
                    module.push(at(place - 1).to_owned());
                    look(&module, &[]);
                }
                braces.push(opens);
            }
            "}" if braces.pop() == Some(true) => drop(module.pop()),
            "}" => {}
            _ if place > 0 && ["::", ".", "mod"].contains(&at(place - 1)) => {}
            // Inside a `use` tree what follows a brace or a comma is part of the path before it.
            "use" => look(&module, tokens.get(place + 1..).unwrap_or_default()),
            _ if at(place + 1) == "::" => look(&module, tokens.get(place..).unwrap_or_default()),
            _ => {}
        }
    }
}

/// The paths that begin at the first token: one, or those of a tree in braces.
fn paths(tokens: &[String]) -> Vec<ModulePath> {
    let mut found = Vec::new();
    tree(&mut tokens.iter().map(String::as_str).peekable(), &mut Vec::new(), &mut found);
    found
}

fn tree<'t>(
    tokens: &mut Peekable<impl Iterator<Item = &'t str>>,
    prefix: &mut ModulePath,
    found: &mut Vec<ModulePath>,
) {
    let depth = prefix.len();
    loop {
        match tokens.peek().copied() {
            Some("{") => {
                tokens.next();
                while !matches!(tokens.peek(), None | Some(&"}")) {
                    tree(tokens, prefix, found);
                    if tokens.peek() == Some(&"as") {
                        tokens.next();
                        tokens.next();
                    }
                    if tokens.peek() == Some(&",") {
                        tokens.next();
                    } else if tokens.peek() != Some(&"}") {
                        break;
                    }
                }
                tokens.next();
                break;
            }
            Some(word) if word == "*" || is_word(word) => {
                tokens.next();
                prefix.push(word.to_owned());
                if tokens.peek() == Some(&"::") {
                    tokens.next();
                    continue;
                }
                found.push(prefix.clone());
                break;
            }
            _ => break,
        }
    }
    prefix.truncate(depth);
}

/// The module that a path leads to or into, if it is one of this crate.
fn resolve(
    from: &[String],
    written: &[String],
    modules: &BTreeSet<ModulePath>,
) -> Option<ModulePath> {
    let mut rest = written.iter().map(String::as_str).peekable();
    let mut target = match rest.peek().copied()? {
        "crate" => {
            rest.next();
            Vec::new()
        }
        "super" | "self" => from.to_vec(),
        child => {
            let child = [from, &[child.to_owned()]].concat();
            modules.contains(&child).then(|| from.to_vec())?
        }
    };
    for segment in rest {
        match segment {
            "super" => drop(target.pop()),
            "self" => {}
            name => {
                target.push(name.to_owned());
                if !modules.contains(&target) {
                    target.pop();
                    break;
                }
            }
        }
    }
    Some(target)
}

/// The imports whose two ends lead to each other.
fn circles(imports: &Imports) -> Imports {
    let mut to = BTreeMap::<&str, Vec<&str>>::new();
    for (from, target) in imports {
        to.entry(from).or_default().push(target);
    }
    let leads = |from: &str, wanted: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            if module == wanted {
                return true;
            }
            if seen.insert(module) {
                open.extend(to.get(module).into_iter().flatten());
            }
        }
        false
    };
    imports.iter().filter(|(from, target)| leads(target, from)).cloned().collect()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words and signs; no comments, and of texts nothing but their place.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.peek() == Some(&'*') => skip_block_comment(&mut rest),
            '"' => {
                skip_text(&mut rest);
                tokens.push("\"".to_owned());
            }
            '\'' => {
                skip_character(&mut rest);
                tokens.push("'".to_owned());
            }
            ':' if rest.next_if_eq(&':').is_some() => tokens.push("::".to_owned()),
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                match rest.peek() {
                    Some('"' | '#') if ["r", "br", "cr"].contains(&word.as_str()) => {
                        skip_raw_text(&mut rest);
                    }
                    _ => tokens.push(word),
                }
            }
            c if c.is_whitespace() => {}
            c => tokens.push(c.to_string()),
        }
    }
    tokens
}

fn skip_block_comment(rest: &mut Peekable<Chars<'_>>) {
    let (mut depth, mut last) = (0, ' ');
    for c in rest.by_ref() {
        match (last, c) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                last = c;
                continue;
            }
        }
        last = ' ';
        if depth < 0 {
            return;
        }
    }
}

fn skip_text(rest: &mut Peekable<Chars<'_>>) {
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '"' => return,
            _ => {}
        }
    }
}

/// What follows `r`: as many `#` as stand before the text stand behind it. Or a raw name.
fn skip_raw_text(rest: &mut Peekable<Chars<'_>>) {
    let mut hashes = 0;
    while rest.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if rest.next_if_eq(&'"').is_none() {
        return;
    }
    while let Some(c) = rest.next() {
        if c == '"' {
            let mut closing = 0;
            while closing < hashes && rest.next_if_eq(&'#').is_some() {
                closing += 1;
            }
            if closing == hashes {
                return;
            }
        }
    }
}

/// A character, or the name of a lifetime, which is left to be a word.
fn skip_character(rest: &mut Peekable<Chars<'_>>) {
    let mut ahead = rest.clone();
    let first = ahead.next();
    if first == Some('\\') {
        rest.next();
        rest.next();
        while rest.next().is_some_and(|c| c != '\'') {}
    } else if ahead.next() == Some('\'') {
        rest.next();
        rest.next();
    }
}
