//! `model load bkt FILE`: parameters of Bayesian knowledge tracing, from CSV.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use chalkstream_schemas::control::{BktSkill, encode_bkt};
use chalkstream_schemas::{SchoolId, SkillId};
use clap::{Subcommand, ValueEnum};

use super::Context;
use crate::control::{Access, access};
use crate::failure::Advice;
use crate::parts;
use crate::registrar::LoadedModel;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load parameters; they hold for every event acknowledged from then on
    Load {
        /// Which model
        model: Model,
        /// CSV with the columns skill_id, p_init, p_learn, p_guess, p_slip and, if wanted, p_forget
        file: PathBuf,
        /// For one school instead of all
        #[arg(long, value_parser = super::school)]
        school: Option<SchoolId>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Model {
    Bkt,
}

const FORM: &str =
    "the first line is skill_id,p_init,p_learn,p_guess,p_slip or with ,p_forget; a skill a line";

pub(crate) async fn run(command: Command, cx: Context) -> Result<ExitCode> {
    let Command::Load { model: Model::Bkt, file, school } = command;
    let bytes =
        std::fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
    let skills = read_bkt(&bytes, &file)?;
    let table = encode_bkt(&skills).map_err(|error| {
        Advice::new(format!("{}: {error}", file.display()), "correct the row; the header is row 0")
    })?;
    let loaded: LoadedModel = match access(&cx.config).await? {
        Access::Running(client) => {
            let query = school.map_or_else(String::new, |school| {
                let pair = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("school", school.as_str())
                    .finish();
                format!("?{pair}")
            });
            client.post_bytes(&format!("/models/bkt{query}"), table).await?
        }
        Access::Ours(folder) => {
            parts::with_registrar(&cx.config, &folder, async |registrar| {
                registrar.load_bkt(school, table).await
            })
            .await?
        }
    };
    cx.output.show(&loaded, || {
        format!("loaded {} skills as model version {}", loaded.skills, loaded.model_version)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn read_bkt(bytes: &[u8], file: &Path) -> Result<Vec<BktSkill>> {
    let wrong = |line: u64, what: String| {
        Advice::new(format!("{}, line {line}: {what}", file.display()), FORM)
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let header = reader.headers().map_err(|error| wrong(1, error.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|column| column == name);
    let known = ["skill_id", "p_init", "p_learn", "p_guess", "p_slip", "p_forget"];
    if let Some(unknown) = header.iter().find(|column| !known.contains(column)) {
        return Err(wrong(1, format!("there is no column `{unknown}` in this table")).into());
    }
    let missing = known.iter().take(5).find(|name| column(name).is_none());
    if let Some(missing) = missing {
        return Err(wrong(1, format!("the column `{missing}` is missing")).into());
    }
    let mut skills = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| {
            wrong(error.position().map_or(0, csv::Position::line), error.to_string())
        })?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |name: &str| column(name).and_then(|index| row.get(index)).unwrap_or_default();
        let number = |name: &str| {
            let text = cell(name);
            text.parse::<f64>().map_err(|_not_a_number| {
                wrong(line, format!("{name} is `{text}`; it must be a number from 0 to 1"))
            })
        };
        let skill_id = SkillId::parse(cell("skill_id"))
            .map_err(|error| wrong(line, format!("skill_id {error}")))?;
        let p_forget = if column("p_forget").is_some() { number("p_forget")? } else { 0.0 };
        skills.push(BktSkill {
            skill_id,
            p_init: number("p_init")?,
            p_learn: number("p_learn")?,
            p_guess: number("p_guess")?,
            p_slip: number("p_slip")?,
            p_forget,
        });
    }
    Ok(skills)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, parts: &[&str]) {
        let error = read_bkt(text.as_bytes(), Path::new("p.csv")).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
    }

    #[test]
    fn columns_are_found_by_name_and_forgetting_is_optional() {
        let text = "p_slip,skill_id,p_init,p_learn,p_guess\n0.1, fractions ,0.3,0.2,0.25\n";
        let skills = read_bkt(text.as_bytes(), Path::new("p.csv")).unwrap();
        assert_eq!(skills[0].skill_id.as_str(), "fractions");
        assert_eq!((skills[0].p_slip, skills[0].p_forget), (0.1, 0.0));
    }

    #[test]
    fn a_wrong_table_is_refused_with_its_line() {
        let header = "skill_id,p_init,p_learn,p_guess,p_slip\n";
        refused("skill_id,p_init,p_learn,p_guess\n", &["line 1", "`p_slip` is missing"]);
        refused("skill_id,p_int,p_learn,p_guess,p_slip\n", &["line 1", "`p_int`"]);
        refused(&format!("{header}a,1,1,1,1\nb,x,1,1,1\n"), &["line 3", "p_init", "`x`"]);
        refused(&format!("{header},1,1,1,1\n"), &["line 2", "skill_id"]);
        refused(&format!("{header}a,1\n"), &["line 2"]);
    }
}
