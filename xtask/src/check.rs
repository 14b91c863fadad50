//! `cargo xtask check`: everything about the source and the image that a machine can judge without running it.
//!
//! Each step is one rule of the house with a reason behind it; they stand in the files beside. What is judged by
//! running Basalt stands in `test.rs`.

mod code;
mod gates;
mod layers;
mod metadata;
mod tidy;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::kernel;
use crate::workspace::{FREESTANDING_TARGET, Workspace};

/// A step: its name and what it does.
type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// All steps, the quick ones first.
const STEPS: [Step; 9] = [
    ("layers", layers::check),
    ("tidy", tidy::check),
    ("fmt", fmt),
    ("no-libc", gates::no_libc),
    ("no-std", gates::no_std),
    ("clippy-host", clippy_host),
    ("clippy-kernel", clippy_kernel),
    ("clippy-guests", clippy_guests),
    ("machine-code", machine_code),
];

/// Runs every step, says how each went, and fails if one did.
pub(crate) fn run(workspace: &Workspace) -> ExitCode {
    let mut failed = 0;
    for name in names() {
        let start = Instant::now();
        let result = run_step(workspace, name);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("ok    {name:14} {seconds:6.1} s"),
            Err(error) => {
                failed += 1;
                println!("FAIL  {name:14} {seconds:6.1} s\n{error:#}");
            }
        }
    }
    ExitCode::from(u8::from(failed != 0))
}

/// The names of all steps.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|(name, _)| *name)
}

/// Runs one step.
pub(crate) fn run_step(workspace: &Workspace, name: &str) -> Result<()> {
    let found = STEPS.iter().find(|(known, _)| *known == name);
    let (_, step) = found.ok_or_else(|| anyhow::anyhow!("there is no step {name}"))?;
    step(workspace)
}

fn fmt(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    let output = cargo.args(["fmt", "--all", "--check"]).output()?;
    ensure!(
        output.status.success(),
        "not formatted; `cargo fmt --all` does it:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

/// Everything that host tools and tests are made of, with the host's own flags.
fn clippy_host(workspace: &Workspace) -> Result<()> {
    let mut arguments = vec!["--workspace", "--all-targets"];
    for judged_with_other_flags in ["basalt", "vmkernel", "arch", "boot", "guests"] {
        arguments.extend(["--exclude", judged_with_other_flags]);
    }
    clippy(workspace, &arguments)
}

/// The kernel with the flags that it is built with.
fn clippy_kernel(workspace: &Workspace) -> Result<()> {
    let packages = [
        "--package",
        "basalt",
        "--package",
        "vmkernel",
        "--package",
        "arch",
        "--package",
        "boot",
    ];
    freestanding_clippy(workspace, kernel::FLAGS, "kernel-check", &packages)
}

fn clippy_guests(workspace: &Workspace) -> Result<()> {
    let packages = ["--package", "guests"];
    freestanding_clippy(workspace, crate::guests::FLAGS, "guests-check", &packages)
}

fn freestanding_clippy(
    workspace: &Workspace,
    flags: &str,
    directory: &str,
    packages: &[&str],
) -> Result<()> {
    let directory = workspace.target().join(directory);
    let directory = directory.to_string_lossy();
    let mut arguments = vec!["--config", flags, "--target", FREESTANDING_TARGET];
    arguments.extend(["--target-dir", &*directory]);
    arguments.extend(packages);
    clippy(workspace, &arguments)
}

fn clippy(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["clippy", "--quiet", "--keep-going"])
        .args(arguments);
    let output = cargo.args(["--", "-D", "warnings"]).output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The image's own instructions.
fn machine_code(workspace: &Workspace) -> Result<()> {
    kernel::build(workspace)?;
    code::check(&std::fs::read(workspace.basalt_debug_elf())?)
}
