//! What tests do with folders of the pipeline behind its back: copy them, read the lake.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Copies a folder with all that is in it; nothing to do where it does not exist.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(to).unwrap();
    for entry in entries {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// (user, id) of every row of the Delta table, as another reader sees them: Python's `deltalake`.
pub(crate) fn lake_identities(table: &Path) -> Vec<(String, String)> {
    const SCRIPT: &str = "
import sys, deltalake
table = deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table(columns=['user_id', 'id'])
for user, event in zip(table['user_id'].to_pylist(), table['id'].to_pylist()):
    print(user, event, sep='\\t')
";
    let python = python();
    let output =
        Command::new(&python).args(["-c", SCRIPT]).arg(table).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let identity = |line: &str| {
        let (user, id) = line.split_once('\t').unwrap();
        (user.to_owned(), id.to_owned())
    };
    text.lines().map(identity).collect()
}

/// The Python that `deploy/dev/python-env` prepared.
fn python() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/python-env");
    let made = Command::new(&script).stdin(Stdio::null()).output();
    let made = made.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}
