//! The demo: real learners' data through the whole pipeline by HTTP, every figure checked.
//!
//! Usage: `chalkstream-demo BINARY DATA_FOLDER OUT_FOLDER`. It starts `BINARY standalone` in a
//! temporary folder, sends everything at its real times, prints what analysts would see, writes a
//! report and a dataset to `OUT_FOLDER`, and fails if one figure is off. Nothing stays running.

mod checks;
mod data;
mod flashcards;
mod oulad;
mod pipeline;
mod plan;
mod xapi;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::checks::Checks;
use crate::pipeline::Pipeline;
use crate::plan::Plan;

const VISIBLE_DEADLINE: Duration = Duration::from_secs(300);
const UNIVERSITY: &str = "open-university";

#[expect(clippy::print_stdout, reason = "the demo's purpose is to show figures")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

fn main() -> Result<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [binary, data, out] = args.as_slice() else {
        bail!("usage: chalkstream-demo BINARY DATA_FOLDER OUT_FOLDER");
    };
    let folder = tempfile::tempdir().context("could not make a temporary folder")?;

    say("Preparing real events: OULAD, a MOOC's xAPI week, flashcard reviews");
    let plans = [
        (UNIVERSITY, oulad::events(&data.join("oulad"))?),
        ("mooc", xapi::events(&data.join("ralph_xapi"))?),
        ("flashcards", flashcards::events(&data.join("fsrs_review_logs"))?),
    ];
    let plans = plans
        .into_iter()
        .map(|(school, events)| {
            Plan::write(school, events, &folder.path().join(format!("{school}.ndjson")))
        })
        .collect::<Result<Vec<Plan>>>()?;

    let data_dir = folder.path().join("data");
    std::fs::create_dir(&data_dir).context("could not make the data folder")?;
    let pipeline = Pipeline::start(binary, &data_dir)?;
    say(&format!("Pipeline ready at {}", pipeline.http_url));

    let mut checks = Checks::default();
    send(&pipeline, &plans, folder.path(), &mut checks)?;
    show(&pipeline)?;
    check_views(&pipeline, &plans, &mut checks)?;
    write_outputs(&pipeline, &plans, out, &mut checks)?;
    pipeline.stop()?;
    check_lake(&data_dir, &plans, &mut checks)?;

    let made = checks.finish()?;
    say(&format!(
        "All {made} figures add up. Report: {}",
        out.join("student-performance.csv").display()
    ));
    Ok(())
}

