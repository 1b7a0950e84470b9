//! Everything that the tool says.
//!
//! Results go to stdout: a text, or with `--json` exactly one object. Everything else goes to stderr: the sentence that
//! says why something failed, and, on a terminal only, the progress of long work. Nothing else in this crate prints.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Why a subcommand gave no result: one sentence that says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The sentence.
    pub sentence: String,
    /// Whose fault it is, as an exit status.
    pub exit: Exit,
}

/// What an exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every declared verdict held.
    Held,
    /// One did not.
    Broke,
    /// The arguments cannot be used.
    Usage,
    /// Something that is needed is missing on this machine.
    Unable,
}

/// A bar on stderr, if that is a terminal; silent otherwise.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

/// A table of plain text. Colours are added only where a person looks at it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

/// One cell of a [`Table`].
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    look: Look,
    right: bool,
}

/// How a text is shown on a terminal with colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As it is.
    Plain,
    /// A heading.
    Bold,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Of less interest.
    Dim,
}

impl Failure {
    /// The user asked for something that cannot be.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), exit: Exit::Usage }
    }

    /// Something is missing on this machine.
    pub fn unable(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), exit: Exit::Unable }
    }

    /// Something did not hold.
    pub fn broke(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), exit: Exit::Broke }
    }
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn status(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Broke => 1,
            Self::Usage => 2,
            Self::Unable => 3,
        }
    }

    /// `Held` or `Broke`.
    #[must_use]
    pub const fn of(held: bool) -> Self {
        if held { Self::Held } else { Self::Broke }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

/// Prints one JSON object.
pub fn print_json<T: Serialize>(value: &T) {
    // A result of our own types always serialises; a reader that left is no error of ours.
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
    print_text(&text);
}

/// Prints a text, and a newline if it has none at its end.
pub fn print_text(text: &str) {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "{text}{newline}").and_then(|()| out.flush());
}

/// Says why there is no result: a sentence on stderr, and with `json` also an object on stdout.
pub fn fail(json: bool, sentence: &str) {
    note(&format!("ironring: {sentence}"));
    if json {
        print_json(&serde_json::json!({ "error": sentence }));
    }
}

/// As [`fail`], and turns the failure into an exit status. What could not be run is also listed in `skipped`.
#[must_use]
pub fn fail_with(json: bool, failure: &Failure) -> ExitCode {
    let sentence = &failure.sentence;
    if json && failure.exit == Exit::Unable {
        note(&format!("ironring: {sentence}"));
        print_json(&serde_json::json!({ "error": sentence, "skipped": [sentence] }));
    } else {
        fail(json, sentence);
    }
    failure.exit.into()
}

/// Prints a line to stderr.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A progress bar for `what`.
#[must_use]
pub fn progress(what: &str) -> Progress {
    let shown = std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} [{bar:32}] {percent:>3} % {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_owned());
    Progress { bar }
}

impl Progress {
    /// `done` of `of` steps are done; the next is `what`.
    pub fn update(&self, done: usize, of: usize, what: &str) {
        self.bar.set_length(u64::try_from(of).unwrap_or(u64::MAX));
        self.bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
        self.bar.set_message(what.to_owned());
    }

    /// `done` of `of` frames went round.
    pub fn frames(&self, done: u64, of: u64) {
        self.bar.set_length(of);
        self.bar.set_position(done);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|name| Cell::new(*name).look(Look::Bold)).collect(), rows: Vec::new() }
    }

    /// Adds a line. A column whose cells are numbers is aligned to the right by them.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as lines of text.
    #[must_use]
    pub fn render(&self) -> String {
        self.render_for(coloured())
    }

    fn render_for(&self, colours: bool) -> String {
        let columns = self.head.len();
        let width = |column: usize| {
            let lines = std::iter::once(&self.head).chain(&self.rows);
            lines.filter_map(|line| line.get(column)).map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = self.line(&self.head, &widths, colours);
        let rule = widths.iter().sum::<usize>() + GAP.len() * columns.saturating_sub(1);
        text += &paint_for(&"─".repeat(rule), Look::Dim, colours);
        text.push('\n');
        for row in &self.rows {
            text += &self.line(row, &widths, colours);
        }
        text
    }

    fn line(&self, cells: &[Cell], widths: &[usize], colours: bool) -> String {
        let last = cells.len().saturating_sub(1);
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let right = cell.right || self.rows.first().and_then(|row| row.get(column)).is_some_and(|top| top.right);
            let fill = " ".repeat(width - cell.text.chars().count());
            let shown = paint_for(&cell.text, cell.look, colours);
            match (right, column == last) {
                (true, _) => text += &format!("{fill}{shown}"),
                (false, true) => text += &shown,
                (false, false) => text += &format!("{shown}{fill}"),
            }
            if column != last {
                text += GAP;
            }
        }
        text.push('\n');
        text
    }
}

impl Cell {
    /// A text.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), look: Look::Plain, right: false }
    }

    /// A number, aligned to the right.
    pub fn number(number: impl std::fmt::Display) -> Self {
        Self { text: number.to_string(), look: Look::Plain, right: true }
    }

    /// In another look.
    #[must_use]
    pub fn look(self, look: Look) -> Self {
        Self { look, ..self }
    }
}

/// A text for stdout in a look, if stdout shows colours.
#[must_use]
pub fn paint(text: &str, look: Look) -> String {
    paint_for(text, look, coloured())
}

/// A count with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let lead = digits.len() % 3;
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 3 == lead {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn paint_for(text: &str, look: Look, colours: bool) -> String {
    let code = match look {
        Look::Plain => return text.to_owned(),
        Look::Bold => "1",
        Look::Good => "32",
        Look::Bad => "1;31",
        Look::Dim => "2",
    };
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Whether stdout is a terminal whose user wants colours (<https://no-color.org>).
fn coloured() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    !unwanted && !dumb && std::io::stdout().is_terminal()
}

const GAP: &str = "  ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let mut table = Table::new(&["ring", "frames", "verdict"]);
        table.row(vec![Cell::new("split"), Cell::number(1000), Cell::new("equal").look(Look::Good)]);
        table.row(vec![Cell::new("packed"), Cell::new("-"), Cell::new("not built yet").look(Look::Dim)]);
        let plain = table.render_for(false);
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(lines[0], "ring    frames  verdict");
        assert_eq!(lines[1].chars().count(), 29);
        assert_eq!(lines[2], "split     1000  equal");
        assert_eq!(lines[3], "packed       -  not built yet");
        let coloured = table.render_for(true);
        let stripped = coloured.replace("\x1b[1m", "").replace("\x1b[32m", "").replace("\x1b[2m", "");
        assert_eq!(stripped.replace("\x1b[0m", ""), plain);
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (20_000_000, "20 000 000")] {
            assert_eq!(grouped(number), text);
        }
    }
}
