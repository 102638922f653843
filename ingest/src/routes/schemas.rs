//! `GET /v1/schemas` and `/v1/schemas/{type}`: what an event of each type must look like.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use chalkstream_access::{Problem, ProblemBody, ProblemKind, printable};
use chalkstream_schemas::EventType;
use chalkstream_schemas::json_schema::json_schema;
use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;

/// The event types there are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchemaList {
    schemas: Vec<SchemaEntry>,
}

/// One event type.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchemaEntry {
    /// Its name; `custom` stands for every `custom.<name>`.
    #[schema(example = "answer_submitted")]
    r#type: &'static str,
    /// Other names it is accepted under.
    aliases: &'static [&'static str],
    /// Where its JSON Schema is.
    #[schema(example = "/v1/schemas/answer_submitted")]
    url: String,
}

/// List the event types
#[utoipa::path(
    get,
    path = "/v1/schemas",
    tag = "schemas",
    responses((status = 200, description = "Every event type", body = SchemaList)),
)]
pub(crate) async fn list_schemas() -> Json<SchemaList> {
    let schemas = EventType::ALL
        .iter()
        .chain(&[EventType::Custom])
        .map(|event_type| {
            let name = event_type.as_str();
            SchemaEntry {
                r#type: name,
                aliases: event_type.info().map_or(&[], |info| info.aliases),
                url: format!("/v1/schemas/{name}"),
            }
        })
        .collect();
    Json(SchemaList { schemas })
}

/// Get the JSON Schema of an event type
#[utoipa::path(
    get,
    path = "/v1/schemas/{type}",
    tag = "schemas",
    params(("type" = String, Path, description = "A type, an alias of one, or `custom`")),
    responses(
        (status = 200, description = "The schema of the whole event, draft 2020-12", body = serde_json::Value, content_type = "application/schema+json"),
        (status = 404, description = "No such type", body = ProblemBody<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_schema(Path(name): Path<String>) -> Response {
    let found = match name.as_str() {
        "custom" => Some(EventType::Custom),
        name => EventType::from_name(name),
    };
    let Some(event_type) = found else {
        let name = printable(&name);
        let detail = format!("there is no event type `{name}`; /v1/schemas lists them");
        return Problem::new(ProblemKind::NotFound, detail).into_response();
    };
    let mut response = Json(json_schema(event_type)).into_response();
    let schema_json = HeaderValue::from_static("application/schema+json");
    response.headers_mut().insert(header::CONTENT_TYPE, schema_json);
    response
}
