//! How fast counting guests get on: the guest `count` is asked twice through its console, and its rounds are divided by
//! the TSC ticks between its answers.
//!
//! Where the answers come from is `console.rs`'s affair; what is asked and compared is written in scripts.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::console::Console;
use crate::script::Share;

/// How long a guest may take to answer.
const ANSWER: Duration = Duration::from_secs(60);
/// TSC ticks of a second, as a script means it: what it is where an instruction takes a nanosecond.
const TICKS: f64 = 1e9;
/// How long a window may take by the clock on the wall, and the time until the first look.
const WINDOW_MAX: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(500);
/// The key that leaves a VM's console.
const LEAVE: &[u8] = b"\x1d";

/// What a guest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    rounds: u64,
    /// Of the second CPU; they wrap at 32 bits.
    second: u32,
    tsc: u64,
}

/// Asks each VM, lets `window` pass in the guests' time, and asks again; returns rounds by tick, `VM.1` for second CPUs.
pub(crate) fn measure(
    console: &mut Console,
    vms: &[String],
    window: Duration,
) -> Result<Vec<(String, f64)>> {
    let mut before = Vec::new();
    for vm in vms {
        before.push(ask(console, vm)?);
    }
    let wanted = window.as_secs_f64() * TICKS;
    let end = Instant::now() + WINDOW_MAX;
    if let (Some(vm), Some(first)) = (vms.first(), before.first()) {
        for looks in 1.. {
            // Each look takes a byte that was not used yet, so they become rarer.
            thread::sleep(LOOK * looks);
            let now: Answer = ask(console, vm)?;
            if now.tsc.wrapping_sub(first.tsc) as f64 >= wanted {
                break;
            }
            ensure!(Instant::now() < end, "the guests' time passes too slowly");
        }
    }
    let mut rates = Vec::new();
    for (vm, before) in vms.iter().zip(before) {
        let after = ask(console, vm)?;
        let ticks = after.tsc.wrapping_sub(before.tsc) as f64;
        let rounds = after.rounds.wrapping_sub(before.rounds) as f64;
        let second = after.second.wrapping_sub(before.second);
        ensure!(ticks > 0.0, "{vm}: no time has passed");
        rates.push((vm.clone(), rounds / ticks));
        if second > 0 {
            rates.push((format!("{vm}.1"), f64::from(second) / ticks));
        }
    }
    Ok(rates)
}

fn ask(console: &mut Console, vm: &str) -> Result<Answer> {
    console.type_bytes(format!("vm console {vm}\n").as_bytes())?;
    console.expect(&format!("Attached to {vm}"), ANSWER)?;
    console.expect("count: at work", ANSWER)?;
    // What the guest wrote before is shown first; a byte that it was not asked with yet tells the new answer.
    let text = console.text();
    let byte = ('!'..='~')
        .find(|byte| *byte != ';' && !text.contains(&format!("work {byte} ")))
        .context("the script asks too often")?;
    console.type_bytes(byte.to_string().as_bytes())?;
    console.expect(&format!("work {byte} "), ANSWER)?;
    console.expect(&format!(" {byte};"), ANSWER)?;
    let answer = parse(&console.text(), byte).with_context(|| format!("{vm}'s answer"))?;
    console.type_bytes(LEAVE)?;
    console.expect("Detached", ANSWER)?;
    Ok(answer)
}

fn parse(text: &str, byte: char) -> Option<Answer> {
    let (_, answer) = text.split_once(&format!("work {byte} "))?;
    let (answer, _) = answer.split_once(';')?;
    let mut words = answer.split_whitespace();
    let rounds = words.next()?.parse().ok()?;
    let second = words.next()?.parse().ok()?;
    let tsc = words.nth(1)?.parse().ok()?;
    Some(Answer {
        rounds,
        second,
        tsc,
    })
}

/// Holds a rate to what it must be.
pub(crate) fn check(rates: &BTreeMap<String, f64>, share: &Share) -> Result<()> {
    let rate = |name: &String| {
        let rate = rates.get(name).copied();
        rate.with_context(|| format!("{name} was not measured"))
    };
    let percent = rate(&share.of)? / rate(&share.base)? * 100.0;
    let wanted = share.percent;
    let good = match share.tolerance {
        Some(tolerance) => (percent - wanted).abs() <= wanted * tolerance / 100.0,
        None => percent >= wanted,
    };
    if std::env::var_os("BASALT_SHOW_SHARES").is_some() {
        crate::workspace::say(&format!(
            "{} is {percent:.2} % of {}, {wanted} % wanted",
            share.of, share.base
        ));
    }
    ensure!(good, "it is {percent:.2} %");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = "work A 1 0 AT 5 A;\nwork B 12 7 AT 99 B;\n";
        let answer = Answer {
            rounds: 12,
            second: 7,
            tsc: 99,
        };
        assert_eq!(parse(text, 'B'), Some(answer));
        assert_eq!(parse(text, 'C'), None);
        assert_eq!(parse("work B 12 ", 'B'), None);
    }

    #[test]
    fn rates_are_held_to_their_share() {
        let rates = BTreeMap::from([("x/a".to_owned(), 1.0), ("x/b".to_owned(), 2.0)]);
        let share = |percent, tolerance| Share {
            of: "x/a".to_owned(),
            base: "x/b".to_owned(),
            percent,
            tolerance,
        };
        assert!(check(&rates, &share(50.0, Some(0.1))).is_ok());
        assert!(check(&rates, &share(49.0, Some(1.0))).is_err());
        assert!(check(&rates, &share(49.0, None)).is_ok());
        assert!(check(&rates, &share(51.0, None)).is_err());
    }
}
