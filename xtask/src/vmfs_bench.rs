//! The suite `vmfs`: a volume in a file in memory beside ext4 on another one, through the kernel's loop device.
//!
//! Wall-clock figures are ratios of our time to theirs, best of several rounds that alternate; requests repeat to the
//! digit. Where ext4 cannot be mounted, which needs root, what is compared with it is left out. What is done stands in vmfs/tool/src/bench.rs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::figures::{Figure, Limits};
use crate::workspace::{Workspace, say};

/// Where files in memory are.
const MEMORY: &str = "/dev/shm";
/// Bytes of the file that ext4 gets.
const EXT4_BYTES: u64 = 4 << 30;

/// Measures the suite.
pub(crate) fn measure(workspace: &Workspace, limits: &Limits) -> Result<Vec<Figure>> {
    run(Command::new("cargo")
        .args(["build", "--quiet", "--release", "--package", "vmfs_tool"])
        .current_dir(workspace.root()))?;
    let folder = tempfile::tempdir_in(MEMORY).context("no room in memory")?;
    let beside = folder.path().join("beside");
    let image = folder.path().join("volume");
    let mounted = mount_ext4(folder.path(), &beside);
    if let Err(reason) = &mounted {
        say(&format!("nothing is compared with ext4: {reason:#}"));
    }
    let measured = bench(workspace, &image, mounted.is_ok().then_some(&beside));
    if mounted.is_ok() {
        run(Command::new("umount").arg(&beside))?;
    }
    let measured = measured?;
    let figures = measured.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("bench ")?.split_once(' ')?;
        let unit = match name {
            _ if name.contains("requests") => "requests",
            _ if name.contains("_ms_") => "ms",
            _ if name.starts_with("overhead") => "per mille",
            "seq_read" | "seq_write" | "random_read" | "random_write" => "x raw time",
            _ => "x ext4 time",
        };
        Some(limits.figure("vmfs", name, value.parse().ok()?, unit))
    });
    Ok(figures.collect())
}

/// Makes an ext4 in `folder` and mounts it at `beside`.
fn mount_ext4(folder: &Path, beside: &Path) -> Result<()> {
    let ext4 = folder.join("ext4");
    std::fs::create_dir(beside)?;
    std::fs::File::create(&ext4)?.set_len(EXT4_BYTES)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(&ext4))?;
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(&ext4)
        .arg(beside))
}

fn bench(workspace: &Workspace, image: &Path, beside: Option<&PathBuf>) -> Result<String> {
    let mut command = Command::new(workspace.target().join("release/vmfs_tool"));
    command.arg("bench").arg(image);
    if let Some(beside) = beside {
        command.arg("--beside").arg(beside);
    }
    let output = command.output().context("cannot run vmfs_tool")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "vmfs_tool: {errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        status.success(),
        "{program} failed; it needs root and a loop device"
    );
    Ok(())
}
