//! Where things are: the source tree, the target directory and the files that xtask leaves there.
//!
//! Nothing here builds anything; a path being returned does not mean that the file exists.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The target of every freestanding build. It equals the host's triple and is named all the same: only then does
/// cargo keep the kernel's flags away from build scripts and procedural macros.
pub(crate) const FREESTANDING_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The source tree and the target directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the tree that this xtask was built from, and creates its target directory.
    pub(crate) fn locate() -> Result<Self> {
        // Under `cargo run` the variable names the crate; a copied binary falls back to where it was built.
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest)
            .parent()
            .context("xtask's folder has no parent")?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => root.join(directory),
            None => root.join("target"),
        };
        fs::create_dir_all(&target)
            .with_context(|| format!("cannot create {}", target.display()))?;
        Ok(Self { root, target })
    }

    /// The source tree.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that everything generated goes to.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The image that is shipped and booted.
    pub(crate) fn basalt_elf(&self) -> PathBuf {
        self.target.join("basalt.elf")
    }

    /// The same image with symbols and line tables, for a debugger.
    pub(crate) fn basalt_debug_elf(&self) -> PathBuf {
        self.target.join("basalt.debug.elf")
    }

    /// Where guests are kept, our own and Debian's.
    pub(crate) fn guests(&self) -> PathBuf {
        self.target.join("guests")
    }

    /// A `cargo` command in the root folder, free of flags in the environment that would replace those of a
    /// freestanding build.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        for variable in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// An empty file without a name: it vanishes with the last process that holds it, however that ends.
    pub(crate) fn unnamed_file(&self) -> Result<fs::File> {
        tempfile::tempfile_in(&self.target).with_context(|| {
            format!(
                "cannot create a temporary file in {}",
                self.target.display()
            )
        })
    }

    /// Builds `package`, which links with the flags of its own file `flags`, into `directory` of the target folder;
    /// returns the folder of what was linked.
    pub(crate) fn build_freestanding(
        &self,
        package: &str,
        flags: &str,
        directory: &str,
    ) -> Result<PathBuf> {
        let directory = self.target().join(directory);
        let mut cargo = self.cargo();
        cargo.args(["build", "--quiet", "--release", "--package", package]);
        cargo.args(["--config", flags, "--target", FREESTANDING_TARGET]);
        let status = cargo.arg("--target-dir").arg(&directory).status();
        let status = status.context("cannot run cargo")?;
        ensure!(status.success(), "{package} does not build");
        Ok(directory.join(FREESTANDING_TARGET).join("release"))
    }
}

/// Replaces `path` in one step, so that a concurrent reader sees the old content or the new one.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let directory = path.parent().context("a file has a folder")?;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(directory)?;
        std::io::Write::write_all(&mut file, content)?;
        let mut permissions = file.as_file().metadata()?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        file.as_file().set_permissions(permissions)?;
        file.persist(path).map_err(|failed| failed.error)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Says on stderr what is going on; stdout belongs to results.
pub(crate) fn say(message: &str) {
    eprintln!("xtask: {message}");
}
