//! `cargo xtask qemu`: Basalt with its standard VMs, its shell on this terminal or driven by a script.
//!
//! Which VMs there are stands in `standard_vms.rs`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::console::Console;
use crate::debian;
use crate::disks::{Bus, Disk, Tool};
use crate::kernel;
use crate::outer::{Emulator, Line as SerialLine, Medium, Model, Outer, path_of};
use crate::packages;
use crate::script::{self, Line, Step};
use crate::standard_vms;
use crate::terminal;
use crate::workspace::{Workspace, say};

/// What the shell prints when it waits for a command.
pub(crate) const PROMPT: &str = "basalt>";
/// How long Basalt may take to its prompt before a script gives up.
const BOOT_TIME_MAX: Duration = Duration::from_secs(120);
/// How long Basalt may take to end after the last line of a script.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// The datastore: its image in the target directory, its name, its size (of which only what is used takes room).
const DATASTORE_FILE: &str = "datastore.img";
const DATASTORE_LABEL: &str = "main";
const DATASTORE_BYTES: u64 = 16 << 30;
/// QEMU's escape character on the terminal, ctrl-\: ctrl-a is the shell's, ctrl-] the VM console's.
const ESCAPE_CHARACTER: &str = "0x1c";

/// Arguments of `qemu`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Types the lines of --script instead of connecting this terminal.
    #[arg(long, requires = "script")]
    headless: bool,
    /// A file of shell lines, with `expect TEXT within N s`, `wait N s` and `key NAME` among them.
    #[arg(long, value_name = "FILE", requires = "headless")]
    script: Option<PathBuf>,
    /// RAM of the machine, in MiB; only what is touched is taken from this one.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u64,
    /// CPUs of the machine.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Adds to Basalt's command line.
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// What the machine is emulated by.
    #[arg(long, value_enum, default_value_t = Emulator::Qemu)]
    emulator: Emulator,
    /// CPU model of the machine, in the emulator's words.
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// The datastore's image; made if it is not there, and kept.
    #[arg(long, value_name = "FILE")]
    datastore: Option<PathBuf>,
    /// Has no disk.
    #[arg(long, conflicts_with = "datastore")]
    no_datastore: bool,
    /// Boots this image instead of building one.
    #[arg(long, value_name = "FILE")]
    basalt: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let lines = match &options.script {
        None => None,
        Some(path) => {
            let source = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Some(script::parse(&source).with_context(|| format!("in {}", path.display()))?)
        }
    };
    let model = Model::new(options.emulator, options.cpu.as_deref());
    packages::ensure_installed(model.emulator.needs())?;
    let image = match &options.basalt {
        Some(path) => path.clone(),
        None => kernel::build(workspace)?,
    };
    let mut archive = workspace.unnamed_file()?;
    archive
        .write_all(&standard_vms::archive(workspace, options.emulator)?)
        .context("cannot write the boot archive")?;
    let outer = Outer {
        model: &model,
        medium: Medium::Kernel {
            file: &image,
            initrd: Some(path_of(&archive).into()),
            append: &options.append,
        },
        firmware: None,
        memory_mib: options.memory,
        cpus: options.cpus,
        icount: false,
        disks: datastore(workspace, options)?,
    };
    match lines {
        None if options.emulator == Emulator::Qemu => interact(&outer),
        None => terminal::interact(&mut outer.start(workspace, None)?),
        Some(lines) => {
            play(workspace, &outer, &after_prompt(lines), std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The disk that keeps what is made in the shell: a datastore, with Debian's files on it from the first time on.
fn datastore(workspace: &Workspace, options: &Options) -> Result<Vec<Disk>> {
    if options.no_datastore || options.emulator == Emulator::Bochs {
        return Ok(Vec::new());
    }
    let default = || workspace.target().join(DATASTORE_FILE);
    let path = options.datastore.clone().unwrap_or_else(default);
    if !path.exists() {
        say(&format!("making a datastore in {}", path.display()));
        let made = path.with_extension("new");
        make_datastore(workspace, &made)?;
        fs::rename(&made, &path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(vec![Disk {
        path,
        bus: Bus::default(),
        keep: true,
    }])
}

fn make_datastore(workspace: &Workspace, image: &Path) -> Result<()> {
    let tool = Tool::build(workspace)?;
    if image.exists() {
        fs::remove_file(image).with_context(|| format!("cannot remove {}", image.display()))?;
    }
    tool.make_datastore(image, DATASTORE_LABEL, DATASTORE_BYTES)?;
    tool.mkdir(image, "images")?;
    match debian::fetch(workspace) {
        Ok(debian) => {
            tool.put(image, &debian.kernel, "images/vmlinuz")?;
            tool.put(image, &debian.initramfs, "images/initramfs.cpio")
        }
        Err(error) => {
            say(&format!("going on without Debian's files: {error:#}"));
            Ok(())
        }
    }
}

/// Lets QEMU connect the terminal, with its monitor behind the same keys, and waits for the end.
fn interact(outer: &Outer<'_>) -> Result<ExitCode> {
    say("starting; `host poweroff` ends it, ctrl-\\ x kills it, ctrl-\\ h shows more keys");
    let mut command = outer.qemu_command();
    command.args([
        "-chardev",
        "stdio,id=terminal,mux=on,signal=off",
        "-echr",
        ESCAPE_CHARACTER,
    ]);
    command.args([
        "-serial",
        "chardev:terminal",
        "-mon",
        "chardev=terminal,mode=readline",
    ]);
    let status = command
        .status()
        .context("cannot start qemu-system-x86_64 (Debian package qemu-system-x86)")?;
    ensure!(status.code().is_some(), "QEMU was killed");
    Ok(ExitCode::SUCCESS)
}

/// Puts waiting for the shell's prompt before a script.
pub(crate) fn after_prompt(mut lines: Vec<Line>) -> Vec<Line> {
    let prompt = Line {
        number: 0,
        text: format!("(waiting for {PROMPT})"),
        step: Step::Expect {
            text: PROMPT.to_owned(),
            within: BOOT_TIME_MAX,
        },
    };
    lines.insert(0, prompt);
    lines
}

/// Boots the machine and types a script's lines; returns what it said, which `mirror` sees as it comes.
pub(crate) fn play(
    workspace: &Workspace,
    outer: &Outer<'_>,
    lines: &[Line],
    mirror: impl Write + Send + 'static,
) -> Result<String> {
    let mut running = outer.start(workspace, None)?;
    let SerialLine { input, output } = running.take_line()?;
    let mut console = Console::new(input, output, mirror);
    if let Err(error) = console.perform_all(lines) {
        bail!("{error:#}{}", running.explain());
    }
    // A script may end with `host poweroff`; whatever else runs on is of no use to anyone.
    let ends = lines
        .last()
        .is_some_and(|line| matches!(line.step, Step::Type(_)));
    if ends {
        running.wait_until(Instant::now() + END_TIME_MAX)?;
    }
    Ok(console.text())
}
