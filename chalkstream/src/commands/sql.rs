//! `sql QUERY`: a question to the views, as the user `reader`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::Context;
use crate::failure::Advice;
use crate::views::{self, Question};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The query; - reads it from standard input
    query: String,
}

pub(crate) async fn run(args: Args, cx: Context) -> Result<ExitCode> {
    let query = if args.query == "-" {
        std::io::read_to_string(std::io::stdin()).context("could not read standard input")?
    } else {
        args.query
    };
    if query.trim().is_empty() {
        return Err(
            Advice::usage("the query is empty", "try \"SELECT * FROM events LIMIT 5\"").into()
        );
    }
    let json = cx.output.is_json();
    let question = Question {
        query,
        parameters: Vec::new(),
        format: if json { "JSONEachRow" } else { "PrettyCompactMonoBlock" },
        // One table for people, not one a block.
        whole: !json,
    };
    views::with(&cx.config, async |views| {
        // Rows are printed as they come.
        let mut answer = views.ask(&question).await?;
        while let Some(piece) = answer.next().await? {
            cx.output.write(&piece)?;
        }
        Ok(())
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
