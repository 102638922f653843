//! Where the project's unsafe code is: nowhere but where ARCHITECTURE.md says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Its name in two parts, so that this file does not have it.
const LINT: &str = concat!("unsafe", "_code");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of that name's end below a folder, build products and hidden folders left out.
fn files(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            files(&entry.path(), end, found);
        } else if kind.is_file() && name.ends_with(end) {
            found.push(entry.path());
        }
    }
}

/// The compiler refuses unsafe code wherever the lint is not expected, so who names the lint is all.
#[test]
fn unsafe_is_only_where_the_architecture_lists_it_with_its_reason() {
    let root = root();
    let manifest = text(&root.join("Cargo.toml"));
    assert!(manifest.contains(&format!("{LINT} = \"deny\"")), "the workspace does not deny it");
    let mut manifests = Vec::new();
    files(&root, "Cargo.toml", &mut manifests);
    for path in manifests.iter().filter(|path| text(path).contains("[package]")) {
        let inherits = text(path).contains("[lints]\nworkspace = true");
        assert!(inherits, "{} does not inherit the workspace's lints", path.display());
    }

    let mut sources = Vec::new();
    files(&root, ".rs", &mut sources);
    let unsafe_files = sources
        .iter()
        .filter(|path| text(path).contains(LINT))
        .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
        .collect::<BTreeSet<_>>();
    assert!(!unsafe_files.is_empty(), "no file names the lint: is {} the root?", root.display());

    let architecture = text(&root.join("ARCHITECTURE.md"));
    let (_, section) = architecture.split_once("**Unsafe code**").expect("its section");
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let listed = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (file, reason) = (cells.next().unwrap(), cells.next().unwrap_or_default());
        assert!(!reason.is_empty(), "{file} has no reason");
        file.trim_matches('`').to_owned()
    });
    let listed = listed.collect::<BTreeSet<_>>();
    assert_eq!(unsafe_files, listed, "ARCHITECTURE.md lists other files than have unsafe code");
}
