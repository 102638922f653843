//! `keys create | list | rotate | revoke`: the write keys of schools.

use std::process::ExitCode;

use anyhow::Result;
use chalkstream_access::{Grant, Scope, Span};
use chalkstream_schemas::{SchoolId, Timestamp, UserId};
use clap::Subcommand;

use super::Context;
use crate::control::{Access, access};
use crate::output::note;
use crate::parts;
use crate::registrar::{self, CreatedKey, KeyRow, NewKey, Rotation};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key, and its school (in UTC) if that is new
    Create(Box<Create>),
    /// List keys; never the keys themselves, which are stored nowhere
    List {
        /// Only those of one school
        #[arg(long, value_parser = super::school)]
        school: Option<SchoolId>,
    },
    /// Make a new key with the same rights; the old one is valid until the overlap ends
    Rotate {
        /// Its name in the list, such as csk_1a2b3c4d
        key_id: String,
        /// How long both are valid
        #[arg(long, default_value = "24h")]
        overlap: Span,
    },
    /// Make a key useless, at once
    Revoke {
        /// Its name in the list, such as csk_1a2b3c4d
        key_id: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The school whose events the key may send
    #[arg(long, value_parser = super::school)]
    school: SchoolId,
    /// What the key allows: events:write (the default), events:backfill (any age), events:learner
    /// (of --learner alone); may be repeated
    #[arg(long = "scope")]
    scopes: Vec<Scope>,
    /// The application that gets the key, such as whiteboard
    #[arg(long)]
    app: Option<String>,
    /// Anybody may know it, as in a web page: it writes, and nothing else
    #[arg(long)]
    publishable: bool,
    /// A web origin that a publishable key is for, such as `https://app.example`; may be repeated
    #[arg(long = "origin", requires = "publishable")]
    origins: Vec<String>,
    /// Another school, for a vendor that serves several: each request then names its own in the
    /// header Chalkstream-School; may be repeated
    #[arg(long = "also-school", value_name = "SCHOOL", value_parser = super::school)]
    also_schools: Vec<SchoolId>,
    /// The only learner whose events the key may send
    #[arg(long, value_name = "USER")]
    learner: Option<UserId>,
    /// Oldest event it may send, such as 30d, instead of ingest.max_age
    #[arg(long)]
    max_age: Option<Span>,
    /// How far ahead of the server's clock its events may be, instead of ingest.max_future
    #[arg(long)]
    max_future: Option<Span>,
    /// When it ends: after a time such as 90d, or at a time such as 2027-07-31T00:00:00Z
    #[arg(long, value_parser = Expires::parse)]
    expires: Option<Expires>,
}

/// The end of a key, as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expires {
    After(Span),
    At(Timestamp),
}

impl Expires {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(span) = text.parse() {
            return Ok(Self::After(span));
        }
        Timestamp::parse_rfc3339(text).map(Self::At).map_err(|_neither| {
            "it is neither a time from now, such as 90d, nor a time such as 2027-07-31T00:00:00Z"
                .to_owned()
        })
    }

    fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::After(span) => now.plus(span.get()),
            Self::At(at) => at,
        }
    }
}

impl Create {
    fn request(self) -> NewKey {
        let scopes = match (self.scopes.is_empty(), &self.learner) {
            (true, None) => vec![Scope::EventsWrite],
            (true, Some(_)) => vec![Scope::EventsLearner],
            (false, _) => self.scopes,
        };
        let grant = Grant {
            also_schools: self.also_schools,
            app: self.app,
            publishable: self.publishable,
            origins: self.origins,
            learner: self.learner,
            max_age: self.max_age,
            max_future: self.max_future,
            ..Grant::new(self.school, &scopes)
        };
        let expires_at = self.expires.map(|end| end.from(registrar::now()).to_string());
        NewKey { grant, expires_at }
    }
}

