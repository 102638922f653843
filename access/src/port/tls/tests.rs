use rcgen::{CertificateParams, KeyPair};

use super::*;

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        files.write("cert.pem", &certified.cert.pem());
        files.write("key.pem", &certified.signing_key.serialize_pem());
        files.write("other-key.pem", &KeyPair::generate().unwrap().serialize_pem());
        files.write("text.pem", "no PEM at all");
        files.write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB");
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn options(&self, cert: &str, key: &str, client_ca: Option<&str>) -> TlsOptions {
        let path = |name: &str| Some(self.folder.path().join(name));
        TlsOptions { cert: path(cert), key: path(key), client_ca: client_ca.and_then(path) }
    }

    #[track_caller]
    fn check_refused(&self, cert: &str, key: &str, ca: Option<&str>, parts: &[&str]) {
        let refused = self.options(cert, key, ca).server_config("ingest.tls");
        let error = refused.unwrap_err().to_string();
        for part in ["ingest.tls"].iter().chain(parts) {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
    }
}

#[test]
fn files_that_fit_give_a_configuration_for_both_versions_of_http() {
    let files = Files::new();
    let config = server_config(&files.options("cert.pem", "key.pem", None)).unwrap().unwrap();
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    let mutual = files.options("cert.pem", "key.pem", Some("cert.pem"));
    assert!(server_config(&mutual).unwrap().is_some());
    assert!(server_config(&TlsOptions::default()).unwrap().is_none());
}

#[test]
fn a_wrong_file_is_named_with_what_is_wrong() {
    let files = Files::new();
    files.check_refused("gone.pem", "key.pem", None, &["`cert`", "gone.pem", "could not read"]);
    files.check_refused("text.pem", "key.pem", None, &["text.pem", "holds no certificate"]);
    files.check_refused("cut.pem", "key.pem", None, &["`cert`", "cut.pem", "cannot be used"]);
    files.check_refused("cert.pem", "cert.pem", None, &["`key`", "holds no private key"]);
    files.check_refused(
        "cert.pem",
        "other-key.pem",
        None,
        &["other-key.pem does not belong to", "cert.pem"],
    );
    let ca = Some("text.pem");
    files.check_refused("cert.pem", "key.pem", ca, &["`client_ca`", "holds no certificate"]);
}

#[test]
fn a_pair_that_is_not_complete_is_refused() {
    let files = Files::new();
    let whole = files.options("cert.pem", "key.pem", None);
    whole.validate("tls").unwrap();
    let refused = |options: TlsOptions| options.validate("tls").unwrap_err().to_string();
    assert!(refused(TlsOptions { key: None, ..whole.clone() }).contains("`key`"));
    assert!(refused(TlsOptions { cert: None, ..whole.clone() }).contains("`cert`"));
    let ca = TlsOptions { client_ca: whole.cert, ..TlsOptions::default() };
    assert!(refused(ca).contains("`client_ca` needs"));
}

#[test]
fn an_expired_certificate_is_warned_of_and_served() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let cert = params.self_signed(&key).unwrap();
    let warning =
        |date: &str| validity_warning(cert.der(), Timestamp::parse_rfc3339(date).unwrap());
    assert!(warning("2021-01-02T00:00:00Z").unwrap().contains("expired on 2021-01-01"));
    assert!(warning("2020-12-30T00:00:00Z").unwrap().contains("expires on"));
    assert!(warning("2019-06-01T00:00:00Z").unwrap().contains("not valid before 2020"));
    assert_eq!(warning("2020-06-01T00:00:00Z"), None);
    let files = Files::new();
    files.write("old.pem", &cert.pem());
    files.write("old-key.pem", &key.serialize_pem());
    assert!(server_config(&files.options("old.pem", "old-key.pem", None)).unwrap().is_some());
}
