//! What a command prints: for people, or JSON with `--json`. Progress and logs go to stderr.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;

/// Nobody reads standard output any more (`chalkstream … | head`): no failure, just the end.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct StdoutClosed;

/// Standard output, for people or for programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Raw bytes, such as rows on their way from the server.
    pub(crate) fn write(self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
            Err(error) => Err(error).context("could not write to standard output"),
        }
    }

    pub(crate) fn line(self, text: &str) -> Result<()> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// `value` as one line of JSON with `--json`, else `text`.
    pub(crate) fn show(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            let line =
                serde_json::to_string(value).context("could not write the answer as JSON")?;
            self.line(&line)
        } else {
            self.line(&text())
        }
    }

    /// One JSON object a row with `--json`, else a table with a header.
    pub(crate) fn rows<T: Serialize>(
        self,
        rows: &[T],
        header: &[&str],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> Result<()> {
        if self.json {
            for row in rows {
                self.show(row, String::new)?;
            }
            return Ok(());
        }
        let mut table = vec![header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        table.extend(rows.iter().map(cells));
        self.write(aligned(&table).as_bytes())
    }
}

/// Columns as wide as their widest cell.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in table {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> =
            cells.map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A line for the person at the keyboard, on stderr, where it disturbs no program.
pub(crate) fn note(text: &str) {
    // A closed stderr must not stop the work that the line is about.
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Text of unknown origin without what could steer a terminal.
pub(crate) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let table = [row(&["key", "school"]), row(&["csk_1", "s"]), row(&["é", "lincoln"])];
        assert_eq!(aligned(&table), "key    school\ncsk_1  s\né      lincoln\n");
    }

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
