//! The workspace's crates as cargo knows them: where they are and which of each other they use.
//!
//! Crates from a registry are left out: what they may be stands in docs/dependencies.md.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::workspace::Workspace;

/// A crate of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Crate {
    /// Its name.
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) folder: PathBuf,
    /// Crates of the workspace that it uses outside tests.
    pub(crate) uses: Vec<String>,
}

impl Crate {
    /// Its area: the first part of its folder.
    pub(crate) fn area(&self) -> String {
        let first = self.folder.components().next();
        first.map_or_else(String::new, |part| {
            part.as_os_str().to_string_lossy().into_owned()
        })
    }
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `None` for an ordinary one, else "dev" or "build".
    kind: Option<String>,
    /// Set for a crate of the workspace.
    path: Option<String>,
}

/// Asks cargo for all crates of the workspace.
pub(crate) fn crates(workspace: &Workspace) -> Result<Vec<Crate>> {
    let output = workspace
        .cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo's metadata has changed its form")?;
    let in_workspace = |package: Package| -> Result<Crate> {
        let manifest = Path::new(&package.manifest_path);
        let folder = manifest.parent().context("a file has a folder")?;
        let folder = folder
            .strip_prefix(workspace.root())
            .with_context(|| format!("{} lies outside the source tree", folder.display()))?;
        let own = package
            .dependencies
            .iter()
            .filter(|used| used.path.is_some() && used.kind.as_deref() != Some("dev"));
        Ok(Crate {
            name: package.name.clone(),
            folder: folder.to_path_buf(),
            uses: own.map(|used| used.name.clone()).collect(),
        })
    };
    metadata.packages.into_iter().map(in_workspace).collect()
}
