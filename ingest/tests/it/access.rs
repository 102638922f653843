//! Who may read `/metrics`.

use chalkstream_access::{MetricsAccess, MetricsOptions};
use chalkstream_ingest::IngestOptions;

use crate::harness::{Reply, Server, server_with};

fn options(access: MetricsAccess, file: Option<&tempfile::NamedTempFile>) -> IngestOptions {
    let token_file = file.map(|file| file.path().to_owned());
    let metrics = MetricsOptions { access, token_file };
    IngestOptions { metrics, ..IngestOptions::default() }
}

async fn scrape(server: &Server, authorization: &str) -> Reply {
    let request = server.client.get(server.url("/metrics")).header("authorization", authorization);
    Reply::of(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_who_has_it_reads_the_metrics() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-token\n").unwrap();
    let server = server_with(options(MetricsAccess::Token, Some(&file))).await;
    assert_eq!(scrape(&server, "Bearer first-token").await.status, 200);
    assert_eq!(scrape(&server, "bearer  first-token").await.status, 200);
    let write_key = format!("Bearer {}", server.key);
    for wrong in ["Bearer second-token", "Bearer", "Basic first-token", "first-token", &write_key] {
        let refused = scrape(&server, wrong).await;
        refused.check_problem(401, "metrics-token", "ingest.metrics.token_file");
        assert!(!refused.body.to_string().contains("second-token"));
        assert!(refused.headers.contains_key("www-authenticate"));
    }
    assert_eq!(Reply::of(server.get("/metrics").await).await.status, 401);
    // Another token holds from the reload on; a file without one changes nothing.
    std::fs::write(file.path(), "second-token").unwrap();
    server.ingest.reload(options(MetricsAccess::Token, Some(&file))).unwrap();
    assert_eq!(scrape(&server, "Bearer first-token").await.status, 401);
    assert_eq!(scrape(&server, "Bearer second-token").await.status, 200);
    std::fs::write(file.path(), " \n").unwrap();
    let error = server.ingest.reload(options(MetricsAccess::Token, Some(&file))).unwrap_err();
    assert!(error.to_string().contains("is empty"), "{error}");
    let error = server.ingest.reload(options(MetricsAccess::Token, None)).unwrap_err();
    assert!(error.to_string().contains("token_file"), "{error}");
    assert_eq!(scrape(&server, "Bearer second-token").await.status, 200);
    assert_eq!(server.get("/openapi.json").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_are_off_are_not_found() {
    let server = server_with(options(MetricsAccess::Off, None)).await;
    let reply = Reply::of(server.get("/metrics").await).await;
    reply.check_problem(404, "not-found", "ingest.metrics.access");
    server.ingest.reload(IngestOptions::default()).unwrap();
    assert_eq!(server.get("/metrics").await.status(), 200);
}
