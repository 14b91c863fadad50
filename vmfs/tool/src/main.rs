//! Datastores in image files: make, look at, fill, grow, check.
//!
//! This file parses the command line and hands over. What is done to a volume is `vmfs/volume`'s; here are only a file
//! as its device, a clock, and output for people and programs.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod clock;
mod file_disk;
mod files;
mod inspect;
mod make;
mod output;
mod session;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::Output;

/// Datastores in image files: make, look at, fill, grow, check.
#[derive(Debug, Parser)]
#[command(name = "vmfs_tool", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Prints one JSON object instead of text, and no progress.
    #[arg(long, global = true)]
    json: bool,
    /// A further LUN of the volume; once for each.
    #[arg(long = "member", global = true, value_name = "FILE")]
    members: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes an empty volume.
    Mkfs(make::Mkfs),
    /// Shows what a volume is and how full it is.
    Info {
        /// The image.
        image: PathBuf,
    },
    /// Lists a directory.
    Ls {
        /// The image.
        image: PathBuf,
        /// The directory.
        #[arg(default_value = "/")]
        path: String,
    },
    /// Makes a directory.
    Mkdir {
        /// The image.
        image: PathBuf,
        /// The directory.
        path: String,
    },
    /// Copies a file of this host into the volume; runs of zeros become holes.
    Put {
        /// The image.
        image: PathBuf,
        /// The file here.
        file: PathBuf,
        /// The file in the volume.
        path: String,
    },
    /// Copies a file out of the volume; holes stay holes.
    Get {
        /// The image.
        image: PathBuf,
        /// The file in the volume.
        path: String,
        /// The file here.
        file: PathBuf,
    },
    /// Moves a file or directory to another name.
    Mv {
        /// The image.
        image: PathBuf,
        /// What there is.
        from: String,
        /// What it shall be.
        to: String,
    },
    /// Removes a file, or a directory that is empty.
    Rm {
        /// The image.
        image: PathBuf,
        /// What to remove.
        path: String,
    },
    /// Makes a volume larger.
    Grow(make::Grow),
    /// Checks a volume; 1 if something is wrong, 2 if it cannot be checked.
    Fsck(check::Fsck),
    /// Shows a unit of metadata.
    Dump {
        /// The image.
        image: PathBuf,
        /// The unit's address: byte address in the volume / 4096.
        address: u64,
    },
    /// Measures a volume in an image beside another file system.
    #[command(hide = true)]
    Bench(bench::Bench),
    /// Shows the hosts' slots and the locks that they hold.
    LockStatus {
        /// The image.
        image: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut output = Output::new(arguments.json);
    match run(arguments, &mut output) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments, output: &mut Output) -> anyhow::Result<ExitCode> {
    let members = &arguments.members;
    match arguments.command {
        Command::Mkfs(options) => make::mkfs(&options, output)?,
        Command::Info { image } => inspect::info(&image, members, output)?,
        Command::Ls { image, path } => files::ls(&image, members, &path, output)?,
        Command::Mkdir { image, path } => files::mkdir(&image, members, &path)?,
        Command::Put { image, file, path } => files::put(&image, members, &file, &path, output)?,
        Command::Get { image, path, file } => files::get(&image, members, &path, &file, output)?,
        Command::Mv { image, from, to } => files::mv(&image, members, &from, &to)?,
        Command::Rm { image, path } => files::rm(&image, members, &path)?,
        Command::Grow(options) => make::grow(&options, members, output)?,
        Command::Fsck(options) => return check::fsck(&options, members, output),
        Command::Dump { image, address } => inspect::dump(&image, members, address, output)?,
        Command::Bench(options) => bench::bench(&options)?,
        Command::LockStatus { image } => inspect::lock_status(&image, members, output)?,
    }
    Ok(ExitCode::SUCCESS)
}
