//! What a VM is defined by, and its TOML form.
//!
//! A definition that exists has been checked: names, limits, keys that exclude each other. What only a host can know
//! (whether the files exist, whether the memory is there) is checked when the VM starts.

use crate::cpu_time::CpuTime;
use crate::units::{MemorySize, UnitError};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Virtual CPUs of a VM at most.
pub const CPUS_MAX: u32 = 64;
/// RAM of a VM at least.
pub const MEMORY_MIN: MemorySize = MemorySize::from_bytes(1 << 20);
/// RAM of a VM at most.
pub const MEMORY_MAX: MemorySize = MemorySize::from_bytes(16 << 40);
/// RAM of a VM that was created without saying.
pub(crate) const MEMORY_DEFAULT: MemorySize = MemorySize::from_bytes(256 << 20);
/// Bytes of a guest's command line at most: Linux takes 2048 with the final zero (its `COMMAND_LINE_SIZE`).
pub const CMDLINE_LEN_MAX: usize = 2047;
/// Bytes of a name.
const NAME_LEN_MAX: usize = 63;
/// Bytes of a file's name.
const PATH_LEN_MAX: usize = 255;
/// Bytes of a description.
const DESCRIPTION_LEN_MAX: usize = 200;
/// Modules of a VM.
const MODULES_MAX: usize = 16;
/// RAM comes in pages.
const PAGE_SIZE: u64 = 4096;

/// Why a definition is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Not TOML, an unknown key, a value of the wrong kind; the text says where.
    #[error("{0}")]
    Syntax(String),
    /// Not UTF-8.
    #[error("a definition is UTF-8 text")]
    NotText,
    /// Not a name.
    #[error(
        "a name is 1 to 63 of the characters a-z 0-9 - _ . and starts with a letter or a digit"
    )]
    Name,
    /// Too few or too many virtual CPUs.
    #[error("cpus = {0}: a VM has 1 to {CPUS_MAX}")]
    Cpus(u32),
    /// Too little or too much memory.
    #[error("memory = \"{0}\": a VM has {MEMORY_MIN} to {MEMORY_MAX}")]
    Memory(MemorySize),
    /// Memory that is no whole number of pages.
    #[error("memory = \"{0}\": it must be a multiple of 4K")]
    MemoryPages(MemorySize),
    /// A file name that cannot be one.
    #[error("{key}: a file name is 1 to {PATH_LEN_MAX} printable characters")]
    Path {
        /// The key that holds it.
        key: &'static str,
    },
    /// A text too long, or with line ends in it.
    #[error("{key}: at most {max} characters, none of them a control character")]
    Text {
        /// The key that holds it.
        key: &'static str,
        /// Bytes allowed.
        max: usize,
    },
    /// More modules than a boot information holds.
    #[error("modules: {0} are too many, {MODULES_MAX} are allowed")]
    Modules(usize),
    /// Both kinds of further files.
    #[error(
        "initrd and modules exclude each other: an initrd is Linux', modules are Multiboot's; remove one of them"
    )]
    InitrdAndModules,
    /// Test devices outside run-guest mode.
    #[error("test_devices are for guests that are run as tests; remove the key")]
    TestDevices,
}

/// What the host is there for, as far as definitions depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Several VMs under a shell.
    Shell,
    /// One guest under test.
    RunGuest,
}

