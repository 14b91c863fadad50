//! A virtual machine's definition as xtask writes it into the boot archive.
//!
//! The kernel reads and checks such files; this side only writes them, and checks nothing.

use serde::Serialize;

/// The keys of `vms/NAME.toml`. Paths are names of the boot archive.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct VmDefinition {
    /// Unique name.
    pub(crate) name: String,
    /// One line for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    /// Guest RAM with a unit, as in "512M".
    pub(crate) memory: String,
    /// Number of virtual CPUs.
    pub(crate) cpus: u32,
    /// What is loaded and entered.
    pub(crate) kernel: String,
    /// Linux' initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initrd: Option<String>,
    /// Multiboot1 modules, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) modules: Vec<String>,
    /// The kernel's command line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cmdline: String,
    /// Whether it starts with the host.
    pub(crate) autostart: bool,
    /// Where COM1 goes.
    pub(crate) serial: String,
    /// Whether it has the test devices; accepted in run-guest mode only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) test_devices: bool,
}
