//! A local folder as object store whose every acknowledged write survives a power cut.
//!
//! `object_store`'s own local store writes without fsync. A Delta commit could then outlive the
//! Parquet file that it names, and the archiver's position with it. Here a file is written beside
//! its place, synced, put there by one atomic link or rename, and the folder is synced, before the
//! write is acknowledged.
//! Always true: a name that can be seen names a complete file.
//! Not here: deleting what a crash left behind; names with `#<number>` are such leftovers, and the
//! inner store never lists them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

const STORE: &str = "local";

/// The file system from `/` on, with synced writes.
#[derive(Debug)]
pub(crate) struct SyncedLocal {
    inner: Arc<LocalFileSystem>,
}

impl SyncedLocal {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()) }
    }
}

impl std::fmt::Display for SyncedLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SyncedLocal(/)")
    }
}

#[derive(Debug, Clone, Copy)]
enum Placing {
    /// Fails where the name is taken.
    Create,
    Overwrite,
}

fn generic(source: io::Error) -> Error {
    Error::Generic { store: STORE, source: Box::new(source) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::Generic { store: STORE, source: Box::new(source) })?
}

fn sync_folder(folder: &FsPath) -> Result<()> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(generic)
}

/// Creates the folder with every folder above it, and syncs the names of those it made.
fn make_folder(folder: &FsPath) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut missing = Vec::new();
    let mut at = Some(folder);
    while let Some(path) = at {
        if path.is_dir() {
            break;
        }
        missing.push(path.to_path_buf());
        at = path.parent();
    }
    fs::create_dir_all(folder).map_err(generic)?;
    for made in missing.iter().rev() {
        if let Some(parent) = made.parent() {
            sync_folder(parent)?;
        }
    }
    Ok(())
}

/// A name beside the target that the inner store takes for an unfinished upload and never lists.
fn staging_name(target: &FsPath) -> PathBuf {
    let unique = uuid::Uuid::new_v4().as_u128() >> 64;
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{unique}"));
    PathBuf::from(name)
}

fn write_synced(staged: &FsPath, payload: &PutPayload) -> io::Result<()> {
    let mut file = File::create_new(staged)?;
    for part in payload.iter() {
        file.write_all(part)?;
    }
    file.sync_all()
}

fn place(target: &FsPath, location: &Path, payload: &PutPayload, placing: Placing) -> Result<()> {
    let folder = target.parent().unwrap_or(FsPath::new("/"));
    make_folder(folder)?;
    let staged = staging_name(target);
    let placed = write_synced(&staged, payload).and_then(|()| match placing {
        Placing::Create => fs::hard_link(&staged, target),
        Placing::Overwrite => fs::rename(&staged, target),
    });
    if !matches!((&placed, placing), (Ok(()), Placing::Overwrite))
        && let Err(error) = fs::remove_file(&staged)
    {
        tracing::debug!(path = %staged.display(), %error, "left a staged file behind");
    }
    match placed {
        Ok(()) => sync_folder(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::AlreadyExists { path: location.to_string(), source: Box::new(error) })
        }
        Err(error) => Err(generic(error)),
    }
}

/// An upload in parts that is synced when it completes.
#[derive(Debug)]
struct SyncedUpload {
    inner: Box<dyn MultipartUpload>,
    target: PathBuf,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.inner.complete().await?;
        let target = self.target.clone();
        blocking(move || {
            File::open(&target).and_then(|file| file.sync_all()).map_err(generic)?;
            sync_folder(target.parent().unwrap_or(FsPath::new("/")))
        })
        .await?;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for SyncedLocal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let placing = match &opts.mode {
            PutMode::Create => Placing::Create,
            PutMode::Overwrite => Placing::Overwrite,
            PutMode::Update(_) => return self.inner.put_opts(location, payload, opts).await,
        };
        let target = self.inner.path_to_filesystem(location)?;
        let at = location.clone();
        blocking(move || place(&target, &at, &payload, placing)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        let folder = target.parent().map(FsPath::to_path_buf);
        if let Some(folder) = folder {
            blocking(move || make_folder(&folder)).await?;
        }
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(SyncedUpload { inner, target }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    fn in_folder(folder: &FsPath, name: &str) -> Path {
        Path::from_absolute_path(folder.join(name)).unwrap()
    }

    #[tokio::test]
    async fn of_two_creators_of_one_name_one_wins_and_its_bytes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = SyncedLocal::new();
        let name = in_folder(folder.path(), "a/b/00000.json");
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&name, "first".into(), create.clone()).await.unwrap();
        let second = store.put_opts(&name, "second".into(), create).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(store.get(&name).await.unwrap().bytes().await.unwrap(), "first");
        store.put(&name, "third".into()).await.unwrap();
        assert_eq!(store.get(&name).await.unwrap().bytes().await.unwrap(), "third");
    }

    #[tokio::test]
    async fn a_staged_file_that_a_crash_left_is_not_listed() {
        let folder = tempfile::tempdir().unwrap();
        let store = SyncedLocal::new();
        store.put(&in_folder(folder.path(), "whole"), "x".into()).await.unwrap();
        fs::write(staging_name(&folder.path().join("torn")), "x").unwrap();
        let prefix = Path::from_absolute_path(folder.path()).unwrap();
        let names: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}
