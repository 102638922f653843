//! TLS of a port: its section of the options, and the files that it names.
//!
//! In: paths of PEM files. Out: what a connection is accepted with, or a sentence that names the
//! file and what is wrong with it.
//! Always true: TLS 1.2 or 1.3; HTTP/2 and HTTP/1.1 are offered; a certificate that has expired, or
//! soon will, is served and warned of, because clients may not mind and an outage helps nobody.
//! Not here: when the files are read again (`live`), handshakes (`server`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chalkstream_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::clock::{Clock as _, SystemClock};
use crate::live::SectionError;

mod validity;

use validity::validity;

/// How long before its end a certificate is warned of.
const SOON_MS: i64 = 14 * 86_400_000;

/// Files for TLS; without them the port speaks plain HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsOptions {
    /// The server's certificate, followed by those of its issuers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Issuers of clients' certificates; with it a client must have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

impl TlsOptions {
    /// Whether the port speaks TLS.
    pub fn is_on(&self) -> bool {
        self.cert.is_some()
    }

    /// Whether the files go together; the error names `section`.
    pub fn validate(&self, section: &'static str) -> Result<(), SectionError> {
        let what = match (&self.cert, &self.key, &self.client_ca) {
            (Some(_), None, _) => "`cert` is set, but `key`, the certificate's private key, is not",
            (None, Some(_), _) => "`key` is set, but `cert`, its certificate, is not",
            (None, None, Some(_)) => "`client_ca` needs `cert` and `key`",
            (Some(_), Some(_), _) | (None, None, None) => return Ok(()),
        };
        Err(SectionError { section, what: what.to_owned() })
    }

    /// Reads the files; `None` where TLS is off. The error names `section`.
    pub fn server_config(
        &self,
        section: &'static str,
    ) -> Result<Option<Arc<ServerConfig>>, SectionError> {
        server_config(self).map_err(|what| SectionError { section, what })
    }
}

/// The error says what is wrong with which file.
fn server_config(options: &TlsOptions) -> Result<Option<Arc<ServerConfig>>, String> {
    let (Some(cert), Some(key)) = (&options.cert, &options.key) else { return Ok(None) };
    let chain = certificates("cert", cert)?;
    let private =
        PrivateKeyDer::from_pem_slice(&read("key", key)?).map_err(|error| match error {
            PemError::NoItemsFound => format!(
                "`key`: {} holds no private key; it must hold one in PEM, without a password",
                key.display()
            ),
            error => damaged("key", key, &error),
        })?;
    let now = SystemClock.now();
    if let Some(warning) = chain.first().and_then(|leaf| validity_warning(leaf, now)) {
        tracing::warn!(file = %cert.display(), "the TLS certificate {warning}");
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "the key in {} does not belong to the first certificate in {}",
            key.display(),
            cert.display()
        ),
        error => format!("{} and {} cannot be used: {error}", cert.display(), key.display()),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |error: &dyn std::fmt::Display| damaged("client_ca", path, error);
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca", path)? {
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| unusable(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error| format!("`{key}`: could not read {}: {error}", path.display()))
}

fn damaged(key: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("`{key}`: {} cannot be used: {error}", path.display())
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(&read(key, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| damaged(key, path, &error))?;
    if found.is_empty() {
        return Err(format!(
            "`{key}`: {} holds no certificate; it must hold one or more in PEM",
            path.display()
        ));
    }
    Ok(found)
}

/// What a person should know about the certificate's time.
fn validity_warning(certificate: &CertificateDer<'_>, now: Timestamp) -> Option<String> {
    let (from, until) = validity(certificate)?;
    if until < now {
        Some(format!("expired on {until}; clients will refuse it: replace it and send SIGHUP"))
    } else if now < from {
        Some(format!("is not valid before {from}; clients will refuse it until then"))
    } else if until.as_ms() - now.as_ms() < SOON_MS {
        Some(format!("expires on {until}; replace it and send SIGHUP"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
