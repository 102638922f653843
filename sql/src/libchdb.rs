//! ClickHouse as a library: where `libchdb.so` is, and how it is loaded.
//!
//! The library is loaded at run time and never copied, so that everything but the embedded
//! ClickHouse works without it. Once loaded it stays until the process ends: its threads live on.
//! Always true: `libchdb/ffi.rs` is the only unsafe code around it.

mod ffi;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Error;
pub(crate) use ffi::{Api, Connection, Output, Parameters};

/// The release of libchdb that this version of chalkstream is made for.
pub const VERSION: &str = "26.5.3";

const FILE_NAME: &str = "libchdb.so";

/// Finds `libchdb.so`: `CHALKSTREAM_LIBCHDB`, then beside the binary, then in the cache.
pub fn locate() -> Result<PathBuf, Error> {
    let mut looked = Vec::new();
    for path in places(env::current_exe().ok().as_deref(), |name| env::var_os(name).map(Into::into))
    {
        if path.is_file() {
            return Ok(path);
        }
        looked.push(path);
    }
    Err(Error::LibraryMissing { looked })
}

/// Where to look, in order. An explicit place is the only one: a typo there must not be hidden.
fn places(binary: Option<&Path>, variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.as_os_str().is_empty());
    if let Some(path) = set("CHALKSTREAM_LIBCHDB") {
        return vec![if path.is_dir() { path.join(FILE_NAME) } else { path }];
    }
    let beside = binary.and_then(Path::parent).map(|folder| folder.join(FILE_NAME));
    let cache = set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("chalkstream/libchdb").join(VERSION).join(FILE_NAME));
    beside.into_iter().chain(cache).collect()
}

static LOADED: Mutex<Option<Arc<Api>>> = Mutex::new(None);

/// Loads the library, once a process.
pub(crate) fn load(path: Option<&Path>) -> Result<Arc<Api>, Error> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Error::Platform { os: env::consts::OS, arch: env::consts::ARCH });
    }
    let mut loaded = LOADED.lock();
    if let Some(api) = loaded.as_ref() {
        return Ok(Arc::clone(api));
    }
    let path = path.map_or_else(locate, |path| Ok(path.to_owned()))?;
    if !path.is_file() {
        return Err(Error::LibraryMissing { looked: vec![path] });
    }
    let api = Arc::new(Api::load(&path).map_err(|source| Error::LibraryLoad { path, source })?);
    *loaded = Some(Arc::clone(&api));
    Ok(api)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], expected: &[&str]) {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
        };
        let found = places(Some(Path::new("/opt/bin/chalkstream")), variable);
        assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn the_library_is_looked_for_in_order() {
        let cache = format!("/home/a/.cache/chalkstream/libchdb/{VERSION}/libchdb.so");
        check(&[("HOME", "/home/a")], &["/opt/bin/libchdb.so", &cache]);
        let cache = format!("/c/chalkstream/libchdb/{VERSION}/libchdb.so");
        let variables =
            [("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c"), ("CHALKSTREAM_LIBCHDB", "")];
        check(&variables, &["/opt/bin/libchdb.so", &cache]);
        check(&[("HOME", "/home/a"), ("CHALKSTREAM_LIBCHDB", "/x/y.so")], &["/x/y.so"]);
    }

    #[test]
    fn a_missing_library_says_where_it_was_looked_for_and_how_to_get_it() {
        let error = Error::LibraryMissing { looked: vec!["/a".into(), "/b".into()] };
        assert_eq!(error.to_string(), "libchdb.so was not found; looked at /a, /b");
        assert!(error.hint().unwrap().contains("make libchdb"));
    }
}
