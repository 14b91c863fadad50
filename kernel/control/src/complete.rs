//! What the word before the cursor can become, from the table of commands.

use crate::editor::Completion;
use crate::grammar::{self, Arity, CommandSpec, Kind};
use crate::report::LogLevel;
use crate::settings;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Names that only the host knows.
pub trait Names {
    /// Names of all VMs.
    fn vms(&self) -> Vec<String>;
    /// Names of all files that a VM may use.
    fn files(&self) -> Vec<String>;
    /// Names of all mounted datastores.
    fn datastores(&self) -> Vec<String>;
    /// Names of all storage devices and partitions.
    fn devices(&self) -> Vec<String>;
}

/// Returns what the last word of `before`, the text up to the cursor, can become.
///
/// A word with quotes in it is left alone: what it stands for is not what is on the line.
#[must_use]
pub fn complete(before: &str, names: &dyn Names) -> Completion {
    let start = before
        .rfind(char::is_whitespace)
        .map_or(0, |blank| blank.saturating_add(1));
    let word = before.get(start..).unwrap_or_default();
    let typed: Vec<&str> = before
        .get(..start)
        .unwrap_or_default()
        .split_whitespace()
        .filter(|word| *word != "--json")
        .collect();
    if word.contains(['\'', '"', '\\']) {
        return Completion::default();
    }
    let mut candidates = candidates(&typed, word, names);
    candidates.retain(|candidate| candidate.starts_with(word));
    candidates.sort_unstable();
    candidates.dedup();
    Completion { start, candidates }
}

fn candidates(typed: &[&str], word: &str, names: &dyn Names) -> Vec<String> {
    let owned = |words: Vec<&str>| words.into_iter().map(ToString::to_string).collect();
    let mut words = 0_usize;
    loop {
        let (of_command_name, rest) = typed.split_at(words.min(typed.len()));
        if let Some(spec) = grammar::find(of_command_name) {
            return of_command(spec, rest, word, names);
        }
        let following = grammar::following(of_command_name);
        if rest.is_empty() || following.is_empty() {
            return owned(following);
        }
        words = words.saturating_add(1);
    }
}

fn of_command(spec: &CommandSpec, typed: &[&str], word: &str, names: &dyn Names) -> Vec<String> {
    let mut position: usize = 0;
    let mut value_of = None;
    for word in typed {
        if value_of.take().is_some() {
            continue;
        }
        match word.strip_prefix("--") {
            Some(name) => {
                let option = spec.all_options().find(|option| option.name == name);
                value_of = option.and_then(|option| option.value);
            }
            None => position = position.saturating_add(1),
        }
    }
    if let Some((_, kind)) = value_of {
        return of_kind(kind, typed, names);
    }
    if word.starts_with('-') {
        let written = |name: &str| format!("--{name}");
        return spec
            .all_options()
            .filter(|option| option.repeated || !typed.contains(&written(option.name).as_str()))
            .map(|option| written(option.name))
            .collect();
    }
    let last = spec.arguments.last();
    let argument = spec
        .arguments
        .get(position)
        .or(last.filter(|argument| argument.arity != Arity::One));
    match argument {
        Some(argument) => of_kind(argument.kind, typed, names),
        None => Vec::new(),
    }
}

fn of_kind(kind: Kind, typed: &[&str], names: &dyn Names) -> Vec<String> {
    match kind {
        Kind::Vm => names.vms(),
        Kind::File => names.files(),
        Kind::Datastore => names.datastores(),
        Kind::StorePath => {
            let stores = names.datastores().into_iter();
            stores.map(|store| format!("{store}:")).collect()
        }
        Kind::Device => names.devices(),
        // The words of a command come one after the other.
        Kind::Command => grammar::following(typed)
            .into_iter()
            .map(ToString::to_string)
            .collect(),
        Kind::Level => LogLevel::ALL
            .iter()
            .map(|level| level.name().to_string())
            .collect(),
        Kind::Setting => settings::KEYS.iter().map(|key| format!("{key}=")).collect(),
        Kind::Text => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Names for Fixed {
        fn vms(&self) -> Vec<String> {
            ["demo", "debian"].map(ToString::to_string).to_vec()
        }
        fn files(&self) -> Vec<String> {
            ["images/vmlinuz", "images/initrd"]
                .map(ToString::to_string)
                .to_vec()
        }
        fn datastores(&self) -> Vec<String> {
            [String::from("main")].to_vec()
        }
        fn devices(&self) -> Vec<String> {
            [String::from("nvme0")].to_vec()
        }
    }

    fn words(before: &str) -> Vec<String> {
        complete(before, &Fixed).candidates
    }

    #[test]
    fn commands_and_their_words() {
        assert_eq!(
            words(""),
            ["datastore", "help", "host", "sched", "storage", "vm"]
        );
        assert_eq!(words("h"), ["help", "host"]);
        assert_eq!(words("vm st"), ["start", "stats", "stop"]);
        assert_eq!(words("--json vm li"), ["list"]);
        assert_eq!(words("help ho"), ["host"]);
        assert_eq!(words("help host me"), ["memory"]);
        assert!(words("frob x").is_empty());
    }

    #[test]
    fn names_files_levels_and_settings() {
        assert_eq!(words("vm start de"), ["debian", "demo"]);
        assert!(words("vm start demo ").is_empty());
        assert_eq!(words("vm create x --kernel images/v"), ["images/vmlinuz"]);
        assert_eq!(
            words("host log --level "),
            ["debug", "error", "info", "warn"]
        );
        assert_eq!(words("datastore info "), ["main"]);
        assert_eq!(words("datastore ls m"), ["main:"]);
        assert_eq!(words("datastore create x "), ["nvme0"]);
        assert_eq!(words("vm set demo me"), ["memory="]);
        assert_eq!(words("vm set demo cpus=2 mem"), ["memory="]);
    }

    #[test]
    fn options_that_were_not_given_yet() {
        assert_eq!(words("vm create x --me"), ["--memory"]);
        assert!(words("vm create x --memory 1G --me").is_empty());
        assert_eq!(words("vm create x --module a --mod"), ["--module"]);
        assert!(words("vm create x --memory ").is_empty());
        assert_eq!(words("vm list --j"), ["--json"]);
    }

    #[test]
    fn the_place_of_the_word_is_told() {
        assert_eq!(complete("vm start de", &Fixed).start, 9);
        assert_eq!(complete("vm start 'de", &Fixed), Completion::default());
    }
}
