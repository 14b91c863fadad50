//! Help texts, made from the table of commands.

use crate::error::CommandError;
use crate::grammar::{self, COMMANDS, CommandSpec};
use crate::suggest::nearest;
use crate::table::{Align, Table};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

/// Columns of a paragraph.
const WIDTH: usize = 78;

/// Returns the help text on a command, a group (`vm`) or, for no words, all commands.
pub fn help(words: &[String]) -> Result<String, CommandError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.is_empty() {
        let mut text = list(&COMMANDS.iter().collect::<Vec<_>>());
        text.push_str("\n`help COMMAND` tells more; every command takes --json.\n");
        return Ok(text);
    }
    if let Some(spec) = grammar::find(&words) {
        return Ok(describe(spec));
    }
    let group: Vec<&CommandSpec> = grammar::group(&words).collect();
    if !group.is_empty() {
        return Ok(list(&group));
    }
    let known: Vec<String> = COMMANDS.iter().map(CommandSpec::name).collect();
    let groups = grammar::first_words();
    let word = words.join(" ");
    let candidates = known.iter().map(String::as_str).chain(groups);
    let suggestion = nearest(&word, candidates).map(ToString::to_string);
    Err(CommandError::UnknownCommand { word, suggestion })
}

fn list(specs: &[&CommandSpec]) -> String {
    let mut table = Table::bare(&[Align::Left, Align::Left]);
    for spec in specs {
        table.row([spec.name(), spec.summary.to_string()]);
    }
    table.to_text()
}

fn describe(spec: &CommandSpec) -> String {
    let mut text = wrap(&spec.usage(), "usage: ", "         ");
    text.push('\n');
    text.push_str(&wrap(&capitalise(spec.summary), "", ""));
    let mut table = Table::bare(&[Align::Left, Align::Left]);
    for option in spec.all_options() {
        table.row([
            ["  ", &option.written()].concat(),
            option.summary.to_string(),
        ]);
    }
    text.push_str("\nOptions:\n");
    text.push_str(&table.to_text());
    if !spec.notes.is_empty() {
        text.push('\n');
        text.push_str(&wrap(spec.notes, "", ""));
    }
    text
}

/// Makes a sentence of a summary.
fn capitalise(summary: &str) -> String {
    let mut characters = summary.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    let mut sentence: String = first.into_iter().chain(characters).collect();
    sentence.push('.');
    sentence
}

/// Breaks a paragraph at blanks; `first` and `further` stand before its first and further lines.
fn wrap(paragraph: &str, first: &str, further: &str) -> String {
    let mut text = String::new();
    let mut line = first.to_string();
    let mut empty = true;
    for word in paragraph.split_whitespace() {
        if !empty && line.len().saturating_add(word.len()) >= WIDTH {
            let _ = writeln!(text, "{line}");
            line = further.to_string();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{line}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help_on(words: &[&str]) -> Result<String, CommandError> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        help(&words)
    }

    #[test]
    fn every_command_is_explained_within_the_screens_width() {
        for spec in &COMMANDS {
            let text = help_on(spec.words).unwrap();
            assert!(text.starts_with("usage: "), "{text}");
            assert!(text.contains("--json"), "{text}");
        }
        let all = help_on(&[]).unwrap();
        assert!(all.lines().all(|line| line.len() <= 80), "{all}");
        assert!(all.contains("vm console"), "{all}");
    }

    #[test]
    fn a_group_lists_its_commands() {
        let text = help_on(&["vm"]).unwrap();
        assert!(text.contains("vm create") && !text.contains("host"));
    }

    #[test]
    fn an_unknown_command_gets_a_suggestion() {
        let error = help_on(&["vm", "strat"]).unwrap_err();
        assert!(error.to_string().contains("`vm start`"), "{error}");
        assert!(help_on(&["a", "b", "c"]).is_err());
    }
}
