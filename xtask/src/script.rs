//! Scripts for a serial console: lines to type, texts to wait for.
//!
//! This file has the language; `console.rs` has the other end of the wire. A script is a text file:
//!  - `expect TEXT within N s` waits for TEXT (which may stand in quotes);
//!  - `wait N s` lets N seconds pass;
//!  - `measure LABEL VM.. for N s` asks VMs of the guest `count`, from Basalt's prompt, how fast they get on;
//!  - `share A of B is P % within T %` and `share A of B is at least P %` compare two such rates, `LABEL/VM` each;
//!  - `key NAME` presses one key: `ctrl-]`, `enter`, `esc`, `tab`, `up`, `down`, `left`, `right`, `backspace`;
//!  - lines that start with `#` and empty lines do nothing;
//!  - every other line is typed as it stands and ended with Enter; a leading backslash is taken away, so that a
//!    line that starts with one of the words above can be typed too.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long `expect` waits when it does not say.
const EXPECT_DEFAULT: Duration = Duration::from_secs(10);

/// One line that does something.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    /// Where it stands, counted from 1.
    pub(crate) number: usize,
    /// Its text, for messages.
    pub(crate) text: String,
    /// What it does.
    pub(crate) step: Step,
}

/// What a line does.
#[derive(Debug, Clone, PartialEq)]
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
    /// Counting guests are asked how far they get in a time.
    Measure {
        /// What their rates are called afterwards: `LABEL/VM`, and `LABEL/VM.1` for a second CPU.
        label: String,
        /// The VMs.
        vms: Vec<String>,
        /// The time.
        window: Duration,
    },
    /// A rate must be that part of another one.
    Share(Share),
}

/// What a rate must be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Share {
    /// The rate's name.
    pub(crate) of: String,
    /// The other's.
    pub(crate) base: String,
    /// What it must be of the other, in per cent.
    pub(crate) percent: f64,
    /// How far from that it may be, in per cent of it; `None` if it may be more.
    pub(crate) tolerance: Option<f64>,
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
        "measure" => parse_measure(rest).context("it should read: measure LABEL VM.. for N s"),
        "share" => parse_share(rest).context(
            "it should read: share A of B is P % within T %, or share A of B is at least P %",
        ),
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

fn parse_measure(rest: &str) -> Result<Step> {
    let (names, time) = rest.rsplit_once(" for ").context("no time")?;
    let mut names = names.split_whitespace().map(ToOwned::to_owned);
    let label = names.next().context("no label")?;
    let vms: Vec<String> = names.collect();
    ensure!(!vms.is_empty(), "no VM");
    let window = parse_seconds(time).context("no time")?;
    Ok(Step::Measure { label, vms, window })
}

fn parse_share(rest: &str) -> Result<Step> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (of, base, percent, tolerance) = match words[..] {
        [of, "of", base, "is", "at", "least", percent, "%"] => (of, base, percent, None),
        [of, "of", base, "is", percent, "%", "within", tolerance, "%"] => {
            (of, base, percent, Some(tolerance.parse()?))
        }
        _ => bail!("not understood"),
    };
    Ok(Step::Share(Share {
        of: of.to_owned(),
        base: base.to_owned(),
        percent: percent.parse()?,
        tolerance,
    }))
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
    fn measurements_are_compared() {
        assert_eq!(
            only_step("measure all a b for 2 s"),
            Step::Measure {
                label: "all".to_owned(),
                vms: vec!["a".to_owned(), "b".to_owned()],
                window: Duration::from_secs(2),
            }
        );
        assert_eq!(
            only_step("share all/a of all/b is 50 % within 3 %"),
            Step::Share(Share {
                of: "all/a".to_owned(),
                base: "all/b".to_owned(),
                percent: 50.0,
                tolerance: Some(3.0),
            })
        );
        for bad in [
            "measure all for 2 s",
            "measure all a",
            "share a of b is 5",
            "share a",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
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
