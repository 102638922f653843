//! Immutable blobs named by their content: what is too large for a control record.
//!
//! In: bytes. Out: their BLAKE3 hash, and the bytes again.
//! Always true: a blob that can be got is whole, since its hash is checked on the way out; putting
//! the same bytes twice is one blob; a blob is on the disk before `put` returns.
//! Not here: when a blob may go (nothing removes one), and object storage, which uses [`key`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::Error;

/// A folder of blobs.
#[derive(Clone, Debug)]
pub struct BlobStore {
    path: PathBuf,
}

/// The key of a blob below the store's root, the same on a disk and in object storage.
pub fn key(hash: &[u8; 32]) -> String {
    let hash = hex::encode(hash);
    let shelf: String = hash.chars().take(2).collect();
    format!("{shelf}/{hash}")
}

impl BlobStore {
    /// Opens the folder, creating it if there is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(io("create the folder", &path))?;
        Ok(Self { path })
    }

    /// Keeps the bytes and returns their name.
    pub async fn put(&self, bytes: Bytes) -> Result<[u8; 32], Error> {
        let store = self.clone();
        off_thread("the writing of a blob", move || store.put_now(&bytes)).await
    }

    /// The bytes of this name.
    pub async fn get(&self, hash: [u8; 32]) -> Result<Bytes, Error> {
        let store = self.clone();
        off_thread("the reading of a blob", move || store.get_now(&hash)).await
    }

    fn put_now(&self, bytes: &[u8]) -> Result<[u8; 32], Error> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let hash = *blake3::hash(bytes).as_bytes();
        // A blob that is there and whole stays; a damaged one is replaced.
        if self.get_now(&hash).is_ok() {
            return Ok(hash);
        }
        let path = self.path.join(key(&hash));
        let shelf = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(shelf).map_err(io("create the folder", shelf))?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let draft = shelf.join(format!("draft-{}-{serial}", std::process::id()));
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let placed = written.and_then(|()| fs::rename(&draft, &path));
        if let Err(source) = placed {
            // The draft is of no use; that it cannot be removed either adds nothing.
            drop(fs::remove_file(&draft));
            return Err(io("write the blob", &path)(source));
        }
        for folder in [shelf, &self.path] {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(io("write the folder", folder))?;
        }
        Ok(hash)
    }

    fn get_now(&self, hash: &[u8; 32]) -> Result<Bytes, Error> {
        let path = self.path.join(key(hash));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::BlobMissing {
                    hash: hex::encode(hash),
                    path: self.path.clone(),
                });
            }
            Err(source) => return Err(io("read the blob", &path)(source)),
        };
        if blake3::hash(&bytes).as_bytes() != hash {
            let detail = "its content is not what its name says".to_owned();
            return Err(Error::Damaged { path, detail });
        }
        Ok(bytes.into())
    }
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Runs something that blocks, off the threads that serve requests.
async fn off_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| Error::Internal { what })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path().join("blobs")).unwrap();
        let bytes = Bytes::from(vec![7; 100_000]);
        let hash = store.put(bytes.clone()).await.unwrap();
        assert_eq!(store.put(bytes.clone()).await.unwrap(), hash);
        assert_eq!(store.get(hash).await.unwrap(), bytes);
        assert!(matches!(store.get([1; 32]).await, Err(Error::BlobMissing { .. })));

        let path = folder.path().join("blobs").join(key(&hash));
        let mut damaged = fs::read(&path).unwrap();
        damaged[50_000] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(matches!(store.get(hash).await, Err(Error::Damaged { .. })));
        assert_eq!(store.put(bytes.clone()).await.unwrap(), hash, "a damaged blob is replaced");
        assert_eq!(store.get(hash).await.unwrap(), bytes);
    }
}
