use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;

use super::options::{JwtAlgorithm, check_issuers};
use super::*;
use crate::who::grant::Scope;

const NOW: i64 = 1_800_000_000;
const SECRET: &[u8] = b"a shared secret of 32 bytes or more";

/// A key of each kind, as an issuer has it.
struct Signer {
    algorithm: JwtAlgorithm,
    private: EncodingKey,
    public_pem: String,
    public_raw: Vec<u8>,
}

fn pair(algorithm: JwtAlgorithm, serial: usize) -> &'static Signer {
    static PAIRS: OnceLock<Vec<Signer>> = OnceLock::new();
    let all = PAIRS.get_or_init(|| {
        let mut all = Vec::new();
        for _ in 0..2 {
            let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
            let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let signer = |algorithm, private, pair: &KeyPair| {
                let public_pem = pair.public_key_pem();
                let public_raw = pair.public_key_raw().to_vec();
                Signer { algorithm, private, public_pem, public_raw }
            };
            let der = |pair: &KeyPair| pair.serialize_pem().into_bytes();
            let (rs, es, eddsa) = (
                EncodingKey::from_rsa_pem(&der(&rsa)).unwrap(),
                EncodingKey::from_ec_pem(&der(&ec)).unwrap(),
                EncodingKey::from_ed_pem(&der(&ed)).unwrap(),
            );
            all.push(signer(JwtAlgorithm::Rs256, rs, &rsa));
            all.push(signer(JwtAlgorithm::Es256, es, &ec));
            all.push(signer(JwtAlgorithm::EdDsa, eddsa, &ed));
        }
        all
    });
    all.iter().filter(|signer| signer.algorithm == algorithm).nth(serial).unwrap()
}

impl Signer {
    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm.get()) };
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }

    fn jwk(&self, kid: &str) -> Jwk {
        let mut jwk = match self.algorithm {
            JwtAlgorithm::EdDsa => {
                let x = URL_SAFE_NO_PAD.encode(&self.public_raw);
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x});
                serde_json::from_value(jwk).unwrap()
            }
            algorithm => Jwk::from_encoding_key(&self.private, algorithm.get()).unwrap(),
        };
        jwk.common.key_id = Some(kid.to_owned());
        jwk
    }
}

