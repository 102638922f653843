//! `schools set | list`: names and time zones of schools.

use std::process::ExitCode;

use anyhow::Result;
use chalkstream_schemas::SchoolId;
use chalkstream_schemas::control::check_time_zone;
use clap::Subcommand;

use super::Context;
use crate::control::{Access, access};
use crate::parts;
use crate::registrar::NewSchool;
use crate::schools::{School, SchoolBook};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a school or change its settings, for all events from now on
    Set {
        /// The school's id
        #[arg(value_name = "NAME", value_parser = super::school)]
        school: SchoolId,
        /// Its time zone, such as Europe/Berlin: where its days begin
        #[arg(long, value_parser = zone)]
        zone: String,
        /// The name that people read
        #[arg(long)]
        title: Option<String>,
    },
    /// List schools
    List,
}

fn zone(text: &str) -> Result<String, String> {
    check_time_zone(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(crate) async fn run(command: Command, cx: Context) -> Result<ExitCode> {
    let access = access(&cx.config).await?;
    match command {
        Command::Set { school, zone, title } => {
            let request = NewSchool { school_id: school, title, time_zone: zone };
            let set: School = match access {
                Access::Running(client) => client.post("/schools", &request).await?,
                Access::Ours(folder) => {
                    parts::with_registrar(&cx.config, &folder, async |registrar| {
                        registrar.set_school(request).await
                    })
                    .await?
                }
            };
            cx.output.show(&set, || {
                format!("{} ({}) has the time zone {}", set.school_id, set.title, set.time_zone)
            })?;
        }
        Command::List => {
            let schools: Vec<School> = match access {
                Access::Running(client) => client.get("/schools").await?,
                Access::Ours(folder) => SchoolBook::new(folder.layout().schools()).list()?,
            };
            cx.output.rows(&schools, &["school", "title", "time zone", "set"], |school| {
                vec![
                    school.school_id.to_string(),
                    school.title.clone(),
                    school.time_zone.clone(),
                    school.set_at.clone(),
                ]
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
