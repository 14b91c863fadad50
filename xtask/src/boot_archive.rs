//! The one boot module that Basalt takes: a cpio archive of VM definitions and the files they name.
//!
//! What belongs into it is the caller's choice: this only gives it its shape.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Cpio;
use crate::vm_definition::VmDefinition;

/// An archive being filled.
#[derive(Debug)]
pub(crate) struct BootArchive {
    archive: Cpio,
}

impl BootArchive {
    /// Starts an archive with its two folders.
    pub(crate) fn new() -> Result<Self> {
        let mut archive = Cpio::new();
        archive.directory("vms")?;
        archive.directory("images")?;
        Ok(Self { archive })
    }

    /// Adds a file under `images/`; returns the name that definitions use for it.
    pub(crate) fn image(&mut self, name: &str, content: &[u8]) -> Result<String> {
        let path = format!("images/{name}");
        self.archive.file(&path, 0o644, content)?;
        Ok(path)
    }

    /// Adds a file from disk under `images/`; returns the name that definitions use for it.
    pub(crate) fn image_from(&mut self, name: &str, path: &Path) -> Result<String> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.image(name, &content)
    }

    /// Adds a VM that the shell lists.
    pub(crate) fn vm(&mut self, definition: &VmDefinition) -> Result<()> {
        let text = toml::to_string(definition).context("cannot write a VM definition")?;
        self.archive.file(
            &format!("vms/{}.toml", definition.name),
            0o644,
            text.as_bytes(),
        )
    }

    /// Adds the VM of run-guest mode.
    pub(crate) fn run(&mut self, definition: &VmDefinition) -> Result<()> {
        let text = toml::to_string(definition).context("cannot write a VM definition")?;
        self.archive.file("run.toml", 0o644, text.as_bytes())
    }

    /// Ends the archive and returns its bytes.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        self.archive.finish()
    }
}
