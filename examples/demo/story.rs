//! Tells what happens, and keeps what was promised and measured.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// The telling.
#[derive(Debug)]
pub(crate) struct Story {
    colors: bool,
    acts: u32,
    promises: Vec<Promise>,
    pushes: Vec<Push>,
}

/// Something that the mesh promises.
#[derive(Debug, Serialize)]
pub(crate) struct Promise {
    pub(crate) text: String,
    pub(crate) kept: bool,
}

/// A change at the control plane.
#[derive(Debug, Serialize)]
pub(crate) struct Push {
    pub(crate) what: &'static str,
    /// How long until the first call was served accordingly; `None` when that was not seen.
    #[serde(rename = "acted_after_ms", serialize_with = "as_ms")]
    pub(crate) acted_after: Option<Duration>,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31;1";
const CYAN: &str = "36";

impl Story {
    pub(crate) fn new() -> Self {
        let colors = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colors, acts: 0, promises: Vec::new(), pushes: Vec::new() }
    }

    /// The headline.
    pub(crate) fn title(&self, text: &str) {
        println!("\n{}\n", self.paint(BOLD, text));
    }

    /// A new act.
    pub(crate) fn act(&mut self, title: &str) {
        self.acts += 1;
        println!("\n{}  {}", self.paint(CYAN, &self.acts.to_string()), self.paint(BOLD, title));
    }

    /// What is done.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        println!("   {}", text.as_ref());
    }

    /// What was measured.
    pub(crate) fn bar(&self, label: &str, share: f64) {
        let length = (share * 50.0).round() as usize;
        println!("   {label} {:5.1} %  {}", share * 100.0, self.paint(CYAN, &"█".repeat(length)));
    }

    /// A promise, and whether it held.
    pub(crate) fn promise(&mut self, kept: bool, text: impl Into<String>) {
        let text = text.into();
        let mark = if kept { self.paint(GREEN, "✓") } else { self.paint(RED, "✗ NOT KEPT:") };
        println!("   {mark} {text}");
        self.promises.push(Promise { text, kept });
    }

    /// A push that acted after so long; that it acts is a promise too.
    pub(crate) fn push(&mut self, what: &'static str, acted_after: Option<Duration>) {
        match acted_after {
            Some(after) => self.promise(true, format!("first call served accordingly after {}", ms(after))),
            None => self.promise(false, "no call was served accordingly within 5 s"),
        }
        self.pushes.push(Push { what, acted_after });
    }

    /// A row of a table; the first is its head.
    pub(crate) fn row(&self, is_head: bool, columns: &[(&str, usize)]) {
        let row: String = columns.iter().map(|(text, width)| pad(text, *width)).collect();
        println!("   {}", if is_head { self.paint(DIM, row.trim_end()) } else { row.trim_end().to_owned() });
    }

    /// The last line.
    pub(crate) fn verdict(&self, text: &str) {
        println!("\n{}\n", self.paint(if self.all_kept() { GREEN } else { RED }, text));
    }

    pub(crate) fn promises(&self) -> &[Promise] {
        &self.promises
    }

    pub(crate) fn pushes(&self) -> &[Push] {
        &self.pushes
    }

    /// Whether every promise held.
    pub(crate) fn all_kept(&self) -> bool {
        self.promises.iter().all(|promise| promise.kept)
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.colors { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// To a width: numbers to the right, the rest to the left.
fn pad(text: &str, width: usize) -> String {
    match text.starts_with(|first: char| first.is_ascii_digit()) {
        true => format!("{text:>width$}  "),
        false => format!("{text:<width$}  "),
    }
}

fn as_ms<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64() * 1e3).serialize(serializer)
}

/// In milliseconds.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// With commas between thousands.
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join(",")
}

/// `1 call`, `2 calls`.
pub(crate) fn calls(number: usize) -> String {
    format!("{} call{}", count(number), if number == 1 { "" } else { "s" })
}
