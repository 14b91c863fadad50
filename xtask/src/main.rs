//! The project's only build script: it builds, boots, tests and measures Basalt.
//!
//! This file parses the command line and hands over; it holds no logic of its own. What a command does stands in
//! the module of the same name.
#![forbid(unsafe_code)]

mod bench;
mod boot_archive;
mod check;
mod console;
mod cpio;
mod debian;
mod disks;
mod elf_image;
mod features;
mod figures;
mod gpt;
mod guests;
mod image;
mod initramfs;
mod kernel;
mod kill_loop;
mod outer;
mod packages;
mod qemu;
mod rates;
mod run_guest;
mod script;
mod sim;
mod size;
mod standard_vms;
mod symbols;
mod terminal;
mod test;
mod test_table;
mod vm_definition;
mod vmfs_bench;
mod vmlinux;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Builds, boots, tests and measures Basalt.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds the kernel image target/basalt.elf.
    Build,
    /// Builds the tiny guests of tests/guests into target/guests.
    BuildGuests,
    /// Makes target/basalt.iso and target/basalt.img, both bootable by BIOS and UEFI.
    Image,
    /// Runs all tests: on this host, of the source, and of Basalt in an emulator.
    Test(test::Options),
    /// Measures Basalt, in instructions where they can be counted.
    Bench(bench::Options),
    /// Tries CPU models and writes docs/features.md: which features of virtualization ran where.
    Features,
    /// Checks format, lints, layers, house rules, and that the kernel needs neither std nor a C library.
    Check,
    /// Checks layers.toml against the dependencies; a part of `check`.
    Layers,
    /// Checks the rules of the house that no compiler knows; a part of `check`.
    Tidy,
    /// Simulates parts of Basalt on this host, from a seed.
    Sim(sim::Options),
    /// Shows what the image's bytes are for.
    Size,
    /// Boots Basalt in QEMU or Bochs with its shell on this terminal, or types a script at it.
    Qemu(qemu::Options),
    /// Boots Basalt without questions, runs one guest and ends with that guest's verdict.
    RunGuest(run_guest::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match command {
        Command::Build => {
            let image = kernel::build(&workspace)?;
            println!("{}", image.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::BuildGuests => {
            for file in guests::build(&workspace)? {
                println!("{}", file.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Image => {
            let images = image::build(&workspace)?;
            println!("{}\n{}", images.iso.display(), images.disk.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Test(options) => test::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Features => features::run(&workspace),
        Command::Check => Ok(check::run(&workspace)),
        Command::Layers => check::run_step(&workspace, "layers").map(|()| ExitCode::SUCCESS),
        Command::Tidy => check::run_step(&workspace, "tidy").map(|()| ExitCode::SUCCESS),
        Command::Sim(options) => Ok(sim::run(&options)),
        Command::Size => size::run(&workspace).map(|()| ExitCode::SUCCESS),
        Command::Qemu(options) => qemu::run(&workspace, &options),
        Command::RunGuest(options) => Ok(run_guest::run(&workspace, &options)),
    }
}