pub(crate) async fn run(command: Command, cx: Context) -> Result<ExitCode> {
    let access = access(&cx.config).await?;
    match command {
        Command::Create(create) => self::create(access, &cx, create.request()).await?,
        Command::List { school } => list(access, &cx, school.as_ref()).await?,
        Command::Rotate { key_id, overlap } => rotate(access, &cx, &key_id, overlap).await?,
        Command::Revoke { key_id } => revoke(access, &cx, &key_id).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(access: Access, cx: &Context, request: NewKey) -> Result<()> {
    let created: CreatedKey = match access {
        Access::Running(client) => client.post("/keys", &request).await?,
        Access::Ours(folder) => {
            parts::with_registrar(&cx.config, &folder, async |registrar| {
                registrar.create_key(request).await
            })
            .await?
        }
    };
    show_once(cx, &created)
}

async fn rotate(access: Access, cx: &Context, key_id: &str, overlap: Span) -> Result<()> {
    let request = Rotation { overlap };
    let created: CreatedKey = match access {
        Access::Running(client) => client.post(&path(key_id, "rotate"), &request).await?,
        Access::Ours(folder) => {
            let keys = parts::open_keys_offline(&cx.config, folder.layout()).await?;
            registrar::rotate_key(&keys, key_id, request).await?
        }
    };
    if !cx.output.is_json() {
        note(&format!("{key_id} is valid for {overlap} still."));
    }
    show_once(cx, &created)
}

fn show_once(cx: &Context, created: &CreatedKey) -> Result<()> {
    cx.output.show(created, || format!("key: {}", created.key))?;
    if !cx.output.is_json() {
        note(&format!(
            "It is shown this once; {} names it. Clients send it as `Authorization: Bearer …`.",
            created.row.key_id
        ));
        if !created.row.grant.also_schools.is_empty() {
            note("Each request names its school in the header `Chalkstream-School`.");
        }
    }
    Ok(())
}

async fn list(access: Access, cx: &Context, school: Option<&SchoolId>) -> Result<()> {
    let mut keys: Vec<KeyRow> = match access {
        Access::Running(client) => client.get("/keys").await?,
        Access::Ours(folder) => {
            let keys = parts::open_keys_offline(&cx.config, folder.layout()).await?;
            registrar::list_keys(&keys)
        }
    };
    keys.retain(|key| {
        let grant = &key.grant;
        school
            .is_none_or(|school| *school == grant.school_id || grant.also_schools.contains(school))
    });
    let header = ["key_id", "school", "scopes", "app", "state", "created", "expires"];
    cx.output.rows(&keys, &header, |key| {
        let grant = &key.grant;
        let school = match grant.also_schools.len() {
            0 => grant.school_id.to_string(),
            more => format!("{} +{more}", grant.school_id),
        };
        let mut scopes =
            grant.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
        if grant.publishable {
            scopes.push_str(" (publishable)");
        }
        vec![
            key.key_id.clone(),
            school,
            scopes,
            grant.app.clone().unwrap_or_default(),
            state(key),
            key.created_at.clone(),
            key.expires_at.clone().unwrap_or_default(),
        ]
    })
}

/// Where the key is in its life, in words.
fn state(key: &KeyRow) -> String {
    let since = match (&key.rotating_until, &key.revoked_at) {
        (_, Some(at)) => format!(" at {at}"),
        (Some(until), None) if key.state == "rotating" => format!(" until {until}"),
        _ => String::new(),
    };
    format!("{}{since}", key.state)
}

async fn revoke(access: Access, cx: &Context, key_id: &str) -> Result<()> {
    let revoked: KeyRow = match access {
        Access::Running(client) => client.post(&path(key_id, "revoke"), &()).await?,
        Access::Ours(folder) => {
            let keys = parts::open_keys_offline(&cx.config, folder.layout()).await?;
            registrar::revoke_key(&keys, key_id).await?
        }
    };
    cx.output.show(&revoked, || {
        format!("{} of school {} is revoked", revoked.key_id, revoked.grant.school_id)
    })
}

fn path(key_id: &str, what: &str) -> String {
    let segment: String = url::form_urlencoded::byte_serialize(key_id.as_bytes()).collect();
    format!("/keys/{segment}/{what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_time_from_now_or_a_time() {
        let now = Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        for (text, expected) in [
            ("90d", "2026-04-01T00:00:00.000Z"),
            ("2027-07-31T00:00:00Z", "2027-07-31T00:00:00.000Z"),
            ("2027-07-31T02:00:00+02:00", "2027-07-31T00:00:00.000Z"),
        ] {
            assert_eq!(Expires::parse(text).unwrap().from(now).to_string(), expected);
        }
        for text in ["", "soon", "90", "2027-07-31"] {
            assert!(Expires::parse(text).unwrap_err().contains("90d"), "{text}");
        }
    }
}
