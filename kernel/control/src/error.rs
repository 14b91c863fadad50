//! What is wrong with a line, in words that say what to do instead.

use crate::definition::DefinitionError;
use alloc::string::String;

/// Why a line is not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A quote was opened only.
    #[error("a closing {0} is missing")]
    UnclosedQuote(char),
    /// Nothing follows the last backslash.
    #[error("the line ends with a backslash; write \\\\ if one is meant")]
    TrailingBackslash,
    /// No command has this name.
    #[error("there is no command `{word}`{}; `help` lists all commands", did_you_mean(.suggestion))]
    UnknownCommand {
        /// What was typed.
        word: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// A group of commands without one of them.
    #[error("`{group}` needs one of: {commands}")]
    MissingCommand {
        /// The group.
        group: String,
        /// Its commands.
        commands: String,
    },
    /// The command has no such option.
    #[error("`{command}` has no option `{option}`{}; `help {command}` shows them", did_you_mean(.suggestion))]
    UnknownOption {
        /// The command.
        command: String,
        /// What was typed.
        option: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// An option without its value.
    #[error("`{option}` needs a value: {option} {value}")]
    MissingValue {
        /// The option.
        option: String,
        /// What kind of value.
        value: &'static str,
    },
    /// An option that is only there or not, with a value.
    #[error("`{0}` takes no value")]
    UnwantedValue(String),
    /// An option that may be given once, given again.
    #[error("`{0}` was given twice")]
    Repeated(String),
    /// An argument or a needed option is not there.
    #[error("{what} is missing; usage: {usage}")]
    Missing {
        /// What is missing.
        what: String,
        /// How the command is used.
        usage: String,
    },
    /// More arguments than the command takes.
    #[error("`{word}` is too much here; usage: {usage}")]
    Unexpected {
        /// The first word too many.
        word: String,
        /// How the command is used.
        usage: String,
    },
    /// A value that does not say what it should.
    #[error("{what} cannot be `{value}`: {reason}")]
    BadValue {
        /// Which value.
        what: String,
        /// What was typed.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not one of the keys of a definition.
    #[error("a VM has no setting `{key}`{}; settings are {known}", did_you_mean(.suggestion))]
    UnknownSetting {
        /// What was typed.
        key: String,
        /// What was probably meant.
        suggestion: Option<String>,
        /// All settings.
        known: String,
    },
    /// The values are good one by one and do not make a VM together.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(word) => alloc::format!(", did you mean `{word}`?"),
        None => String::new(),
    }
}