/// The name of a VM: 1 to 63 of `a-z 0-9 - _ .`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, DefinitionError> {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let first_good = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if first_good && name.len() <= NAME_LEN_MAX && name.bytes().all(good) {
            Ok(Self(name.to_string()))
        } else {
            Err(DefinitionError::Name)
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for VmName {
    type Error = DefinitionError;

    fn try_from(name: String) -> Result<Self, DefinitionError> {
        Self::new(&name)
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

/// Where a VM's first serial port goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SerialTarget {
    /// To the VM's console, which `vm console` attaches to.
    #[default]
    Console,
    /// Nowhere.
    None,
}

/// A checked definition. Files are names in the boot archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmDefinition {
    /// Unique on its host.
    pub name: VmName,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// RAM, `MEMORY_MIN..=MEMORY_MAX`, whole pages.
    pub memory: MemorySize,
    /// Virtual CPUs, `1..=CPUS_MAX`.
    #[serde(default = "one_cpu")]
    pub cpus: u32,
    /// What is loaded and entered.
    pub kernel: String,
    /// Linux' initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Multiboot modules, in order; excludes `initrd`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// The kernel's command line, at most `CMDLINE_LEN_MAX` bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
    /// Whether it starts with the host.
    #[serde(default)]
    pub autostart: bool,
    /// Where COM1 goes.
    #[serde(default)]
    pub serial: SerialTarget,
    /// Whether it has the devices that tests drive; in run-guest mode only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub test_devices: bool,
    /// What CPU time it is to get. A table, so it stands last.
    #[serde(default, skip_serializing_if = "CpuTime::is_default")]
    pub cpu: CpuTime,
}

impl VmDefinition {
    /// Creates a definition with one CPU and 256 MiB.
    #[must_use]
    pub fn new(name: VmName, kernel: &str) -> Self {
        Self {
            name,
            description: String::new(),
            memory: MEMORY_DEFAULT,
            cpus: one_cpu(),
            kernel: kernel.to_string(),
            initrd: None,
            modules: Vec::new(),
            cmdline: String::new(),
            autostart: false,
            serial: SerialTarget::Console,
            test_devices: false,
            cpu: CpuTime::default(),
        }
    }

    /// Reads and checks a definition; the error says which line is wrong.
    pub fn from_toml(text: &[u8], mode: Mode) -> Result<Self, DefinitionError> {
        let text = core::str::from_utf8(text).map_err(|_| DefinitionError::NotText)?;
        let definition: Self = toml::from_str(text)
            .map_err(|error| DefinitionError::Syntax(error.to_string().trim_end().to_string()))?;
        definition.check(mode)?;
        Ok(definition)
    }

    /// Writes the definition as `from_toml` reads it.
    pub fn to_toml(&self) -> Result<String, DefinitionError> {
        toml::to_string(self).map_err(|error| DefinitionError::Syntax(error.to_string()))
    }

    /// Checks limits, and keys against each other.
    pub fn check(&self, mode: Mode) -> Result<(), DefinitionError> {
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(DefinitionError::Cpus(self.cpus));
        }
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&self.memory) {
            return Err(DefinitionError::Memory(self.memory));
        }
        if !self.memory.bytes().is_multiple_of(PAGE_SIZE) {
            return Err(DefinitionError::MemoryPages(self.memory));
        }
        check_path("kernel", &self.kernel)?;
        if let Some(initrd) = &self.initrd {
            check_path("initrd", initrd)?;
        }
        if self.modules.len() > MODULES_MAX {
            return Err(DefinitionError::Modules(self.modules.len()));
        }
        for module in &self.modules {
            check_path("modules", module)?;
        }
        if self.initrd.is_some() && !self.modules.is_empty() {
            return Err(DefinitionError::InitrdAndModules);
        }
        check_text("cmdline", &self.cmdline, CMDLINE_LEN_MAX)?;
        check_text("description", &self.description, DESCRIPTION_LEN_MAX)?;
        if self.test_devices && mode == Mode::Shell {
            return Err(DefinitionError::TestDevices);
        }
        Ok(())
    }
}

impl From<UnitError> for DefinitionError {
    fn from(error: UnitError) -> Self {
        Self::Syntax(error.to_string())
    }
}

fn check_path(key: &'static str, path: &str) -> Result<(), DefinitionError> {
    let good = (1..=PATH_LEN_MAX).contains(&path.len()) && !path.chars().any(char::is_control);
    good.then_some(()).ok_or(DefinitionError::Path { key })
}

fn check_text(key: &'static str, text: &str, max: usize) -> Result<(), DefinitionError> {
    let good = text.len() <= max && !text.chars().any(char::is_control);
    good.then_some(()).ok_or(DefinitionError::Text { key, max })
}

fn one_cpu() -> u32 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests;
