//! A report's rows as files: CSV and XLSX.
//!
//! Always true: the same rows give the same bytes; a file appears under its name only when it is
//! complete; CSV holds the header and the rows and nothing else; an absent value is an empty cell.
//! Not here: where the rows come from ([`super::query`]).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::error::ArrowError;
use rust_xlsxwriter::{DocProperties, ExcelDateTime, Format, Workbook, XlsxError};

use super::manifest::{CellKind, Manifest, ReportColumn};

/// Rows of one sheet, beside the header; Excel has 1,048,576 in all.
const SHEET_ROWS: usize = 1_048_575;
const COLUMN_WIDTH_MAX: usize = 40;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The query's columns are not the manifest's.
    #[error("the SQL gives the columns {found}, the manifest says {expected}")]
    Columns {
        /// As the query has them.
        found: String,
        /// As the manifest has them.
        expected: String,
    },
    /// A column cannot be read as what the manifest says.
    #[error("a column is not what the manifest says")]
    Values(#[from] ArrowError),
    /// The file could not be written.
    #[error("the file could not be written")]
    File(#[from] io::Error),
    /// The CSV could not be written.
    #[error("the CSV could not be written")]
    Csv(#[from] csv::Error),
    /// The workbook could not be written.
    #[error("the workbook could not be written")]
    Xlsx(#[from] XlsxError),
    /// The JSON could not be written.
    #[error("the JSON could not be written")]
    Json(#[from] serde_json::Error),
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Empty,
    Text(String),
    Count(i64),
    Number(f64),
}

/// All rows of a report.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    manifest: &'a Manifest,
    pub(crate) cells: Vec<Vec<Cell>>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(
        manifest: &'a Manifest,
        batches: &[RecordBatch],
    ) -> Result<Self, OutputError> {
        let mut cells = Vec::new();
        for batch in batches {
            let schema = batch.schema();
            let found: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let expected: Vec<_> =
                manifest.columns.iter().map(|column| column.name.as_str()).collect();
            if found != expected {
                return Err(OutputError::Columns {
                    found: found.join(" "),
                    expected: expected.join(" "),
                });
            }
            let columns = manifest
                .columns
                .iter()
                .zip(batch.columns())
                .map(|(column, array)| typed(column, array))
                .collect::<Result<Vec<_>, _>>()?;
            let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
            for _ in 0..batch.num_rows() {
                cells.push(columns.iter_mut().filter_map(Iterator::next).collect());
            }
        }
        Ok(Self { manifest, cells })
    }

    fn header(&self) -> impl Iterator<Item = &ReportColumn> {
        self.manifest.columns.iter()
    }
}

fn typed(column: &ReportColumn, array: &dyn Array) -> Result<Vec<Cell>, ArrowError> {
    let collect = |cell: &dyn Fn(usize) -> Cell| {
        (0..array.len())
            .map(|row| if array.is_null(row) { Cell::Empty } else { cell(row) })
            .collect()
    };
    Ok(match column.kind {
        CellKind::Text => {
            let texts = cast(array, &DataType::Utf8)?;
            let texts = texts.as_string::<i32>();
            collect(&|row| Cell::Text(texts.value(row).to_owned()))
        }
        CellKind::Count => {
            let counts = cast(array, &DataType::Int64)?;
            let counts = counts.as_primitive::<Int64Type>();
            collect(&|row| Cell::Count(counts.value(row)))
        }
        CellKind::Share | CellKind::Number => {
            let numbers = cast(array, &DataType::Float64)?;
            let numbers = numbers.as_primitive::<Float64Type>();
            collect(&|row| Cell::Number(numbers.value(row)))
        }
    })
}

/// Writes a file beside its place and puts it there when it is complete.
pub(crate) fn place(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let mut file = io::BufWriter::new(File::create(part)?);
    write(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(part, path)?;
    Ok(())
}

pub(crate) fn write_csv(rows: &Rows<'_>, out: &mut dyn Write) -> Result<(), OutputError> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(rows.header().map(|column| &column.name))?;
    for row in &rows.cells {
        csv.write_record(row.iter().map(csv_text))?;
    }
    csv.flush()?;
    Ok(())
}

fn csv_text(cell: &Cell) -> String {
    match cell {
        Cell::Empty => String::new(),
        Cell::Text(text) => text.clone(),
        Cell::Count(count) => count.to_string(),
        Cell::Number(number) => number.to_string(),
    }
}

pub(crate) fn write_xlsx(rows: &Rows<'_>, out: &mut dyn Write) -> Result<(), OutputError> {
    let mut workbook = Workbook::new();
    // A fixed date, so that the same rows are the same bytes; the run's own is in the JSON beside.
    let created = ExcelDateTime::from_ymd(2026, 1, 1)?;
    workbook.set_properties(
        &DocProperties::new()
            .set_title(&rows.manifest.title)
            .set_author("Chalkstream")
            .set_creation_datetime(&created),
    );
    let formats = Formats {
        header: Format::new().set_bold(),
        share: Format::new().set_num_format("0.0000"),
        number: Format::new().set_num_format("#,##0.00"),
    };
    let mut sheets: Vec<&[Vec<Cell>]> = rows.cells.chunks(SHEET_ROWS).collect();
    if sheets.is_empty() {
        sheets.push(&[]);
    }
    for (index, cells) in sheets.into_iter().enumerate() {
        write_sheet(&mut workbook, rows, index, cells, &formats)?;
    }
    out.write_all(&workbook.save_to_buffer()?)?;
    Ok(())
}

struct Formats {
    header: Format,
    share: Format,
    number: Format,
}

fn write_sheet(
    workbook: &mut Workbook,
    rows: &Rows<'_>,
    index: usize,
    cells: &[Vec<Cell>],
    formats: &Formats,
) -> Result<(), OutputError> {
    let sheet = workbook.add_worksheet();
    sheet.set_name(if index == 0 {
        "report".to_owned()
    } else {
        format!("report {}", index + 1)
    })?;
    sheet.set_freeze_panes(1, 0)?;
    for (at, column) in (0_u16..).zip(rows.header()) {
        sheet.write_with_format(0, at, column.name.as_str(), &formats.header)?;
        let width = u16::try_from(column.name.len().clamp(8, COLUMN_WIDTH_MAX) + 2).unwrap_or(10);
        sheet.set_column_width(at, f64::from(width))?;
    }
    for (row, cells) in (1_u32..).zip(cells) {
        for ((at, column), cell) in (0_u16..).zip(rows.header()).zip(cells) {
            match cell {
                Cell::Empty => {}
                Cell::Text(text) => {
                    sheet.write_string(row, at, text)?;
                }
                Cell::Count(count) => {
                    sheet.write(row, at, *count)?;
                }
                Cell::Number(number) => {
                    let format = match column.kind {
                        CellKind::Share => &formats.share,
                        CellKind::Text | CellKind::Count | CellKind::Number => &formats.number,
                    };
                    sheet.write_number_with_format(row, at, *number, format)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let column = |name: &str, kind| ReportColumn {
            name: name.to_owned(),
            kind,
            unit: None,
            meaning: String::new(),
        };
        Manifest {
            name: "things".to_owned(),
            title: "Things".to_owned(),
            description: String::new(),
            parameters: Vec::new(),
            columns: vec![
                column("who", CellKind::Text),
                column("many", CellKind::Count),
                column("share", CellKind::Share),
            ],
        }
    }

    #[test]
    fn csv_holds_the_header_and_the_rows_and_quotes_what_it_must() {
        let manifest = manifest();
        let cells = vec![
            vec![Cell::Text("a,\"b\"\nc".to_owned()), Cell::Count(3), Cell::Number(0.5)],
            vec![Cell::Text(String::new()), Cell::Count(-1), Cell::Empty],
        ];
        let mut out = Vec::new();
        write_csv(&Rows { manifest: &manifest, cells }, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "who,many,share\n\"a,\"\"b\"\"\nc\",3,0.5\n,-1,\n");
    }

    #[test]
    fn a_workbook_of_the_same_rows_is_the_same_bytes() {
        let manifest = manifest();
        let make = || {
            let cells =
                vec![vec![Cell::Text("=1+1".to_owned()), Cell::Count(3), Cell::Number(0.5)]];
            let mut out = Vec::new();
            write_xlsx(&Rows { manifest: &manifest, cells }, &mut out).unwrap();
            out
        };
        let first = make();
        assert!(first.starts_with(b"PK"));
        assert_eq!(first, make());
    }
}
