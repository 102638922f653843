//! Whose spool a folder is: of one process at a time, and of one Kafka cluster.
//!
//! Always true: records are never forwarded to another cluster than they were acknowledged for.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::Path;

use crate::{Error, LogIdentity};

const FILE: &str = "cluster";

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Creates the folder if there is none, and takes its lock, which ends with this process.
pub(super) fn take_folder(path: &Path) -> Result<File, Error> {
    fs::create_dir_all(path).map_err(io("create the folder", path))?;
    let lock_path = path.join("lock");
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(io("open", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io("open", &lock_path)(source)),
    }
}

/// Checks that what waits in the folder is for this log; an empty one is for any.
pub(super) fn check(path: &Path, identity: &LogIdentity, waiting: bool) -> Result<(), Error> {
    let LogIdentity { cluster_id, partitions, partitioner } = identity;
    let expected = format!("{cluster_id}\n{partitions}\n{partitioner}\n");
    let file = path.join(FILE);
    let found = match fs::read_to_string(&file) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(io("read", &file)(error)),
    };
    if found == expected {
        return Ok(());
    }
    if waiting {
        let path = path.to_owned();
        let line = |text: &str| text.trim_end().replace('\n', ", ");
        return Err(Error::ForeignSpool { path, found: line(&found), expected: line(&expected) });
    }
    let draft = path.join("cluster.new");
    let write = || {
        let mut draft = File::create(&draft)?;
        draft.write_all(expected.as_bytes())?;
        draft.sync_all()
    };
    write().map_err(io("write", &draft))?;
    fs::rename(&draft, &file).map_err(io("rename", &draft))?;
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io("write", path))
}
