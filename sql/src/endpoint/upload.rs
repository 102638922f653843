//! A request's body, spooled into a file in memory for `INSERT … FROM INFILE`.
//!
//! The file lies in a folder of this process in /dev/shm, mode 0600 in 0700, and is removed when
//! it is dropped; what a killed process left is removed at the next start. Content-Encoding and
//! ClickHouse's framing are undone on a blocking thread.
//! Always true: neither the body nor what it unpacks to grows beyond the limit, and all bodies at
//! a time together stay within [`TOTAL_MAX`].

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use http_body_util::BodyExt as _;
use tempfile::{NamedTempFile, TempDir};

use super::decode::{self, Encoding};
use super::framing::BlockReader;
use crate::{Error, Exception};

/// Largest body, before and after decompression.
pub(super) const BODY_MAX: u64 = 1 << 30;
/// All bodies at a time, in memory.
const TOTAL_MAX: u64 = 3 << 30;
const PREFIX: &str = "chalkstream-insert-";

/// Where bodies are spooled.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    folder: Arc<TempDir>,
    used: Arc<AtomicU64>,
}

impl Spool {
    pub(super) fn open() -> Result<Self, Error> {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        sweep(&root);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&root)
            .map_err(|source| Error::File { doing: "create a folder in", path: root, source })?;
        Ok(Self { folder: Arc::new(folder), used: Arc::default() })
    }

    pub(super) fn create(&self) -> io::Result<Upload> {
        let file = NamedTempFile::new_in(self.folder.path())?;
        Ok(Upload { file, size: 0, used: Arc::clone(&self.used) })
    }

    /// Spools a body as it arrives.
    pub(super) async fn receive(&self, body: Body) -> Result<Upload, Exception> {
        let mut upload = self.create().map_err(|error| not_stored(&error))?;
        let mut body = body;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let message = format_args!("the request's body broke off: {error}");
                Exception::new(23, "CANNOT_READ_FROM_ISTREAM", message)
            })?;
            if let Ok(data) = frame.into_data() {
                upload.push(&data).map_err(|error| not_stored(&error))?;
            }
        }
        Ok(upload)
    }

    /// Undoes a body's encodings. Blocks.
    pub(super) fn unpack(
        &self,
        upload: Upload,
        encoding: Encoding,
        framed: bool,
        limit: u64,
    ) -> Result<Upload, Exception> {
        let unpacked = || -> io::Result<Upload> {
            let plain = decode::decoder(encoding, io::BufReader::new(upload.reopen()?))?;
            let mut plain: Box<dyn Read> =
                if framed { Box::new(BlockReader::new(plain)) } else { plain };
            let mut out = self.create()?;
            let mut buffer = vec![0; 1 << 18];
            loop {
                let read = plain.read(&mut buffer)?;
                if read == 0 {
                    return Ok(out);
                }
                if out.size + read as u64 > limit {
                    return Err(io::Error::new(
                        io::ErrorKind::FileTooLarge,
                        format!("the body unpacks to more than {limit} bytes"),
                    ));
                }
                out.push(buffer.get(..read).unwrap_or_default())?;
            }
        };
        unpacked().map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge | io::ErrorKind::StorageFull => not_stored(&error),
            _ => {
                let message = format_args!("the body does not decompress: {error}");
                Exception::new(271, "CANNOT_DECOMPRESS", message)
            }
        })
    }
}

/// Removes folders of processes that are gone.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let Some(id) = rest.split('-').next().and_then(|id| id.parse::<u32>().ok()) else {
            continue;
        };
        let alive = PathBuf::from(format!("/proc/{id}")).try_exists().unwrap_or(true);
        if !alive && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "could not remove a dead process's spool");
        }
    }
}

fn not_stored(error: &io::Error) -> Exception {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return Exception::new(307, "TOO_MANY_BYTES", error);
    }
    let message = format_args!("the request's body could not be kept: {error}");
    Exception::new(243, "NOT_ENOUGH_SPACE", message)
}

/// A spooled body.
#[derive(Debug)]
pub(super) struct Upload {
    file: NamedTempFile,
    size: u64,
    used: Arc<AtomicU64>,
}

impl Upload {
    pub(super) fn push(&mut self, data: &[u8]) -> io::Result<()> {
        let more = data.len() as u64;
        let total = self.used.fetch_add(more, Ordering::Relaxed) + more;
        self.size += more;
        if self.size > BODY_MAX {
            let message = format!("the body is larger than {BODY_MAX} bytes; send it in parts");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        if total > TOTAL_MAX {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "too many large bodies at a time",
            ));
        }
        self.file.write_all(data)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn reopen(&self) -> io::Result<File> {
        self.file.reopen()
    }

    /// The path, which `FROM INFILE` reads: no character of it needs quoting.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Up to `max` bytes from its beginning.
    pub(super) fn head(&self, max: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.reopen()?.take(max).read_to_end(&mut head)?;
        Ok(head)
    }

    /// A copy that begins with `prefix` and goes on with this one from `skip`.
    pub(super) fn splice(&self, spool: &Spool, prefix: &[u8], skip: u64) -> io::Result<Upload> {
        let mut out = spool.create()?;
        out.push(prefix)?;
        let mut from = self.reopen()?;
        from.seek(io::SeekFrom::Start(skip))?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(out);
            }
            out.push(buffer.get(..read).unwrap_or_default())?;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.used.fetch_sub(self.size, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    fn spooled(spool: &Spool, bytes: &[u8]) -> Upload {
        let mut upload = spool.create().unwrap();
        upload.push(bytes).unwrap();
        upload
    }

    #[test]
    fn a_body_is_unpacked_private_and_removed() {
        let spool = Spool::open().unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"a\n\n\0b").unwrap();
        let upload = spooled(&spool, &gzip.finish().unwrap());
        let plain = spool.unpack(upload, Encoding::Gzip, false, 100).unwrap();
        assert_eq!(plain.head(100).unwrap(), b"a\n\n\0b");
        let path = plain.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(plain.splice(&spool, b"x", 3).unwrap().head(9).unwrap(), b"x\0b");
        drop(plain);
        assert!(!path.try_exists().unwrap());
        assert_eq!(spool.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_broken_body_is_an_exception() {
        let spool = Spool::open().unwrap();
        for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Lz4] {
            let upload = spooled(&spool, b"not compressed at all, by any means");
            assert_eq!(spool.unpack(upload, encoding, false, 100).unwrap_err().code, 271);
        }
        let upload = spooled(&spool, b"neither is this a block");
        assert_eq!(spool.unpack(upload, Encoding::Identity, true, 100).unwrap_err().code, 271);
    }
}
