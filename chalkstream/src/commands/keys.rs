//! `keys create | list | revoke`: the write keys of schools.

use std::process::ExitCode;

use anyhow::Result;
use chalkstream_ingest::{KeyStore, Scope};
use chalkstream_schemas::SchoolId;
use clap::Subcommand;

use super::Context;
use crate::control::{Access, access};
use crate::output::note;
use crate::parts;
use crate::registrar::{CreatedKey, KeyRow, NewKey};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key, and its school (in UTC) if that is new
    Create {
        /// The school whose events the key may send
        #[arg(long, value_parser = super::school)]
        school: SchoolId,
        /// What the key allows: events:write, events:backfill (any age); may be repeated
        #[arg(long = "scope", default_value = "events:write")]
        scopes: Vec<Scope>,
    },
    /// List keys; never the keys themselves, which are stored nowhere
    List {
        /// Only those of one school
        #[arg(long, value_parser = super::school)]
        school: Option<SchoolId>,
    },
    /// Make a key useless, at once
    Revoke {
        /// Its name in the list, such as csk_1a2b3c4d
        key_id: String,
    },
}

pub(crate) async fn run(command: Command, cx: Context) -> Result<ExitCode> {
    let access = access(&cx.config).await?;
    match command {
        Command::Create { school, scopes } => create(access, &cx, school, scopes).await?,
        Command::List { school } => list(access, &cx, school.as_ref()).await?,
        Command::Revoke { key_id } => revoke(access, &cx, &key_id).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(
    access: Access,
    cx: &Context,
    school_id: SchoolId,
    scopes: Vec<Scope>,
) -> Result<()> {
    let request = NewKey { school_id, scopes };
    let created: CreatedKey = match access {
        Access::Running(client) => client.post("/keys", &request).await?,
        Access::Ours(folder) => {
            parts::with_registrar(&cx.config, &folder, async |registrar| {
                registrar.create_key(request).await
            })
            .await?
        }
    };
    cx.output.show(&created, || format!("key: {}", created.key))?;
    if !cx.output.is_json() {
        note("It is shown this once. Clients send it as `Authorization: Bearer …`.");
    }
    Ok(())
}

async fn list(access: Access, cx: &Context, school: Option<&SchoolId>) -> Result<()> {
    let mut keys: Vec<KeyRow> = match access {
        Access::Running(client) => client.get("/keys").await?,
        Access::Ours(folder) => {
            let store = KeyStore::open(folder.layout().keys())?;
            store.list().into_iter().map(KeyRow::from).collect()
        }
    };
    keys.retain(|key| school.is_none_or(|school| *school == key.school_id));
    cx.output.rows(&keys, &["key_id", "school", "scopes", "created", "revoked"], |key| {
        vec![
            key.key_id.clone(),
            key.school_id.to_string(),
            key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" "),
            key.created_at.clone(),
            key.revoked_at.clone().unwrap_or_default(),
        ]
    })
}

async fn revoke(access: Access, cx: &Context, key_id: &str) -> Result<()> {
    let revoked: KeyRow = match access {
        Access::Running(client) => {
            let segment: String = url::form_urlencoded::byte_serialize(key_id.as_bytes()).collect();
            client.post(&format!("/keys/{segment}/revoke"), &()).await?
        }
        Access::Ours(folder) => {
            let store = KeyStore::open(folder.layout().keys())?;
            store.revoke(key_id, crate::registrar::now())?.into()
        }
    };
    cx.output
        .show(&revoked, || format!("{} of school {} is revoked", revoked.key_id, revoked.school_id))
}
