//! Open University Learning Analytics: registrations, clicks, assessments.
//!
//! Day 0 of a presentation is 1 February (`B`) or 1 October (`J`) of its year, 00:00 UTC.
//! A learner's id is the dataset's `id_student`; a course is `<module>-<presentation>`.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::data::{DemoEvent, csv_rows};

/// An answer with a score of at least this is correct.
const PASS_SCORE: f64 = 40.0;

/// Every event of the dataset's files, in no particular order.
pub(crate) fn events(folder: &Path) -> Result<Vec<DemoEvent>> {
    let mut events = enrollments(folder)?;
    events.extend(clicks(folder)?);
    events.extend(assessments(folder)?);
    Ok(events)
}

#[derive(Deserialize)]
struct CourseRow {
    code_module: String,
    code_presentation: String,
    module_presentation_length: i64,
}

#[derive(Deserialize)]
struct StudentRow {
    code_module: String,
    code_presentation: String,
    id_student: String,
    num_of_prev_attempts: u32,
    final_result: String,
}

#[derive(Deserialize)]
struct RegistrationRow {
    code_module: String,
    code_presentation: String,
    id_student: String,
    date_registration: Option<i64>,
    date_unregistration: Option<i64>,
}

/// A registration and its outcome: two events a student and course.
fn enrollments(folder: &Path) -> Result<Vec<DemoEvent>> {
    let courses: Vec<CourseRow> = csv_rows(&folder.join("course.csv.gz"))?;
    let length: HashMap<String, i64> = courses
        .into_iter()
        .map(|row| {
            (course_id(&row.code_module, &row.code_presentation), row.module_presentation_length)
        })
        .collect();
    let students: Vec<StudentRow> = csv_rows(&folder.join("student.csv.gz"))?;
    let results: HashMap<(String, String), StudentRow> = students
        .into_iter()
        .map(|row| {
            let course = course_id(&row.code_module, &row.code_presentation);
            ((course, row.id_student.clone()), row)
        })
        .collect();

    let registrations: Vec<RegistrationRow> =
        csv_rows(&folder.join("student_registration.csv.gz"))?;
    let mut events = Vec::with_capacity(registrations.len() * 2);
    for row in registrations {
        let course = course_id(&row.code_module, &row.code_presentation);
        let student = results
            .get(&(course.clone(), row.id_student.clone()))
            .with_context(|| format!("student {} of {course} has no result", row.id_student))?;
        let start = presentation_start(&row.code_presentation)?;
        let event = |kind: &str, day: i64, data| {
            let id = format!("oulad/{kind}/{course}/{}", row.id_student);
            let at = start + TimeDelta::days(day);
            DemoEvent::new(id, "course_enrollment", &row.id_student, Some(&course), at, data)
        };
        events.push(event(
            "registration",
            row.date_registration.unwrap_or(0),
            json!({"status": "enrolled", "prior_attempts": student.num_of_prev_attempts}),
        ));
        let end = *length.get(&course).with_context(|| format!("unknown course {course}"))?;
        let outcome = match student.final_result.as_str() {
            "Pass" => json!({"status": "completed", "result": "pass"}),
            "Distinction" => json!({"status": "completed", "result": "distinction"}),
            "Fail" => json!({"status": "completed", "result": "fail"}),
            "Withdrawn" => json!({"status": "unenrolled", "result": "withdrawn"}),
            other => bail!("unknown final_result {other} of student {}", row.id_student),
        };
        events.push(event("result", row.date_unregistration.unwrap_or(end), outcome));
    }
    Ok(events)
}

#[derive(Deserialize)]
struct ResourceRow {
    id_site: String,
    activity_type: String,
}

#[derive(Deserialize)]
struct ClickRow {
    code_module: String,
    code_presentation: String,
    id_student: String,
    id_site: String,
    date: i64,
    sum_click: u32,
}

