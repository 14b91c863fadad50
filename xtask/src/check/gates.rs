//! Two gates for what a kernel is made of: nothing that needs `std`, nothing that needs a C library.
//!
//! That a crate says `#![no_std]` proves nothing about its dependencies, so they are all built against a toolchain
//! that has no `std` to link. The `libc` crate passes that (it is `no_std` itself), so it has a gate of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::check::layers::Layers;
use crate::check::metadata;
use crate::workspace::{FREESTANDING_TARGET, Workspace};

/// What a freestanding program may take from the toolchain.
const LIBRARIES: [&str; 3] = ["core", "alloc", "compiler_builtins"];
/// The layer whose crates run on an ordinary host.
const HOST: &str = "host";
/// The crate that binds the C library.
const C_LIBRARY: &str = "libc";

/// Checks every crate below `host`, and all it uses, against the small toolchain.
pub(crate) fn no_std(workspace: &Workspace) -> Result<()> {
    let sysroot = small_sysroot(workspace)?;
    let flags = format!(
        "target.{FREESTANDING_TARGET}.rustflags=[\"--sysroot\",{:?},\"-Cpanic=abort\"]",
        sysroot.to_string_lossy()
    );
    let mut cargo = workspace.cargo();
    cargo
        .args(["check", "--quiet", "--config", &flags])
        .args(["--target", FREESTANDING_TARGET, "--target-dir"])
        .arg(workspace.target().join("no-std-check"));
    for name in freestanding(workspace)? {
        cargo.args(["--package", &name]);
    }
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "a crate below host needs std:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Checks that no crate below `host` brings the C library.
pub(crate) fn no_libc(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["tree", "--edges", "normal", "--prefix", "none"]);
    cargo.args(["--format", "{p}", "--target", FREESTANDING_TARGET]);
    for name in freestanding(workspace)? {
        cargo.args(["--package", &name]);
    }
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8_lossy(&output.stdout);
    let found = tree
        .lines()
        .any(|line| line.split_whitespace().next() == Some(C_LIBRARY));
    ensure!(
        !found,
        "the kernel's dependencies bring {C_LIBRARY}; `cargo tree -i {C_LIBRARY} -e normal` says which"
    );
    Ok(())
}

/// Crates that a freestanding image is made of.
fn freestanding(workspace: &Workspace) -> Result<Vec<String>> {
    let layers = Layers::read(workspace)?;
    let crates = metadata::crates(workspace)?.into_iter();
    let names = crates.map(|member| member.name);
    Ok(names.filter(|name| layers.of(name) != Some(HOST)).collect())
}

/// Makes a toolchain's library folder with nothing in it but `LIBRARIES`.
fn small_sysroot(workspace: &Workspace) -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("cannot run rustc")?;
    let real = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let part = Path::new("lib/rustlib")
        .join(FREESTANDING_TARGET)
        .join("lib");
    let small = workspace.target().join("small-sysroot");
    let to = small.join(&part);
    // Another toolchain may have left its files there.
    if to.exists() {
        fs::remove_dir_all(&to).with_context(|| format!("cannot empty {}", to.display()))?;
    }
    fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
    let from = real.join(&part);
    let entries = fs::read_dir(&from).with_context(|| format!("cannot list {}", from.display()))?;
    let mut copied = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = |library: &str| name.starts_with(&format!("lib{library}-"));
        if LIBRARIES.iter().any(|library| wanted(library)) {
            fs::copy(entry.path(), to.join(&name))
                .with_context(|| format!("cannot copy {name}"))?;
            copied += 1;
        }
    }
    ensure!(
        copied >= LIBRARIES.len(),
        "{} has no core, alloc and compiler_builtins",
        from.display()
    );
    Ok(small)
}
