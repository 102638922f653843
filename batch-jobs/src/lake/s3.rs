//! A lake in S3, or in what speaks its protocol: `s3://bucket/prefix`.
//!
//! Always true: a commit is one conditional put (`If-None-Match: *`), so two writers of one version
//! cannot both succeed, and no lock table is needed. A store without conditional puts refuses them.
//! Not here: credentials, which come from the environment (`AWS_…`) or from `lake.options`.

use std::str::FromStr;
use std::sync::Arc;

use deltalake::DeltaResult;
use deltalake::logstore::object_store::DynObjectStore;
use deltalake::logstore::object_store::aws::{
    AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut,
};
use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreRef, StorageConfig, default_logstore, logstore_factories,
};
use url::Url;

use super::{Error, LakeOptions};

/// The lake's URL, ending in `/`, and the bucket it lies in.
pub(super) fn open(options: &LakeOptions) -> Result<(Url, Arc<DynObjectStore>), Error> {
    let refuse = |problem: String| Error::Location { url: options.url.clone(), problem };
    let mut root = Url::parse(&options.url).map_err(|error| refuse(error.to_string()))?;
    let Some(bucket) = root.host_str().map(str::to_owned).filter(|bucket| !bucket.is_empty())
    else {
        return Err(refuse("it names no bucket".to_owned()));
    };
    if root.query().is_some() || root.fragment().is_some() {
        return Err(refuse("options belong under lake.options".to_owned()));
    }
    let path = format!("{}/", root.path().trim_end_matches('/'));
    root.set_path(&path);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    for (name, value) in &options.options {
        let key = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase())
            .map_err(|_unknown| refuse(format!("S3 has no option {name} (lake.options)")))?;
        builder = builder.with_config(key, value);
    }
    let store = builder.build().map_err(|error| refuse(error.to_string()))?;
    register()?;
    Ok((root, Arc::new(store)))
}

/// Lets Delta commit to `s3://` as to every store with conditional puts.
fn register() -> Result<(), Error> {
    let scheme = Url::parse("s3://")
        .map_err(|error| Error::Location { url: "s3://".to_owned(), problem: error.to_string() })?;
    logstore_factories().entry(scheme).or_insert_with(|| Arc::new(ConditionalPuts));
    Ok(())
}

struct ConditionalPuts;

impl LogStoreFactory for ConditionalPuts {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed_store, root_store, location, options))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn opened(url: &str, option: Option<(&str, &str)>) -> Result<Url, Error> {
        let options: BTreeMap<_, _> =
            option.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        open(&LakeOptions { url: url.to_owned(), options }).map(|(root, _)| root)
    }

    #[test]
    fn a_bucket_with_or_without_prefix_is_a_location() {
        let region = Some(("aws_region", "eu-central-1"));
        for (url, root) in [
            ("s3://bucket", "s3://bucket/"),
            ("s3://bucket/a/b/", "s3://bucket/a/b/"),
            ("s3://bucket/a", "s3://bucket/a/"),
        ] {
            assert_eq!(opened(url, region).unwrap().as_str(), root);
        }
    }

    #[test]
    fn what_s3_cannot_take_is_refused_with_a_sentence() {
        let text = opened("s3://bucket/a", Some(("aws_regoin", "x"))).unwrap_err().to_string();
        assert!(text.contains("no option aws_regoin"), "{text}");
        assert!(opened("s3:///a", None).is_err());
        assert!(opened("s3://bucket/a?x=y", None).is_err());
    }
}
