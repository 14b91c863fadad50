//! What xtask needs of the machine it runs on, and how it gets there: Debian's packages.
//!
//! Installing needs root, by being it or by a sudo that asks nothing; without either the caller is told one line to
//! paste. Files that are only read (a kernel, a static busybox) are taken out of downloaded packages instead, which
//! needs no rights at all.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::say;

/// Something that must be there, and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// The name of a program on the path, or a file's full path.
    what: &'static str,
    package: &'static str,
}

impl Need {
    /// A program that must be on the path.
    pub(crate) const fn program(what: &'static str, package: &'static str) -> Self {
        Self { what, package }
    }

    /// A file, by its full path.
    pub(crate) const fn file(what: &'static str, package: &'static str) -> Self {
        Self { what, package }
    }

    fn is_met(&self) -> bool {
        if self.what.starts_with('/') {
            Path::new(self.what).exists()
        } else {
            on_path(self.what)
        }
    }
}

/// The emulator.
pub(crate) const QEMU: Need = Need::program("qemu-system-x86_64", "qemu-system-x86");
/// UEFI firmware for it.
pub(crate) const OVMF: Need = Need::file("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");

/// Whether a program of that name is on the path.
pub(crate) fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Makes sure that all of it is there, by installing packages if need be.
pub(crate) fn ensure_installed(needs: &[Need]) -> Result<()> {
    let mut packages: Vec<&str> = needs
        .iter()
        .filter(|need| !need.is_met())
        .map(|need| need.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!(
        "sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    let Some(root) = Root::find() else {
        bail!("some programs are missing; install them with\n  {line}");
    };
    say(&format!("installing {}", packages.join(" ")));
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(&packages);
    // A machine that has never asked for packages, or long ago, has to learn first what there is.
    if !root.apt_get(&arguments)? {
        root.apt_get(&["update", "--quiet"])?;
        ensure!(
            root.apt_get(&arguments)?,
            "apt-get could not install them; try\n  {line}"
        );
    }
    match needs.iter().find(|need| !need.is_met()) {
        None => Ok(()),
        Some(Need { what, package }) => {
            bail!("the package {package} is installed and {what} is still missing")
        }
    }
}

/// A way to run apt-get as root.
#[derive(Debug, Clone, Copy)]
enum Root {
    /// We are root.
    Direct,
    /// By sudo, which asks for no password.
    Sudo,
}

impl Root {
    fn find() -> Option<Self> {
        if !on_path("apt-get") {
            return None;
        }
        let id = Command::new("id").arg("-u").output().ok()?;
        if id.stdout.trim_ascii() == b"0" {
            return Some(Self::Direct);
        }
        let sudo = Command::new("sudo")
            .args(["-n", "true"])
            .stderr(Stdio::null())
            .status()
            .ok()?;
        sudo.success().then_some(Self::Sudo)
    }

    fn apt_get(self, arguments: &[&str]) -> Result<bool> {
        let mut command = match self {
            Self::Direct => Command::new("env"),
            Self::Sudo => Command::new("sudo"),
        };
        if let Self::Sudo = self {
            command.args(["-n", "env"]);
        }
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(arguments);
        let status = command
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .status()
            .context("cannot run apt-get")?;
        Ok(status.success())
    }
}

/// Downloads a package and takes one file out of it, the first that matches a shell pattern.
pub(crate) fn extract(package: &str, pattern: &str, scratch: &Path) -> Result<PathBuf> {
    if !download(package, scratch)? {
        if let Some(root) = Root::find() {
            root.apt_get(&["update", "--quiet"])?;
        }
        ensure!(
            download(package, scratch)?,
            "apt-get cannot download {package}"
        );
    }
    let archive =
        first_match(scratch, |name| name.ends_with(".deb"))?.context("apt-get left no package")?;
    let mut unpack = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let files = unpack.stdout.take().context("dpkg-deb has no output")?;
    let status = Command::new("tar")
        .args([
            "--extract",
            "--no-same-owner",
            "--wildcards",
            "--transform=s,.*/,,",
            pattern,
        ])
        .current_dir(scratch)
        .stdin(files)
        .status()
        .context("cannot run tar")?;
    unpack.wait().context("cannot wait for dpkg-deb")?;
    ensure!(status.success(), "{package} has no file {pattern}");
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    first_match(scratch, |_| true)?.with_context(|| format!("{package} has no file {pattern}"))
}

fn download(package: &str, directory: &Path) -> Result<bool> {
    let status = Command::new("apt-get")
        // As root apt would give up its rights and then find that it cannot write here.
        .args([
            "--quiet",
            "--option",
            "APT::Sandbox::User=root",
            "download",
            package,
        ])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .context("cannot run apt-get")?;
    Ok(status.success())
}

fn first_match(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found.into_iter().next())
}

/// The package that a meta package stands for: the first of its dependencies that starts with `prefix`.
pub(crate) fn dependency(package: &str, prefix: &str) -> Result<String> {
    let list = || {
        Command::new("apt-cache")
            .args(["depends", package])
            .output()
            .context("cannot run apt-cache")
    };
    let first = |output: &[u8]| first_dependency(&String::from_utf8_lossy(output), prefix);
    if let Some(name) = first(&list()?.stdout) {
        return Ok(name);
    }
    if let Some(root) = Root::find() {
        root.apt_get(&["update", "--quiet"])?;
    }
    first(&list()?.stdout)
        .with_context(|| format!("apt knows no {prefix}* that {package} depends on"))
}

fn first_dependency(list: &str, prefix: &str) -> Option<String> {
    list.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_names_the_real_one() {
        let list = "linux-image-amd64\n  Depends: libfoo\n  Depends: linux-image-6.1.0-9-amd64\n  Suggests: linux-image-x\n";
        assert_eq!(
            first_dependency(list, "linux-image-").as_deref(),
            Some("linux-image-6.1.0-9-amd64")
        );
        assert_eq!(first_dependency("", "linux-image-"), None);
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-anywhere"));
    }
}
