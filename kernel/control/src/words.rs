//! A line of the shell as words: blanks separate, quotes and backslashes keep them together.
//!
//! `'...'` takes everything as it stands; in `"..."` and outside a backslash takes the next character as it stands; a
//! word that starts with `#` ends the line. There are no variables, no wildcards, no pipes.

use crate::error::CommandError;
use alloc::string::String;
use alloc::vec::Vec;

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// What it means, quotes taken away.
    pub(crate) text: String,
    /// Where it starts in the line, in bytes.
    pub(crate) start: usize,
    /// Whether a part of it was quoted; such a word is never an option.
    pub(crate) quoted: bool,
}

/// Splits a line.
pub(crate) fn split(line: &str) -> Result<Vec<Word>, CommandError> {
    let mut words = Vec::new();
    let mut rest = line.char_indices().peekable();
    while let Some((start, first)) = rest.next() {
        if first.is_whitespace() {
            continue;
        }
        if first == '#' {
            break;
        }
        let mut word = Word {
            text: String::new(),
            start,
            quoted: false,
        };
        let mut next = Some(first);
        while let Some(character) = next {
            match character {
                '\'' | '"' => {
                    word.quoted = true;
                    quoted(character, &mut rest, &mut word.text)?;
                }
                '\\' => {
                    word.quoted = true;
                    let (_, taken) = rest.next().ok_or(CommandError::TrailingBackslash)?;
                    word.text.push(taken);
                }
                _ => word.text.push(character),
            }
            next = rest
                .next_if(|(_, character)| !character.is_whitespace())
                .map(|(_, character)| character);
        }
        words.push(word);
    }
    Ok(words)
}

/// Reads up to the closing quote.
fn quoted(
    quote: char,
    rest: &mut impl Iterator<Item = (usize, char)>,
    text: &mut String,
) -> Result<(), CommandError> {
    while let Some((_, character)) = rest.next() {
        if character == quote {
            return Ok(());
        }
        if character == '\\' && quote == '"' {
            let (_, taken) = rest.next().ok_or(CommandError::UnclosedQuote(quote))?;
            text.push(taken);
        } else {
            text.push(character);
        }
    }
    Err(CommandError::UnclosedQuote(quote))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        let words = split(line).unwrap();
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn blanks_separate_and_quotes_join() {
        assert_eq!(texts("  vm\t list "), ["vm", "list"]);
        assert_eq!(
            texts(r#"a "b c" 'd "e' f\ g"#),
            ["a", "b c", "d \"e", "f g"]
        );
        assert_eq!(
            texts(r#"key="a \"b\" \\" '' x"y"z"#),
            ["key=a \"b\" \\", "", "xyz"]
        );
    }

    #[test]
    fn a_comment_ends_the_line() {
        assert_eq!(texts("vm list # all of them"), ["vm", "list"]);
        assert_eq!(texts("vm a#b '#c'"), ["vm", "a#b", "#c"]);
        assert!(texts("# nothing").is_empty());
    }

    #[test]
    fn what_is_open_is_an_error() {
        assert_eq!(split("a 'b"), Err(CommandError::UnclosedQuote('\'')));
        assert_eq!(split("a \"b\\"), Err(CommandError::UnclosedQuote('"')));
        assert_eq!(split("a\\"), Err(CommandError::TrailingBackslash));
    }

    #[test]
    fn words_know_where_they_start_and_whether_they_were_quoted() {
        let words = split("ä 'b' c").unwrap();
        let places: Vec<_> = words.iter().map(|word| (word.start, word.quoted)).collect();
        assert_eq!(places, [(0, false), (3, true), (7, false)]);
    }
}
