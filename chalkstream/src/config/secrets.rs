//! Secrets in a configuration file, wherever they stand: found by the names of keys, and in addresses.
//!
//! In: what the file holds. Out: the key whose value must not stand there.
//! Always true: the list of names is closed, and a name that says where a secret is (`…_file`,
//! `…_env`) is none of them; what is found is named and never shown.
//! Not here: what to use instead (the error's hint).

use toml::{Table, Value};
use url::Url;

/// How the names of secrets end. Dots and dashes count as `_`: librdkafka writes `sasl.password`.
const ENDINGS: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "credentials",
    "access_key",
    "account_key",
    "master_key",
    "private_key",
    "secret_key",
    "api_key",
    "sas_key",
    "customer_key_base64",
    "key_pem",
    "jaas_config",
];

/// Parameters of an address that sign it, beside those that end as above.
const SIGNATURES: [&str; 3] = ["sig", "signature", "x_amz_signature"];

/// The first key of the file that holds a secret.
pub(super) fn find(table: &Table) -> Option<String> {
    in_table(table, "")
}

/// Whether a key of this name holds a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = plain(name);
    ENDINGS.iter().any(|ending| {
        name.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    })
}

fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['.', '-'], "_")
}

fn in_table(table: &Table, prefix: &str) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        in_value(name, value, key)
    })
}

fn in_value(name: &str, value: &Value, key: String) -> Option<String> {
    match value {
        Value::Table(inner) => in_table(inner, &key),
        Value::Array(values) => values.iter().find_map(|value| in_value(name, value, key.clone())),
        Value::String(text) if has_secret(text) => Some(key),
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_) => is_secret(name).then_some(key),
    }
}

/// Whether it is an address with a password, or one that is signed.
fn has_secret(text: &str) -> bool {
    let Ok(url) = Url::parse(text.trim()) else { return false };
    let signs = |name: &str| is_secret(name) || SIGNATURES.contains(&plain(name).as_str());
    url.password().is_some() || url.query_pairs().any(|(name, _)| signs(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let table = text.parse::<Table>().unwrap();
        assert_eq!(find(&table).as_deref(), expected, "{text}");
    }

    #[test]
    fn a_secret_is_found_by_the_name_of_its_key_wherever_it_stands() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
        ] {
            let key = format!("log.kafka.{name}");
            check(&format!("[log.kafka]\n\"{name}\" = \"x\""), Some(&key));
        }
        for name in [
            "aws_secret_access_key",
            "AWS_SESSION_TOKEN",
            "aws_sse_customer_key_base64",
            "azure_storage_account_key",
            "azure_storage_sas_token",
            "azure_client_secret",
            "azure_storage_master_key",
            "google_service_account_key",
            "bearer_token",
        ] {
            let key = format!("lake.options.{name}");
            check(&format!("[lake.options]\n{name} = \"x\""), Some(&key));
        }
        check("[[ingest.jwt]]\nsecret = \"x\"", Some("ingest.jwt.secret"));
        check("[clickhouse]\npassword = 1234", Some("clickhouse.password"));
    }

    #[test]
    fn an_address_may_hold_no_secret() {
        check("[lake]\nurl = \"s3://id:key@bucket\"", Some("lake.url"));
        check("[ingest.dedup]\nredis_url = \"redis://:pw@h:1/0\"", Some("ingest.dedup.redis_url"));
        check("a = [\"https://h/x?sv=1&sig=abc\"]", Some("a"));
        check("a = \"https://h/x?X-Amz-Security-Token=abc\"", Some("a"));
        check("a = \"redis://user@h:1/0\"\nb = \"https://h/x?page=2\"", None);
    }

    #[test]
    fn what_says_where_a_secret_is_may_stand_there() {
        for name in ["password_file", "secret_env", "token_file", "max_token_age", "keys"] {
            check(&format!("{name} = \"x\""), None);
        }
        for name in
            ["sasl.username", "ssl.key.location", "ssl.certificate.pem", "aws_access_key_id"]
        {
            check(&format!("\"{name}\" = \"x\""), None);
        }
        check("compacted = \"x\"\ntokens = 1", None);
    }
}
