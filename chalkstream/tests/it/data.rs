//! Data that may not ship with the project, read where they lie.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A folder below `CHALKSTREAM_TEST_DATA`. Where that is set, a missing folder is a failure; where it
/// is not, the test is skipped: it says so, and adds a line to the file that `CHALKSTREAM_SKIPPED`
/// names, which `make test` counts and shows at its end.
pub(crate) fn private_data(name: &str) -> Option<PathBuf> {
    if let Some(root) = std::env::var_os("CHALKSTREAM_TEST_DATA") {
        let folder = Path::new(&root).join(name);
        assert!(
            folder.is_dir(),
            "test data {} are missing; set CHALKSTREAM_TEST_DATA to the folder that holds {name}, \
             or unset it to skip what needs them",
            folder.display()
        );
        return Some(folder);
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!(
        "skipped: {test}: {name} may not ship with the project, and CHALKSTREAM_TEST_DATA is not set\n"
    );
    print!("{line}");
    if let Some(path) = std::env::var_os("CHALKSTREAM_SKIPPED") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
    None
}
