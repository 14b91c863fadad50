//! Scripts for a serial console: lines to type, texts to wait for.
//!
//! This file has the language; `console.rs` has the other end of the wire. A script is a text file:
//!  - `expect TEXT within N s` waits for TEXT (which may stand in quotes);
//!  - `wait N s` lets N seconds pass;
//!  - `key NAME` presses one key: `ctrl-]`, `enter`, `esc`, `tab`, `up`, `down`, `left`, `right`, `backspace`;
//!  - lines that start with `#` and empty lines do nothing;
//!  - every other line is typed as it stands and ended with Enter; a leading backslash is taken away, so that a
//!    line that starts with one of the words above can be typed too.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long `expect` waits when it does not say.
const EXPECT_DEFAULT: Duration = Duration::from_secs(10);

/// One line that does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it stands, counted from 1.
    pub(crate) number: usize,
    /// Its text, for messages.
    pub(crate) text: String,
    /// What it does.
    pub(crate) step: Step,
}

/// What a line does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// These bytes go to the console.
    Type(Vec<u8>),
    /// The text must be seen in time.
    Expect {
        /// What is looked for.
        text: String,
        /// For how long.
        within: Duration,
    },
    /// Nothing is done for a time.
    Wait(Duration),
}

/// Reads a script; an error names the line.
pub(crate) fn parse(source: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, text) in source.lines().enumerate() {
        let number = index + 1;
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let step = parse_step(trimmed).with_context(|| format!("line {number}: {trimmed}"))?;
        lines.push(Line {
            number,
            text: trimmed.to_owned(),
            step,
        });
    }
    Ok(lines)
}

fn parse_step(line: &str) -> Result<Step> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match word {
        "expect" => parse_expect(rest),
        "wait" => Ok(Step::Wait(
            parse_seconds(rest).context("it should read: wait N s")?,
        )),
        "key" => Ok(Step::Type(parse_key(rest)?)),
        _ => {
            let typed = line.strip_prefix('\\').unwrap_or(line);
            Ok(Step::Type(format!("{typed}\n").into_bytes()))
        }
    }
}

fn parse_expect(rest: &str) -> Result<Step> {
    let (text, within) = match rest
        .rsplit_once(" within ")
        .map(|(text, time)| (text, parse_seconds(time)))
    {
        Some((text, Some(within))) => (text.trim(), within),
        Some((_, None)) | None => (rest, EXPECT_DEFAULT),
    };
    let text = match text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    {
        Some(inner) => inner,
        None => text,
    };
    ensure!(!text.is_empty(), "it should read: expect TEXT within N s");
    Ok(Step::Expect {
        text: text.to_owned(),
        within,
    })
}

/// Reads "2 s", "2s", "2.5 s" or "2 seconds".
fn parse_seconds(text: &str) -> Option<Duration> {
    let number = text
        .trim()
        .strip_suffix("seconds")
        .or_else(|| text.trim().strip_suffix('s'))?;
    Duration::try_from_secs_f64(number.trim().parse().ok()?).ok()
}

fn parse_key(name: &str) -> Result<Vec<u8>> {
    if let Some(control) = name.strip_prefix("ctrl-") {
        // ASCII: a control character is its upper-case letter's code less 0x40.
        if let &[character @ (b'@'..=b'_' | b'a'..=b'z')] = control.as_bytes() {
            return Ok(vec![character.to_ascii_uppercase() & 0x1f]);
        }
    }
    let bytes: &[u8] = match name {
        "enter" => b"\r",
        "esc" => b"\x1b",
        "tab" => b"\t",
        "up" => b"\x1b[A",
        "down" => b"\x1b[B",
        "right" => b"\x1b[C",
        "left" => b"\x1b[D",
        "backspace" => b"\x7f",
        _ => bail!(
            "there is no key {name:?}; known are ctrl-X, enter, esc, tab, up, down, left, right, backspace"
        ),
    };
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_step(source: &str) -> Step {
        let lines = parse(source).expect("a good script");
        assert_eq!(lines.len(), 1);
        lines[0].step.clone()
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does() {
        let lines = parse("# first\n\nvm list\n  expect demo\n").expect("a good script");
        assert_eq!(
            lines.iter().map(|line| line.number).collect::<Vec<_>>(),
            [3, 4]
        );
        assert_eq!(lines[0].step, Step::Type(b"vm list\n".to_vec()));
    }

    #[test]
    fn expect_takes_a_text_and_a_time() {
        let expect = |text: &str, seconds| Step::Expect {
            text: text.to_owned(),
            within: Duration::from_secs_f64(seconds),
        };
        assert_eq!(
            only_step("expect basalt> within 60 s"),
            expect("basalt>", 60.0)
        );
        assert_eq!(
            only_step("expect \"a  b \" within 2.5s"),
            expect("a  b ", 2.5)
        );
        assert_eq!(
            only_step("expect within reach within 1 s"),
            expect("within reach", 1.0)
        );
        assert_eq!(
            only_step("expect it is within reach"),
            expect("it is within reach", 10.0)
        );
        assert!(parse("expect").is_err());
    }

    #[test]
    fn keys_become_control_bytes() {
        assert_eq!(only_step("key ctrl-]"), Step::Type(vec![0x1d]));
        assert_eq!(only_step("key ctrl-a"), Step::Type(vec![1]));
        assert_eq!(only_step("key up"), Step::Type(b"\x1b[A".to_vec()));
        assert!(parse("key ctrl-").is_err());
        assert!(parse("key F13").is_err());
    }

    #[test]
    fn waits_need_a_unit_and_a_finite_number() {
        assert_eq!(only_step("wait 3 s"), Step::Wait(Duration::from_secs(3)));
        for bad in ["wait", "wait 3", "wait -1 s", "wait inf s", "wait 1e300 s"] {
            let error = parse(bad).expect_err("a bad wait");
            assert!(format!("{error:#}").contains("line 1"), "{error:#}");
        }
    }

    #[test]
    fn a_backslash_types_a_reserved_word() {
        assert_eq!(
            only_step("\\wait for it"),
            Step::Type(b"wait for it\n".to_vec())
        );
    }
}
