//! `cargo xtask features`: which features of virtualization Basalt used on which CPU model, found by running there.
//!
//! Basalt says itself what it uses (`host info`); that it works is shown by guests that ran with it. The result is
//! docs/features.md; what is refused stands there with the reason.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::guests;
use crate::kernel;
use crate::outer::{Emulator, Medium, Model, Outer, path_of};
use crate::packages;
use crate::qemu;
use crate::script;
use crate::standard_vms;
use crate::workspace::{Workspace, say, write_atomically};

/// Where the table goes.
const TABLE: &str = "docs/features.md";
/// The models that are tried, by their emulators.
const MODELS: [(Emulator, Option<&str>); 11] = [
    (Emulator::Qemu, None),
    (Emulator::Bochs, Some("turion64_tyler")),
    (Emulator::Bochs, Some("phenom_8650_toliman")),
    (Emulator::Bochs, Some("ryzen")),
    (Emulator::Bochs, Some("core2_penryn_t9600")),
    (Emulator::Bochs, Some("corei5_lynnfield_750")),
    (Emulator::Bochs, Some("corei7_sandy_bridge_2600k")),
    (Emulator::Bochs, Some("corei7_ivy_bridge_3770k")),
    (Emulator::Bochs, Some("corei7_haswell_4770")),
    (Emulator::Bochs, Some("corei7_skylake_x")),
    (Emulator::Bochs, Some("corei7_icelake_u")),
];
/// The guests that have to end well there: each with its command line and its status.
const GUESTS: [(&str, &str, i32); 4] = [
    ("exits", "", 1),
    ("rogue", "storm", 1),
    ("rogue", "unbacked", 1),
    ("fuzz", "msrs 20000 1", 1),
];
/// RAM of the machine.
const MEMORY_MIB: u64 = 512;
/// What is said before the features that `host info` lists.
const LABEL: &str = "virtualization:";
/// What Basalt says when it does not start.
const REFUSAL: &str = "Basalt cannot start: ";

/// What came out on one model.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It uses these, and the guests ended well.
    Runs(Vec<String>),
    /// It does not start, for this reason.
    Refuses(String),
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    kernel::build(workspace)?;
    guests::build(workspace)?;
    let mut outcomes = Vec::new();
    for (emulator, cpu) in MODELS {
        let model = Model::new(emulator, cpu);
        say(&format!("trying {model}"));
        packages::ensure_installed(emulator.needs())?;
        let outcome = try_model(workspace, &model).with_context(|| format!("on {model}"))?;
        outcomes.push((model, outcome));
    }
    write_atomically(
        &workspace.root().join(TABLE),
        document(&outcomes).as_bytes(),
    )?;
    println!("{TABLE}");
    Ok(ExitCode::SUCCESS)
}

fn try_model(workspace: &Workspace, model: &Model) -> Result<Outcome> {
    let image = workspace.basalt_elf();
    let mut archive = workspace.unnamed_file()?;
    archive.write_all(&standard_vms::demo_archive(workspace)?)?;
    let outer = Outer {
        model,
        medium: Medium::Kernel {
            file: &image,
            initrd: Some(path_of(&archive).into()),
            append: "",
        },
        firmware: None,
        memory_mib: MEMORY_MIB,
        cpus: 1,
        icount: false,
        disks: Vec::new(),
    };
    // Either line appears, whatever comes of it.
    let lines = script::parse("expect Basalt within 60 s\nwait 1 s\nhost info\nwait 2 s\n")?;
    let text = qemu::play(workspace, &outer, &lines, std::io::sink())?;
    if let Some(reason) = refusal(&text) {
        return Ok(Outcome::Refuses(reason));
    }
    let features = features(&text).with_context(|| format!("no features in {text}"))?;
    for (guest, append, status) in GUESTS {
        run_guest(workspace, model, guest, append, status)?;
    }
    Ok(Outcome::Runs(features))
}

