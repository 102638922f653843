//! The OpenAPI document, made from the annotations at the routes.

use bytes::Bytes;
use chalkstream_schemas::Timestamp;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::routes::{events, health, metrics, schemas, segment};

mod examples;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Chalkstream ingest",
        description = "Sends learning events to Chalkstream. Every event gets one fate; sending again is always safe.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        events::post_events,
        segment::post_batch,
        segment::post_track,
        schemas::list_schemas,
        schemas::get_schema,
        health::livez,
        health::readyz,
        metrics::metrics,
        health::openapi,
    ),
    modifiers(&Credentials),
)]
struct Document;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = |scheme, description: &str| {
            let http = HttpBuilder::new().scheme(scheme).description(Some(description));
            SecurityScheme::Http(http.build())
        };
        let bearer = scheme(HttpAuthScheme::Bearer, "A write key of a school");
        let basic = scheme(HttpAuthScheme::Basic, "The write key as the user name");
        components.add_security_scheme("write_key", bearer);
        components.add_security_scheme("basic", basic);
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("A token of an issuer that the operator has configured"));
        components.add_security_scheme("token", SecurityScheme::Http(token.build()));
        let mut query = ApiKeyValue::new("key");
        query.description =
            Some("For `navigator.sendBeacon` (text/plain): a publishable key, and no other".into());
        components.add_security_scheme("beacon", SecurityScheme::ApiKey(ApiKey::Query(query)));
    }
}

/// The document as JSON, with examples whose events happened `now`.
pub(crate) fn document(now: Timestamp) -> Bytes {
    // A document of strings: serialising it cannot fail.
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    examples::add(&mut document, now);
    Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other half, that each of these routes answers, is tested over HTTP.
    #[test]
    fn the_document_names_the_routes_and_no_others() {
        let document =
            serde_json::from_slice::<serde_json::Value>(&document(Timestamp::from_ms(0))).unwrap();
        let mut documented = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                documented.push((method.to_uppercase(), path.clone()));
            }
        }
        let mut routes = crate::routes::ROUTES
            .iter()
            .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
            .collect::<Vec<_>>();
        documented.sort();
        routes.sort();
        assert_eq!(documented, routes);
    }
}