fn hs256(secret: &[u8], claims: &Value) -> String {
    let header = Header::new(Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// A token that nothing is wrong with.
fn claims() -> Value {
    json!({
        "iss": "https://id.example", "aud": "chalkstream", "exp": NOW + 300,
        "school_id": "lincoln", "scope": "openid events:write",
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

fn file(folder: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn options(algorithms: &[JwtAlgorithm]) -> JwtOptions {
    let text = "name = \"portal\"\nissuer = \"https://id.example\"\naudience = [\"chalkstream\"]\nalgorithms = []\n";
    let mut options: JwtOptions = toml::from_str(text).unwrap();
    options.algorithms = algorithms.to_vec();
    options
}

/// An issuer with a shared secret.
fn shared(folder: &tempfile::TempDir) -> JwtOptions {
    JwtOptions {
        secret_file: Some(file(folder, "secret", [SECRET, b"\n"].concat())),
        ..options(&[JwtAlgorithm::Hs256])
    }
}

/// An issuer with a public key of this kind.
fn public(folder: &tempfile::TempDir, algorithm: JwtAlgorithm) -> JwtOptions {
    JwtOptions {
        public_key_file: Some(file(folder, "public.pem", &pair(algorithm, 0).public_pem)),
        ..options(&[algorithm])
    }
}

async fn verify_with(options: JwtOptions, token: &str) -> Result<Arc<Credential>, TokenError> {
    let tokens = Tokens::new(&[options]).unwrap();
    let result = tokens.verify(token, Timestamp::from_ms(NOW * 1000)).await;
    if let Err(error) = &result {
        let said = error.to_string();
        for part in token.split('.').filter(|part| part.len() > 5) {
            assert!(!said.contains(part), "{said}");
        }
    }
    result
}

/// The verdict on claims that were signed rightly.
async fn judged(claims: &Value) -> Result<Arc<Credential>, TokenError> {
    let folder = tempfile::tempdir().unwrap();
    verify_with(shared(&folder), &hs256(SECRET, claims)).await
}

#[track_caller]
fn refused(result: Result<Arc<Credential>, TokenError>, parts: &[&str]) {
    let said = result.unwrap_err().to_string();
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
}

#[tokio::test]
async fn a_token_of_every_kind_is_taken_and_no_other_key_is() {
    let folder = tempfile::tempdir().unwrap();
    let credential = verify_with(shared(&folder), &hs256(SECRET, &claims())).await.unwrap();
    assert_eq!(&*credential.key_id, "jwt:portal");
    assert_eq!(credential.school_id.as_str(), "lincoln");
    assert_eq!(credential.scopes, [Scope::EventsWrite]);
    assert!(credential.learner.is_none() && !credential.publishable);
    let other = hs256(b"another secret of 32 bytes or more", &claims());
    refused(verify_with(shared(&folder), &other).await, &["signature"]);
    for algorithm in [JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa] {
        let options = || public(&folder, algorithm);
        let good = pair(algorithm, 0).sign(None, &claims());
        verify_with(options(), &good).await.unwrap();
        // A key without a name fits a token that names one.
        verify_with(options(), &pair(algorithm, 0).sign(Some("k"), &claims())).await.unwrap();
        let other = pair(algorithm, 1).sign(None, &claims());
        refused(verify_with(options(), &other).await, &["signature"]);
        let (head, signature) = good.rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        let forged =
            URL_SAFE_NO_PAD.encode(with(|it| it["school_id"] = json!("adams")).to_string());
        refused(
            verify_with(options(), &format!("{header}.{forged}.{signature}")).await,
            &["signature"],
        );
        refused(verify_with(options(), &format!("{head}.")).await, &["signature"]);
    }
}

#[tokio::test]
async fn the_algorithm_is_the_issuers_choice_and_never_the_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let rs = || public(&folder, JwtAlgorithm::Rs256);
    // The public key taken for a shared secret.
    let confused = hs256(pair(JwtAlgorithm::Rs256, 0).public_pem.as_bytes(), &claims());
    refused(verify_with(rs(), &confused).await, &["`alg`", "RS256"]);
    for alg in ["none", "None", "NONE", "nOnE", "HS512", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
        let body = URL_SAFE_NO_PAD.encode(claims().to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{body}.{signature}");
            refused(verify_with(rs(), &token).await, &["`alg`", "RS256"]);
            refused(verify_with(shared(&folder), &token).await, &["`alg`", "HS256"]);
        }
    }
    let es = pair(JwtAlgorithm::Es256, 0).sign(None, &claims());
    refused(verify_with(rs(), &es).await, &["`alg`", "RS256"]);
    // A key that the token itself brings along is no key.
    let signer = pair(JwtAlgorithm::Rs256, 1);
    let header = Header { jwk: Some(signer.jwk("own")), ..Header::new(Algorithm::RS256) };
    let token = jsonwebtoken::encode(&header, &claims(), &signer.private).unwrap();
    refused(verify_with(rs(), &token).await, &["signature"]);
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::RS256) };
    let token = jsonwebtoken::encode(&header, &claims(), &pair(JwtAlgorithm::Rs256, 0).private);
    refused(verify_with(rs(), &token.unwrap()).await, &["`crit`"]);
}

#[tokio::test]
async fn times_are_checked_with_leeway_and_named() {
    judged(&with(|it| it["exp"] = json!(NOW - 59))).await.unwrap();
    refused(
        judged(&with(|it| it["exp"] = json!(NOW - 60))).await,
        &["expired at 2027-01-15T07:59:00.000Z"],
    );
    judged(&with(|it| it["exp"] = json!(1e300))).await.unwrap();
    judged(&with(|it| it["exp"] = json!(NOW as f64 + 0.5))).await.unwrap();
    refused(judged(&with(|it| it["exp"] = json!(-5))).await, &["expired at 1970-01-01"]);
    refused(judged(&with(|it| it["exp"] = json!(null))).await, &["`exp`", "missing"]);
    refused(judged(&with(|it| it["exp"] = json!("2030"))).await, &["`exp`", "number"]);
    judged(&with(|it| it["nbf"] = json!(NOW + 60))).await.unwrap();
    refused(
        judged(&with(|it| it["nbf"] = json!(NOW + 61))).await,
        &["not valid before 2027-01-15T08:01:01"],
    );
}

#[tokio::test]
async fn a_token_for_somebody_else_is_refused() {
    for audience in
        [json!("other"), json!(["a", "b"]), json!([]), json!(null), json!(5), json!("chalkstream ")]
    {
        refused(judged(&with(|it| it["aud"] = audience)).await, &["`aud`", "`chalkstream`"]);
    }
    judged(&with(|it| it["aud"] = json!(["other", "chalkstream"]))).await.unwrap();
    for issuer in [json!("https://evil.example"), json!(null), json!(["https://id.example"])] {
        refused(judged(&with(|it| it["iss"] = issuer)).await, &["`iss`"]);
    }
}

#[tokio::test]
async fn scopes_schools_and_learners_come_from_claims() {
    let scopes = async |value: Value| judged(&with(|it| it["scope"] = value)).await;
    let both = scopes(json!(["events:write", "events:backfill x"])).await.unwrap();
    assert_eq!(both.scopes, [Scope::EventsWrite, Scope::EventsBackfill]);
    assert!(!scopes(json!("openid")).await.unwrap().may_write());
    assert!(!scopes(json!(null)).await.unwrap().may_write());
    refused(scopes(json!(7)).await, &["`scope`"]);

    let learner = async |sub: Value| {
        let change = |it: &mut Value| {
            it["scope"] = json!("events:learner");
            it["sub"] = sub;
        };
        judged(&with(change)).await
    };
    let credential = learner(json!("ada")).await.unwrap();
    assert!(credential.may_write() && !credential.may_send_for("bob"));
    refused(learner(json!(null)).await, &["`sub`", "missing"]);
    refused(learner(json!("")).await, &["`sub`", "no user id"]);
    refused(learner(json!(5)).await, &["`sub`", "text"]);

    let school = async |value: Value| judged(&with(|it| it["school_id"] = value)).await;
    let several = school(json!(["b", "a", "b"])).await.unwrap();
    assert_eq!(several.schools().map(|school| school.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    refused(school(json!(null)).await, &["`school_id`", "missing"]);
    refused(school(json!([])).await, &["`school_id`", "no school"]);
    refused(school(json!("a\u{1}")).await, &["`school_id`", "control"]);
    refused(school(json!({"a": 1})).await, &["`school_id`"]);
}

#[tokio::test]
async fn claims_have_the_names_that_the_issuer_gives_them() {
    let folder = tempfile::tempdir().unwrap();
    let options = || JwtOptions {
        school_claim: "https://example/claims/school".to_owned(),
        scope_claim: "/app/rights".to_owned(),
        learner_claim: "uid".to_owned(),
        app: Some("notebook".to_owned()),
        schools: vec!["lincoln".parse().unwrap()],
        ..shared(&folder)
    };
    let named = json!({
        "iss": "https://id.example", "aud": ["chalkstream"], "exp": NOW + 1, "uid": "ada",
        "https://example/claims/school": "lincoln", "app": {"rights": ["events:learner"]},
    });
    let credential = verify_with(options(), &hs256(SECRET, &named)).await.unwrap();
    assert_eq!(credential.learner, Some("ada".parse().unwrap()));
    assert_eq!(credential.app.as_deref(), Some("notebook"));
    let mut other = named.clone();
    other["https://example/claims/school"] = json!("adams");
    let result = verify_with(options(), &hs256(SECRET, &other)).await;
    refused(result, &["`https://example/claims/school`", "does not speak for"]);
    // An issuer of one school need not name it.
    other.as_object_mut().unwrap().remove("https://example/claims/school");
    let credential = verify_with(options(), &hs256(SECRET, &other)).await.unwrap();
    assert_eq!(credential.school_id.as_str(), "lincoln");
}

#[tokio::test]
async fn what_is_no_token_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    for token in ["..", "a.b.c", "e30.e30.", "e30.W10.x", "\u{e9}.\u{e9}.\u{e9}", "bnVsbA.bnVsbA.x"]
    {
        let said = verify_with(shared(&folder), token).await.unwrap_err();
        assert!(
            matches!(
                said,
                TokenError::Malformed | TokenError::UnknownIssuer | TokenError::Algorithm { .. }
            ),
            "{token}: {said:?}"
        );
    }
    let long = format!("{}.{}.x", "a".repeat(9_000), "b".repeat(9_000));
    assert_eq!(verify_with(shared(&folder), &long).await, Err(TokenError::TooLong));
    let none = Tokens::default();
    let result = none.verify(&hs256(SECRET, &claims()), Timestamp::from_ms(0)).await;
    assert_eq!(result, Err(TokenError::NotConfigured));
    assert!(!Tokens::is_token("csk_0123") && Tokens::is_token("a.b.c") && !Tokens::is_token("a.b"));
}

#[tokio::test]
async fn a_set_of_keys_gives_the_one_that_the_token_names() {
    let folder = tempfile::tempdir().unwrap();
    let all = [JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa];
    let mut set = serde_json::to_value(JwkSet {
        keys: all
            .iter()
            .flat_map(|algorithm| {
                [0, 1].map(|serial| {
                    pair(*algorithm, serial).jwk(&format!("{}-{serial}", algorithm.as_str()))
                })
            })
            .collect(),
    })
    .unwrap();
    let keys = set["keys"].as_array_mut().unwrap();
    // What is not for signatures, or not known, is passed over.
    keys.push(json!({"kty": "quantum", "kid": "q"}));
    let mut encryption = keys[0].clone();
    encryption["use"] = json!("enc");
    encryption["kid"] = json!("enc");
    keys.push(encryption);
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    keys.push(json!({"kty": "oct", "kid": "oct", "k": secret}));
    let path = file(&folder, "set.json", set.to_string());
    let options = || JwtOptions { jwks_file: Some(path.clone()), ..options(&all) };
    for algorithm in all {
        for serial in [0, 1] {
            let kid = format!("{}-{serial}", algorithm.as_str());
            let token = pair(algorithm, serial).sign(Some(&kid), &claims());
            verify_with(options(), &token).await.unwrap();
            // Without a name all keys of the kind are tried.
            verify_with(options(), &pair(algorithm, serial).sign(None, &claims())).await.unwrap();
            let swapped = pair(algorithm, 1 - serial).sign(Some(&kid), &claims());
            refused(verify_with(options(), &swapped).await, &["signature"]);
        }
    }
    for kid in ["unknown", "enc", "oct", "q"] {
        let token = pair(JwtAlgorithm::Rs256, 0).sign(Some(kid), &claims());
        assert_eq!(verify_with(options(), &token).await, Err(TokenError::UnknownKey), "{kid}");
    }
    // In a file, a set may hold shared secrets, for an issuer that signs with them alone.
    let shared = JwtOptions { algorithms: vec![JwtAlgorithm::Hs256], ..options() };
    verify_with(shared, &hs256(SECRET, &claims())).await.unwrap();
}

#[test]
fn an_issuer_that_cannot_work_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    #[track_caller]
    fn check(options: JwtOptions, parts: &[&str]) {
        let said = Tokens::new(&[options]).unwrap_err().to_string();
        for part in parts {
            assert!(said.contains(part), "`{part}` is missing in: {said}");
        }
        assert!(
            said.contains("[[ingest.jwt]]") && !said.contains("a shared secret of 32"),
            "{said}"
        );
    }
    let hs = || shared(&folder);
    let rs = || public(&folder, JwtAlgorithm::Rs256);
    check(JwtOptions { name: "a b".to_owned(), ..hs() }, &["`name`"]);
    check(JwtOptions { issuer: String::new(), ..hs() }, &["`issuer`"]);
    check(JwtOptions { audience: Vec::new(), ..hs() }, &["`audience`"]);
    check(JwtOptions { algorithms: Vec::new(), ..hs() }, &["`algorithms`"]);
    check(
        JwtOptions { algorithms: vec![JwtAlgorithm::Hs256, JwtAlgorithm::Rs256], ..hs() },
        &["do not go together"],
    );
    check(JwtOptions { algorithms: vec![JwtAlgorithm::Rs256], ..hs() }, &["HS256"]);
    check(JwtOptions { algorithms: vec![JwtAlgorithm::Hs256], ..rs() }, &["needs a shared secret"]);
    check(
        JwtOptions { algorithms: vec![JwtAlgorithm::Es256], ..rs() },
        &["public.pem", "none of the `algorithms`"],
    );
    check(options(&[JwtAlgorithm::Rs256]), &["exactly one of"]);
    check(JwtOptions { secret_env: Some("X".to_owned()), ..hs() }, &["exactly one of"]);
    check(
        JwtOptions {
            secret_file: None,
            secret_env: Some("CHALKSTREAM_TEST_NOT_SET".to_owned()),
            ..hs()
        },
        &["CHALKSTREAM_TEST_NOT_SET"],
    );
    check(
        JwtOptions { secret_file: Some(file(&folder, "short", "short")), ..hs() },
        &["5 bytes", "32"],
    );
    check(JwtOptions { secret_file: Some("/nowhere/secret".into()), ..hs() }, &["/nowhere/secret"]);
    let pem = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
    check(
        JwtOptions { public_key_file: Some(file(&folder, "private.pem", pem)), ..rs() },
        &["PRIVATE KEY", "public keys"],
    );
    check(
        JwtOptions { public_key_file: Some(file(&folder, "empty.pem", "")), ..rs() },
        &["no public key"],
    );
    let set = |text: &str| JwtOptions {
        public_key_file: None,
        jwks_file: Some(file(&folder, "set", text)),
        ..rs()
    };
    check(
        set("{\"keys\": [{\"kty\": \"oct\", \"k\": \"YSBzaGFyZWQgc2VjcmV0IG9mIDMy\"}]}"),
        &["no key"],
    );
    check(set("{\"keys\" \"YSBzaGFyZWQ\"}"), &["no JSON", "line 1"]);
    check(set("[]"), &["no JWK set"]);
    for (url, part) in [
        ("http://id.example/jwks", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https://me:password@id.example/jwks", "must not hold a password"),
    ] {
        check(
            JwtOptions { public_key_file: None, jwks_url: Some(url.parse().unwrap()), ..rs() },
            &[part],
        );
    }
    let twice = check_issuers(&[hs(), JwtOptions { issuer: "b".to_owned(), ..hs() }]).unwrap_err();
    assert!(twice.to_string().contains("same `name`"));
    let twice = check_issuers(&[hs(), JwtOptions { name: "b".to_owned(), ..hs() }]).unwrap_err();
    assert!(twice.to_string().contains("same `issuer`"));
    let error = toml::from_str::<JwtOptions>("secret = \"x\"").unwrap_err().to_string();
    assert!(error.contains("unknown field `secret`"), "{error}");
}

#[test]
fn a_secret_is_not_in_what_is_shown_for_debugging() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(&[shared(&folder)]).unwrap();
    let shown = format!("{tokens:?}");
    assert!(!shown.contains("a shared secret") && !shown.contains("97, 32, 115"), "{shown}");
}

/// Whatever its issuer wrote into it: a stolen token is of use for a day at most.
#[tokio::test]
async fn a_token_has_a_longest_life() {
    let folder = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(86_400);
    let tokens = Tokens::new(&[shared(&folder)]).unwrap().with_max_age(day);
    let check = async |iat: Option<i64>, exp: i64, expected: Option<&str>| {
        let mut claims = claims();
        claims["exp"] = json!(NOW + exp);
        match iat {
            Some(iat) => claims["iat"] = json!(NOW + iat),
            None => drop(claims.as_object_mut().unwrap().remove("iat")),
        }
        let result = tokens.verify(&hs256(SECRET, &claims), Timestamp::from_ms(NOW * 1000)).await;
        let said = result.err().map(|error| error.to_string());
        let fits = match (&said, expected) {
            (None, None) => true,
            (Some(said), Some(part)) => said.contains(part),
            _ => false,
        };
        assert!(fits, "{iat:?} {exp}: {said:?}");
    };
    let year = 365 * 86_400;
    check(Some(-10), 300, None).await;
    check(Some(-10), year, None).await;
    check(Some(-86_000), year, None).await;
    check(Some(-86_500), year, Some("max_token_age")).await;
    check(Some(3_600), year, Some("not valid before")).await;
    check(None, 86_000, None).await;
    check(None, year, Some("`iat` is missing")).await;
}
