//! Lists `migrations/*.sql` and `views/*.sql` for `include_str!`, so that adding one is adding a file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut code = String::new();
    for (folder, constant) in [("migrations", "MIGRATION_FILES"), ("views", "VIEW_FILES")] {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        code.push_str(&listing(&folder, constant)?);
    }
    fs::write(out.join("sql_files.rs"), code)
}

/// `pub(crate) const NAME: &[(&str, &str)] = &[(stem, include_str!(path)), …];`, in order of names.
fn listing(folder: &Path, constant: &str) -> io::Result<String> {
    let mut files: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    let mut code = format!("pub(crate) const {constant}: &[(&str, &str)] = &[\n");
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path = file.to_string_lossy().into_owned();
        writeln!(code, "    ({stem:?}, include_str!({path:?})),").map_err(io::Error::other)?;
    }
    code.push_str("];\n");
    Ok(code)
}
