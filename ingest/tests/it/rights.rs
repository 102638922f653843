//! What credentials may and may not do, over HTTP.

use chalkstream_access::{Clock as _, Grant, Scope};
use serde_json::{Value, json};

use crate::harness::{Reply, Server, school, server};

impl Server {
    fn issue(&self, grant: Grant) -> String {
        let (key, _info) = self.keys.issue(grant, None, self.clock.now()).unwrap();
        key.reveal().to_owned()
    }
}

async fn send(server: &Server, key: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    let mut request = server.client.post(server.url("/v1/events")).bearer_auth(key).json(body);
    for (name, value) in headers {
        request = request.header(*name, value.as_bytes());
    }
    Reply::of(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_names_the_school_of_every_request() {
    let server = server().await;
    let mut grant = Grant::new(school("adams"), &[Scope::EventsWrite]);
    grant.also_schools = vec![school("lincoln"), school("schüle")];
    let key = server.issue(grant);
    let event = server.event("018f3c1e-7b7a-7c3e-9d52-1f0a7a6f2b11");
    let name = "Chalkstream-School";
    for school in ["adams", "lincoln", "schüle"] {
        // The same id in another school is another event.
        send(&server, &key, &[(name, school)], &event).await.check(200, [1, 0, 0, 0]);
    }
    let mut stored = server.events().await.into_iter().map(|event| event.school_id.to_string());
    let mut schools = stored.by_ref().collect::<Vec<_>>();
    schools.sort();
    assert_eq!(schools, ["adams", "lincoln", "schüle"]);

    let reply = send(&server, &key, &[], &event).await;
    reply.check_problem(400, "school-missing", "`adams`, `lincoln`, `schüle`");
    let reply = send(&server, &key, &[(name, "adams"), (name, "lincoln")], &event).await;
    reply.check_problem(400, "school-missing", "more than one");
    let reply = send(&server, &key, &[(name, "harbour")], &event).await;
    reply.check_problem(403, "school-not-allowed", "`harbour`");
    // The key of one school may say so, and no other.
    send(&server, &server.key, &[(name, "lincoln")], &event).await.check(200, [0, 1, 0, 0]);
    let reply = send(&server, &server.key, &[(name, "adams")], &event).await;
    reply.check_problem(403, "school-not-allowed", "it may for `lincoln`");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learners_credential_sends_that_learners_events_alone() {
    let server = server().await;
    let mut grant = Grant::new(school("lincoln"), &[Scope::EventsLearner]);
    grant.learner = Some("ada".parse().unwrap());
    grant.app = Some("notebook".to_owned());
    let key = server.issue(grant);
    let (mine, mut other, mut broken) = (server.fresh(), server.fresh(), server.fresh());
    other["user_id"] = json!("grace");
    broken["data"] = json!({});
    let reply = send(&server, &key, &[], &json!([other, mine, broken])).await;
    reply.check(200, [1, 0, 2, 0]);
    let results = reply.body["results"].as_array().unwrap();
    assert_eq!(results[0]["reason"], "not_permitted");
    assert_eq!(results[0]["field"], "user_id");
    assert_eq!(results[0]["id"], other["id"]);
    assert!(results[0]["message"].as_str().unwrap().contains("events:learner"));
    assert_eq!(results[1]["reason"], "missing_field");
    let reply = send(&server, &key, &[], &other).await;
    reply.check(422, [0, 0, 1, 0]);
    // What was not permitted reserved no id: its owner can send it.
    server.send(&other).await.check(200, [1, 0, 0, 0]);
    let rejected = server.rejected().await;
    assert!(rejected.iter().all(|record| record.app.as_deref() == Some("notebook")));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_own_limits_of_time_stand_above_the_servers() {
    let server = server().await;
    let event = |days: i64| {
        let mut event = server.fresh();
        let at = server.clock.now().plus_ms(days * 86_400_000);
        event["occurred_at"] = json!(at.to_string());
        event
    };
    let key = |scopes: &[Scope], max_age: Option<&str>, max_future: Option<&str>| {
        let mut grant = Grant::new(school("lincoln"), scopes);
        grant.max_age = max_age.map(|span| span.parse().unwrap());
        grant.max_future = max_future.map(|span| span.parse().unwrap());
        server.issue(grant)
    };
    let check = async |key: &str, days: i64, reason: Option<&str>| {
        let reply = send(&server, key, &[], &event(days)).await;
        match reason {
            None => drop(reply.check(200, [1, 0, 0, 0])),
            Some(reason) => assert_eq!(reply.body["results"][0]["reason"], reason, "{reply:?}"),
        }
    };
    let short = key(&[Scope::EventsWrite], Some("2d"), Some("3d"));
    check(&short, -1, None).await;
    check(&short, -3, Some("too_old")).await;
    check(&short, 2, None).await;
    check(&short, 4, Some("in_future")).await;
    let long = key(&[Scope::EventsWrite], Some("1000d"), None);
    check(&long, -900, None).await;
    check(&long, -1100, Some("too_old")).await;
    // Backfill lifts the first limit, and not the second.
    let backfill = key(&[Scope::EventsBackfill], None, Some("3d"));
    check(&backfill, -9000, None).await;
    check(&backfill, 4, Some("in_future")).await;
    check(&server.key, -399, None).await;
    check(&server.key, -401, Some("too_old")).await;
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publishable_key_is_for_the_pages_it_was_made_for() {
    let server = server().await;
    let mut grant = Grant::new(school("lincoln"), &[Scope::EventsWrite]);
    grant.publishable = true;
    let anywhere = server.issue(grant.clone());
    grant.origins = vec!["https://app.example".to_owned(), "http://localhost:3000".to_owned()];
    let bound = server.issue(grant);
    let empty = json!([]);
    for (key, origin, allowed) in [
        (&anywhere, "https://evil.example", true),
        (&bound, "https://app.example", true),
        (&bound, "http://localhost:3000", true),
        (&bound, "https://evil.example", false),
        (&bound, "null", false),
        (&server.key, "https://evil.example", true),
    ] {
        let reply = send(&server, key, &[("Origin", origin)], &empty).await;
        if allowed {
            reply.check(200, [0; 4]);
        } else {
            reply.check_problem(403, "origin-not-allowed", origin);
        }
    }
    send(&server, &bound, &[], &empty).await.check(200, [0; 4]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_expires_or_is_rotated_ends_on_time() {
    let server = server().await;
    let now = server.clock.now();
    let minute = std::time::Duration::from_secs(60);
    let grant = Grant::new(school("lincoln"), &[Scope::EventsWrite]);
    let (brief, info) = server.keys.issue(grant, Some(now.plus(minute)), now).unwrap();
    let old = server.keys.list()[0].key_id.clone();
    let (next, _info) = server.keys.rotate(&old, 2 * minute, now).unwrap();
    let empty = json!([]);
    for key in [brief.reveal(), &server.key, next.reveal()] {
        send(&server, key, &[], &empty).await.check(200, [0; 4]);
    }
    server.clock.step(minute);
    let reply = send(&server, brief.reveal(), &[], &empty).await;
    reply.check_problem(401, "expired-key", &info.key_id);
    assert!(!reply.body.to_string().contains(brief.reveal()));
    send(&server, &server.key, &[], &empty).await.check(200, [0; 4]);
    server.clock.step(minute);
    send(&server, &server.key, &[], &empty).await.check_problem(401, "expired-key", &old);
    send(&server, next.reveal(), &[], &empty).await.check(200, [0; 4]);
    assert_eq!(server.metric("chalkstream_ingest_keys").await, 1);
    server.check_conservation().await;
}
