//! What is measured, and how it is written down.

use anyhow::{Result, ensure};
use std::fmt::Write as _;

/// A median with its unit.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) value: f64,
    unit: &'static str,
    count: usize,
}

impl Measured {
    pub(crate) fn median(mut values: Vec<f64>, unit: &'static str) -> Result<Self> {
        ensure!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Ok(Self { value: values[values.len() / 2], unit, count: values.len() })
    }

    pub(crate) fn once(value: f64, unit: &'static str) -> Self {
        Self { value, unit, count: 1 }
    }

    pub(crate) fn show(self) -> String {
        format!("{} {} (n={})", number(self.value), self.unit, self.count)
    }
}

/// With as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The power of the size with which a value grows between two sizes.
pub(crate) fn exponent(before: (f64, f64), after: (f64, f64)) -> String {
    let exponent = (after.1 / before.1).ln() / (after.0 / before.0).ln();
    if exponent.is_finite() { format!("{exponent:.2}") } else { "-".into() }
}

/// What one line of a comparison is called, and its floor and aim as a ratio to Docker.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) must: &'static str,
    pub(crate) aim: &'static str,
}

/// What one engine measured, by the names of lines.
pub(crate) struct Column {
    pub(crate) label: &'static str,
    pub(crate) values: Vec<(&'static str, Measured)>,
}

impl Column {
    fn find(&self, name: &str) -> Option<Measured> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// Engines side by side; lines that nobody measured are left out.
pub(crate) fn comparison(lines: &[Line], columns: &[Column]) -> String {
    let labels = columns.iter().map(|column| column.label.to_owned());
    let head: Vec<String> = std::iter::once("scenario".to_owned())
        .chain(labels)
        .chain(["ratio", "must", "aim"].map(str::to_owned))
        .collect();
    let mut rows = Vec::new();
    for line in lines {
        let cells: Vec<Option<Measured>> = columns.iter().map(|column| column.find(line.name)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let ratio = match cells.as_slice() {
            [Some(ours), Some(theirs)] if theirs.value > 0.0 => format!("{:.2}", ours.value / theirs.value),
            _ => "-".into(),
        };
        let shown = cells.iter().map(|cell| cell.map_or_else(|| "-".to_owned(), Measured::show));
        let row = std::iter::once(line.title.to_owned()).chain(shown);
        rows.push(row.chain([ratio, line.must.to_owned(), line.aim.to_owned()]).collect());
    }
    plain(&head, &rows)
}

/// A table in Markdown.
pub(crate) fn plain(head: &[String], rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(head);
    line(&vec!["---".to_owned(); head.len()]);
    rows.iter().for_each(|row| line(row));
    text
}

/// Puts a table between its marks; at the end, with marks, where there are none.
pub(crate) fn replace(text: &str, group: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {group}: begin -->"), format!("<!-- {group}: end -->"));
    let parts = text.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let Some((head, tail)) = parts else {
        return format!("{text}\n{begin}\n{table}{end}\n");
    };
    format!("{head}{begin}\n{table}{end}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_table_is_replaced() {
        let text = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nbetween\n<!-- b: begin -->\nb\n<!-- b: end -->\n";
        let replaced = replace(text, "a", "new\n");
        assert_eq!(replaced, text.replace("old\n", "new\n"));
        assert!(replace("text", "a", "new\n").ends_with("<!-- a: begin -->\nnew\n<!-- a: end -->\n"));
    }

    #[test]
    fn twice_the_time_for_twice_the_size_is_an_exponent_of_one() {
        assert_eq!(exponent((1000.0, 3.0), (2000.0, 6.0)), "1.00");
        assert_eq!(exponent((1000.0, 1.0), (10_000.0, 100.0)), "2.00");
        assert_eq!(exponent((1000.0, 0.0), (2000.0, 6.0)), "-");
    }

    #[test]
    fn a_line_that_nobody_measured_is_left_out() {
        let line = |name| Line { name, title: name, must: "1", aim: "-" };
        let column = |label, value| Column { label, values: vec![("a", Measured::once(value, "ms"))] };
        let table = comparison(&[line("a"), line("b")], &[column("ours", 1.0), column("theirs", 4.0)]);
        assert_eq!(
            table,
            "| scenario | ours | theirs | ratio | must | aim |\n| --- | --- | --- | --- | --- | --- |\n\
             | a | 1.00 ms (n=1) | 4.00 ms (n=1) | 0.25 | 1 | - |\n"
        );
    }
}
