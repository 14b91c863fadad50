//! Text for people, JSON for programs, progress on the terminal.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Where results go.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: the object, or the text that says the same.
    pub(crate) fn result(&self, value: &Value, text: impl FnOnce() -> String) {
        if self.json {
            println!("{value}");
        } else {
            print!("{}", text());
        }
    }

    /// Begins a progress bar over `all` steps; one that nobody sees where output is for programs or no terminal.
    pub(crate) fn progress(&self, what: &'static str, all: u64) -> ProgressBar {
        if self.json {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(all);
        let style = ProgressStyle::with_template("{msg} [{bar:40}] {percent}% {eta}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        bar
    }
}