fn clicks(folder: &Path) -> Result<Vec<DemoEvent>> {
    let resources: Vec<ResourceRow> = csv_rows(&folder.join("vle.csv.gz"))?;
    let kinds: HashMap<String, String> =
        resources.into_iter().map(|row| (row.id_site, row.activity_type)).collect();
    let mut events = Vec::new();
    for slice in ["AAA2013J_head", "random_10k"] {
        let rows: Vec<ClickRow> = csv_rows(&folder.join(format!("studentVle_{slice}.csv.gz")))?;
        for (number, row) in rows.into_iter().enumerate() {
            let mut data = json!({"resource_id": row.id_site, "clicks": row.sum_click});
            if let Some(kind) = kinds.get(&row.id_site) {
                data["kind"] = json!(kind);
            }
            events.push(DemoEvent::new(
                format!("oulad/click/{slice}/{number}"),
                "resource_access",
                &row.id_student,
                Some(&course_id(&row.code_module, &row.code_presentation)),
                presentation_start(&row.code_presentation)? + TimeDelta::days(row.date),
                data,
            ));
        }
    }
    Ok(events)
}

#[derive(Deserialize)]
struct AssessmentRow {
    code_module: String,
    code_presentation: String,
    id_assessment: String,
    assessment_type: String,
}

#[derive(Deserialize)]
struct SubmissionRow {
    id_assessment: String,
    id_student: String,
    date_submitted: i64,
    score: Option<f64>,
}

/// A submission, and where it was scored the same as a graded answer of `<module>/<type>`.
fn assessments(folder: &Path) -> Result<Vec<DemoEvent>> {
    let rows: Vec<AssessmentRow> = csv_rows(&folder.join("assessment.csv.gz"))?;
    let assessments: HashMap<String, AssessmentRow> =
        rows.into_iter().map(|row| (row.id_assessment.clone(), row)).collect();
    let submissions: Vec<SubmissionRow> = csv_rows(&folder.join("student_assessment.csv.gz"))?;
    let mut events = Vec::with_capacity(submissions.len() * 2);
    for row in submissions {
        let assessment = assessments
            .get(&row.id_assessment)
            .with_context(|| format!("unknown assessment {}", row.id_assessment))?;
        let course = course_id(&assessment.code_module, &assessment.code_presentation);
        let start = presentation_start(&assessment.code_presentation)?;
        let event = |kind: &str, event_type: &str, data| {
            let id = format!("oulad/{kind}/{}", row.id_assessment);
            let at = start + TimeDelta::days(row.date_submitted);
            DemoEvent::new(id, event_type, &row.id_student, Some(&course), at, data)
        };
        let mut data = json!({});
        if let Some(score) = row.score {
            data = json!({"score": score, "max_score": 100});
        }
        if assessment.assessment_type == "TMA" {
            data["assignment_id"] = json!(row.id_assessment);
            events.push(event("assignment", "assignment_submit", data));
        } else if let Some(score) = row.score {
            data["quiz_id"] = json!(row.id_assessment);
            data["passed"] = json!(score >= PASS_SCORE);
            events.push(event("quiz", "quiz_complete", data));
        }
        if let Some(score) = row.score {
            let skill = format!("{}/{}", assessment.code_module, assessment.assessment_type);
            events.push(event(
                "answer",
                "answer_submitted",
                json!({
                    "item_id": row.id_assessment,
                    "skill_ids": [skill],
                    "correct": score >= PASS_SCORE,
                    "score": score / 100.0,
                }),
            ));
        }
    }
    Ok(events)
}

fn course_id(module: &str, presentation: &str) -> String {
    format!("{module}-{presentation}")
}

fn presentation_start(presentation: &str) -> Result<DateTime<Utc>> {
    let (year, letter) = presentation.split_at_checked(4).context("presentation is too short")?;
    let month = match letter {
        "B" => 2,
        "J" => 10,
        other => bail!("unknown presentation {other}"),
    };
    let year = year.parse().with_context(|| format!("{presentation} begins with a year"))?;
    let day = NaiveDate::from_ymd_opt(year, month, 1).context("year out of range")?;
    Ok(day.and_time(chrono::NaiveTime::MIN).and_utc())
}
