//! Processors that share the partitions: one joins, one is killed, and nobody notices in the views.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::clickhouse::Server;
use crate::kill9::{assert_same_views, dump_views};
use crate::load::{EVENTS, Load, Manner, by_learner};
use crate::roles_alone::{broker, on_kafka};
use crate::support::{Environment, Running, ask, run_with, settings, wait_until};

#[test]
fn processors_that_come_and_die_leave_the_views_of_a_fresh_fold() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let Some(broker) = broker(&at("kafka"), None) else { return };
    let clickhouse = Server::start(&at("clickhouse"));
    let often = settings(&[("process.checkpoint_interval", "1s")]);
    let shared = [on_kafka(&broker), clickhouse.settings(), often].concat();
    run_with(&at("tools"), &["migrate"], &shared).check(0, &[]);
    let ingest = Running::start_role("ingest", &at("ingest"), &shared);
    let key = ingest.create_key("lincoln", "events:write");
    ingest.json(&["schools", "set", "lincoln", "--zone", "America/Chicago"]);

    let first = processor(&at("first"), &shared);
    let manner = Manner { pause: Duration::from_millis(20), ..Manner::default() };
    let load = Load::start("r", &key, &[ingest.http_url()], manner, 2);
    load.go_on_for(5);
    let second = processor(&at("second"), &shared);
    load.go_on_for(20);
    let third = processor(&at("third"), &shared);
    load.go_on_for(20);
    let restored_before = restored(&second) + restored(&third);
    first.stop(Signal::KILL);
    wait_until("the others have taken over", || {
        restored(&second) + restored(&third) > restored_before
    });
    load.go_on_for(10);
    let sent = load.stop();

    wait_until("everything is visible", || {
        let count = ask(&clickhouse.url, "SELECT count() FROM events FORMAT TSV");
        let visible = |role: &Running| role.json(&["doctor"])["processor_lag"] == 0;
        count.trim() == sent.count().to_string() && visible(&second) && visible(&third)
    });
    sent.check(&by_learner(&ask(&clickhouse.url, EVENTS)), "after a rebalance and a kill");
    let disturbed = dump_views(&clickhouse.url);
    for role in [second, third] {
        let said = role.said("err");
        assert_eq!(role.stop(Signal::TERM).code(), Some(0), "{said}");
        assert!(!said.contains("ERROR"), "{said}");
    }

    let undisturbed = Server::start(&at("undisturbed"));
    let group = settings(&[("process.group", "undisturbed")]);
    let alone = [on_kafka(&broker), undisturbed.settings(), group].concat();
    run_with(&at("tools"), &["migrate"], &alone).check(0, &[]);
    let fresh = Running::start_role("process", &at("fresh"), &alone);
    fresh.wait_until_visible();
    assert_same_views(&dump_views(&undisturbed.url), &disturbed, "after a rebalance and a kill");
    assert_eq!(fresh.stop(Signal::TERM).code(), Some(0));
    assert_eq!(ingest.stop(Signal::TERM).code(), Some(0));
}

/// One more, once it folds a share.
fn processor(data_dir: &Path, environment: &Environment) -> Running {
    let role = Running::start_role("process", data_dir, environment);
    wait_until("the processor has partitions", || restored(&role) > 0);
    role
}

/// How many partitions it has begun to fold since its start.
fn restored(role: &Running) -> usize {
    role.said("err").matches("a partition is restored").count()
}