fn run_guest(
    workspace: &Workspace,
    model: &Model,
    guest: &str,
    append: &str,
    status: i32,
) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("run-guest")
        .arg(guests::path(workspace, guest))
        .args(model.arguments())
        .arg("--basalt")
        .arg(workspace.basalt_elf())
        .args(["--append", append]);
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.code() == Some(status),
        "{guest} {append} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The reason of a refusal, if there is one.
fn refusal(text: &str) -> Option<String> {
    let reason = text.lines().find_map(|line| line.split_once(REFUSAL))?.1;
    let reason = reason.split_once(';').map_or(reason, |(what, _)| what);
    Some(reason.trim_end_matches('.').to_owned())
}

/// The features that `host info` lists, without what only counts or numbers.
fn features(text: &str) -> Option<Vec<String>> {
    let list = text.lines().find_map(|line| line.split_once(LABEL))?.1;
    let is_feature = |word: &&str| !word.ends_with("ASIDs") && !word.starts_with("revision");
    let words = list.split(',').map(str::trim).filter(is_feature);
    Some(words.map(str::to_owned).collect())
}

/// The table as a document.
fn document(outcomes: &[(Model, Outcome)]) -> String {
    let mut text = String::from(
        "# Features of virtualization\n\n\
         Which of them Basalt used on which CPU model of the emulators, while the tiny guests `exits`, `rogue` and \
         `fuzz` ended\nwell there. Made by `cargo xtask features`; do not edit.\n\n",
    );
    let running: Vec<(&Model, &Vec<String>)> = outcomes
        .iter()
        .filter_map(|(model, outcome)| match outcome {
            Outcome::Runs(features) => Some((model, features)),
            Outcome::Refuses(_) => None,
        })
        .collect();
    let mut seen = BTreeSet::new();
    let names = running.iter().flat_map(|(_, features)| features.iter());
    let names: Vec<&String> = names.filter(|name| seen.insert(*name)).collect();
    text.push_str("| feature |");
    for (model, _) in &running {
        let _ = write!(text, " {model} |");
    }
    let _ = writeln!(text, "\n|---|{}", ":-:|".repeat(running.len()));
    for name in names {
        let _ = write!(text, "| {name} |");
        for (_, features) in &running {
            text.push_str(if features.contains(name) {
                " x |"
            } else {
                " |"
            });
        }
        text.push('\n');
    }
    text.push_str("\nWhere Basalt does not start, and why:\n\n| model | reason |\n|---|---|\n");
    for (model, outcome) in outcomes {
        if let Outcome::Refuses(reason) = outcome {
            let _ = writeln!(text, "| {model} | {reason} |");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_and_refusals_are_found_in_what_basalt_says() {
        let said =
            "basalt> host info\nvirtualization:  AMD SVM, nested paging, 16 ASIDs, next-RIP\n";
        let expected = ["AMD SVM", "nested paging", "next-RIP"].map(str::to_owned);
        assert_eq!(features(said), Some(expected.to_vec()));
        assert_eq!(refusal(said), None);
        let said = "\nBasalt cannot start: this CPU has no wings; Basalt needs some.\n";
        assert_eq!(refusal(said).as_deref(), Some("this CPU has no wings"));
        assert_eq!(features(said), None);
    }

    #[test]
    fn the_table_has_a_column_for_each_model_that_runs() {
        let model = |cpu| Model::new(Emulator::Bochs, Some(cpu));
        let runs = |names: &[&str]| Outcome::Runs(names.iter().map(|n| (*n).to_owned()).collect());
        let text = document(&[
            (model("a"), runs(&["X", "Y"])),
            (model("b"), Outcome::Refuses("no X".into())),
            (model("c"), runs(&["X"])),
        ]);
        for line in [
            "| feature | bochs/a | bochs/c |",
            "|---|:-:|:-:|",
            "| X | x | x |",
            "| Y | x | |",
            "| bochs/b | no X |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
