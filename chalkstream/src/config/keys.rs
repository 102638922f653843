//! The keys that a configuration may have, and what an unknown one probably meant.
//!
//! Always true: the keys are those of [`Config`] itself, found by writing out one in which every
//! optional value is set; so no list has to be kept in step.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::secrets::is_secret;
use super::{Config, every_key_set};

/// Tables whose keys belong to someone else: librdkafka's properties, object_store's options.
pub(crate) const OPEN_TABLES: [&str; 2] = ["log.kafka", "lake.options"];

/// Keys of ours that the environment alone may set.
pub(crate) const SECRETS: [&str; 1] = ["clickhouse.password"];

/// Every key, dotted.
pub(crate) fn known() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    if let Ok(table) = Table::try_from(every_key_set()) {
        collect(&table, "", &mut keys);
    }
    keys.extend(SECRETS.map(str::to_owned));
    keys
}

fn collect(table: &Table, prefix: &str, keys: &mut BTreeSet<String>) {
    for (name, value) in table {
        let key = join(prefix, name);
        match value {
            Value::Table(inner) if !is_open(&key) && !inner.is_empty() => {
                collect(inner, &key, keys);
            }
            _ => {
                keys.insert(key);
            }
        }
    }
}

pub(crate) fn is_open(key: &str) -> bool {
    OPEN_TABLES.contains(&key)
}

pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Every key of `table` that no configuration has.
pub(crate) fn unknown_in(table: &Table) -> Vec<String> {
    let mut found = BTreeSet::new();
    collect(table, "", &mut found);
    let known = known();
    let sections: BTreeSet<&str> =
        known.iter().filter_map(|key| key.rsplit_once('.').map(|(section, _)| section)).collect();
    found
        .into_iter()
        .filter(|key| !known.contains(key) && !sections.contains(key.as_str()))
        .collect()
}

/// The known key that is spelt most like `key`, if any is close.
pub(crate) fn nearest(key: &str) -> Option<String> {
    let leaf = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    known()
        .into_iter()
        .map(|candidate| {
            let whole = strsim::damerau_levenshtein(key, &candidate);
            // The right key in the wrong section is one slip, not many.
            let moved = 1 + strsim::damerau_levenshtein(&leaf(key), &leaf(&candidate));
            (whole.min(moved), candidate)
        })
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// The default of `key`, which tells what type an environment variable must have.
pub(crate) fn sample(key: &str) -> Option<Value> {
    let table = Table::try_from(every_key_set()).ok()?;
    let mut value = Value::Table(table);
    for name in key.split('.') {
        value = value.as_table_mut()?.remove(name)?;
    }
    Some(value)
}

/// Every key whose value differs; secrets, which are never written out, are not compared.
pub(crate) fn changed(old: &Config, new: &Config) -> Vec<String> {
    let values = |config: &Config| {
        let mut values = BTreeMap::new();
        if let Ok(table) = Table::try_from(config) {
            flatten(&table, "", &mut values);
        }
        values
    };
    let (old, new) = (values(old), values(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

fn flatten(table: &Table, prefix: &str, into: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = join(prefix, name);
        match value {
            Value::Table(inner) => flatten(inner, &key, into),
            value => {
                into.insert(key, value.clone());
            }
        }
    }
}

/// The configuration with everything that could be a secret replaced by `***`.
pub(crate) fn redacted(config: &Config) -> Result<Table, toml::ser::Error> {
    let mut table = Table::try_from(config)?;
    redact(&mut table);
    Ok(table)
}

fn redact(table: &mut Table) {
    for (name, value) in table.iter_mut() {
        let name = name.to_ascii_lowercase();
        let secret = ["password", "secret", "token", "key", "sasl.jaas"];
        match value {
            Value::Table(inner) => redact(inner),
            _ if name.ends_with("_file") => {}
            value if is_secret(&name) || secret.iter().any(|part| name.contains(part)) => {
                *value = Value::String("***".to_owned());
            }
            _ => {}
        }
    }
}