/// Sends every school's file and waits until what was accepted is visible to SQL.
fn send(pipeline: &Pipeline, plans: &[Plan], folder: &Path, checks: &mut Checks) -> Result<()> {
    let begun = Instant::now();
    for plan in plans {
        let key = pipeline.json(&[
            "keys",
            "create",
            "--school",
            plan.school,
            "--scope",
            "events:backfill",
        ])?;
        let key = key[0]["key"].as_str().context("keys create prints a key")?.to_owned();
        let file = folder.join(format!("{}.ndjson", plan.school));
        let file = file.to_str().context("the temporary folder's path is not UTF-8")?;
        let sent = pipeline.json(&["send", file, "--url", &pipeline.http_url, "--key", &key])?;
        let count = |name: &str| sent[0][name].as_f64().with_context(|| format!("send: {name}"));
        say(&format!("{}:", plan.school));
        checks.equal("sent", count("sent")?, float(plan.sent));
        checks.equal("accepted", count("accepted")?, float(plan.accepted));
        checks.equal("duplicate", count("duplicate")?, float(plan.duplicate));
        checks.equal("rejected", count("rejected")?, float(plan.rejected));
        checks.equal("refused", count("refused")?, 0.0);
        let fates = count("accepted")? + count("duplicate")? + count("rejected")?;
        checks.equal("accepted + duplicate + rejected", fates, count("sent")?);
    }
    let accepted = total(plans, |plan| plan.accepted);
    let deadline = Instant::now() + VISIBLE_DEADLINE;
    while pipeline.number("SELECT count() FROM events")? < accepted {
        if Instant::now() > deadline {
            bail!("not every accepted event was visible after {} s", VISIBLE_DEADLINE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    say(&format!(
        "{} events sent, and visible to SQL {:.1} s after the first",
        total(plans, |plan| plan.sent),
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// What an analyst would ask first.
fn show(pipeline: &Pipeline) -> Result<()> {
    let questions = [
        (
            "Mastery by skill",
            "SELECT school_id, skill_id, count() AS learners, round(avg(p_known), 3) AS mean_p_known, \
             countIf(mastered) AS mastered, sum(attempts) AS answers FROM skill_mastery \
             GROUP BY school_id, skill_id ORDER BY answers DESC LIMIT 10",
        ),
        (
            "Engagement by school",
            "SELECT school_id, uniqExact(user_id) AS learners, count() AS learner_days, \
             sum(resources) AS resources, sum(assignments) AS assignments, sum(quizzes) AS quizzes, \
             sum(videos) AS videos, round(sum(video_seconds)) AS video_seconds, \
             sum(answers) AS answers FROM learner_engagement_daily GROUP BY school_id ORDER BY school_id",
        ),
        (
            "Hardest items",
            "SELECT school_id, item_id, learners, correct_count, round(difficulty, 3) AS difficulty \
             FROM item_stats WHERE learners >= 500 ORDER BY difficulty DESC LIMIT 5",
        ),
        (
            "Rejected events",
            "SELECT school_id, reason, field, count() AS events FROM rejected_events \
             GROUP BY school_id, reason, field ORDER BY events DESC, school_id, reason LIMIT 8",
        ),
    ];
    for (title, query) in questions {
        say(&format!("\n{title}\n{}", pipeline.text(&["sql", query])?.trim_end()));
    }
    say("");
    Ok(())
}

fn check_views(pipeline: &Pipeline, plans: &[Plan], checks: &mut Checks) -> Result<()> {
    let mut number = |what: &str, query: &str, expected: f64, tolerance: f64| -> Result<()> {
        checks.near(what, pipeline.number(query)?, expected, tolerance);
        Ok(())
    };
    number("events", "SELECT count() FROM events", total(plans, |plan| plan.accepted), 0.0)?;
    number(
        "rejected",
        "SELECT count() FROM rejected_events",
        total(plans, |plan| plan.rejected),
        0.0,
    )?;
    number("attempts", "SELECT count() FROM attempts", total(plans, |plan| plan.answers), 0.0)?;
    let correct = "SELECT sum(correct_count) FROM skill_mastery";
    number("correct answers in mastery", correct, total(plans, |plan| plan.correct), 0.0)?;
    let items = "SELECT sum(attempts) FROM item_stats";
    number("answers in item statistics", items, total(plans, |plan| plan.answers), 0.0)?;
    let days = "SELECT sum(answers) FROM learner_engagement_daily";
    number("answers in daily engagement", days, total(plans, |plan| plan.answers), 0.0)?;
    let quarters = "SELECT sum(event_count) FROM activity_quarter_hourly";
    number("events in quarter hours", quarters, total(plans, |plan| plan.accepted), 0.0)?;
    let sessions = "SELECT sum(event_count) FROM sessions";
    number("events in sessions", sessions, total(plans, |plan| plan.accepted), 0.0)?;
    let video = "SELECT sum(video_seconds) FROM learner_engagement_daily";
    number("video seconds", video, total(plans, |plan| plan.video_ms) / 1000.0, 1e-3)?;
    for plan in plans.iter().filter(|plan| !plan.mastery.is_empty()) {
        let (school, pairs) = (plan.school, plan.mastery.len());
        let count = format!("SELECT count() FROM skill_mastery WHERE school_id = '{school}'");
        number(&format!("{school}: learners x skills"), &count, float(u64::try_from(pairs)?), 0.0)?;
        let sum = format!("SELECT sum(p_known) FROM skill_mastery WHERE school_id = '{school}'");
        let expected = plan.mastery.values().sum();
        number(&format!("{school}: sum of P(known)"), &sum, expected, 1e-6)?;
    }
    let score = pipeline.number("SELECT max(engagement_score) FROM learner_engagement_daily")?;
    checks.positive("highest engagement score", score);
    let active = pipeline.number("SELECT sum(active_seconds) FROM learner_engagement_daily")?;
    checks.positive("active seconds", active);
    Ok(())
}

/// One report and one dataset, for the university's first years.
fn write_outputs(
    pipeline: &Pipeline,
    plans: &[Plan],
    out: &Path,
    checks: &mut Checks,
) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("could not make {}", out.display()))?;
    let out_text = out.to_str().context("the output folder's path is not UTF-8")?;
    pipeline.json(&[
        "report",
        "run",
        "student-performance",
        "--school",
        UNIVERSITY,
        "--from",
        "2012-01-01",
        "--to",
        "2016-12-31",
        "--format",
        "csv,xlsx",
        "--out",
        out_text,
    ])?;
    let university = plans.iter().find(|plan| plan.school == UNIVERSITY).context("university")?;
    let mut report = csv::Reader::from_path(out.join("student-performance.csv"))?;
    let header = report.headers()?.clone();
    let column = header.iter().position(|name| name == "attempts").context("column attempts")?;
    let mut attempts = 0.0;
    for row in report.records() {
        attempts += row?.get(column).context("attempts")?.parse::<f64>()?;
    }
    checks.equal("answers in the report", attempts, float(university.answers));

    let dataset = out.join("pykt");
    let dataset_text = dataset.to_str().context("the output folder's path is not UTF-8")?;
    pipeline.json(&[
        "dataset",
        "build",
        "pykt",
        "--school",
        UNIVERSITY,
        "--seed",
        "7",
        "--out",
        dataset_text,
    ])?;
    let lines = std::fs::read_to_string(dataset.join("data.txt"))?.lines().count();
    let learners = float(u64::try_from(lines / 6)?);
    checks.equal("learners in the dataset", learners, float(university.learners_with_answers));
    Ok(())
}

fn check_lake(data_dir: &Path, plans: &[Plan], checks: &mut Checks) -> Result<()> {
    let rows = checks::delta_rows(&data_dir.join("lake").join("events"))?;
    checks.equal("events in the lake", float(rows), total(plans, |plan| plan.accepted));
    Ok(())
}

fn total(plans: &[Plan], figure: impl Fn(&Plan) -> u64) -> f64 {
    float(plans.iter().map(figure).sum())
}

#[expect(clippy::cast_precision_loss, reason = "counts of the demo are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
