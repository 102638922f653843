//! One week of a MOOC's xAPI video statements: each played-to-paused pair is a `video_watch`.
//!
//! A pair is a `played` followed by a `paused` of the same actor, player session and video with no
//! other player statement between; its duration is the distance of the two player positions.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::data::{DemoEvent, json_lines};

const VIDEO_VERBS: &str = "https://w3id.org/xapi/video/verbs/";
const SESSION: &str = "https://w3id.org/xapi/video/extensions/session-id";
const POSITION: &str = "https://w3id.org/xapi/video/extensions/time";

#[derive(Deserialize)]
struct Statement {
    id: String,
    timestamp: DateTime<Utc>,
    actor: Actor,
    verb: Named,
    object: Named,
    context: StatementContext,
    #[serde(default)]
    result: ResultPart,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Actor {
    account: Account,
}

#[derive(Deserialize)]
struct Account {
    name: String,
}

#[derive(Deserialize)]
struct StatementContext {
    #[serde(default)]
    extensions: HashMap<String, Value>,
    #[serde(default, rename = "contextActivities")]
    activities: Activities,
}

#[derive(Default, Deserialize)]
struct Activities {
    #[serde(default)]
    parent: Vec<Named>,
}

#[derive(Default, Deserialize)]
struct ResultPart {
    #[serde(default)]
    extensions: HashMap<String, Value>,
}

/// Where a video was started and has not been paused yet.
struct Playing {
    statement_id: String,
    position: f64,
}

/// The watched pieces of every video.
pub(crate) fn events(folder: &Path) -> Result<Vec<DemoEvent>> {
    let mut statements: Vec<Statement> = json_lines(&folder.join("statements.json.gz"))?;
    statements.sort_by(|a, b| (a.timestamp, &a.id).cmp(&(b.timestamp, &b.id)));
    let mut playing: HashMap<(String, String, String), Playing> = HashMap::new();
    let mut events = Vec::new();
    for statement in statements {
        let Some(verb) = statement.verb.id.strip_prefix(VIDEO_VERBS) else { continue };
        let Some(session) = statement.context.extensions.get(SESSION).and_then(Value::as_str)
        else {
            continue;
        };
        let user = statement.actor.account.name;
        let video = statement.object.id;
        let key = (user.clone(), session.to_owned(), video.clone());
        let started = playing.remove(&key);
        let position = statement.result.extensions.get(POSITION).and_then(Value::as_f64);
        match (verb, started, position) {
            ("played", _, Some(position)) => {
                playing.insert(key, Playing { statement_id: statement.id, position });
            }
            ("paused", Some(from), Some(position)) if position > from.position => {
                let course = statement.context.activities.parent.first();
                let course = course.context("a video statement names its course")?;
                let mut event = DemoEvent::new(
                    from.statement_id,
                    "video_watch",
                    &user,
                    Some(&course.id),
                    statement.timestamp,
                    json!({
                        "video_id": video,
                        "duration_seconds": position - from.position,
                        "position_start": from.position,
                        "position_end": position,
                        "action": "pause",
                    }),
                );
                event.json["session_id"] = json!(session);
                events.push(event);
            }
            _ => {}
        }
    }
    Ok(events)
}
