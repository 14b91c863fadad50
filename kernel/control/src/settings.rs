//! Changes to a definition, one `KEY=VALUE` each.

use crate::cpu_time::{CpuAmount, CpuShares, PoolTime};
use crate::definition::{DefinitionError, Mode, SerialTarget, VmDefinition, VmName};
use crate::error::CommandError;
use crate::suggest::nearest;
use crate::units::MemorySize;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Keys that `vm set` takes; the name stays what it is.
pub(crate) const KEYS: [&str; 13] = [
    "autostart",
    "cmdline",
    "cpu.limit",
    "cpu.pool",
    "cpu.reservation",
    "cpu.shares",
    "cpus",
    "description",
    "initrd",
    "kernel",
    "memory",
    "modules",
    "serial",
];

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Whether the VM starts with the host.
    Autostart(bool),
    /// The kernel's command line.
    Cmdline(String),
    /// Number of virtual CPUs.
    Cpus(u32),
    /// CPU time that it never exceeds.
    CpuLimit(Option<CpuAmount>),
    /// The pool that it is in.
    CpuPool(Option<VmName>),
    /// CPU time that it is guaranteed.
    CpuReservation(Option<CpuAmount>),
    /// Weight in the division of CPU time.
    CpuShares(CpuShares),
    /// One line for people.
    Description(String),
    /// Linux' initial RAM disk.
    Initrd(Option<String>),
    /// What is loaded and entered.
    Kernel(String),
    /// RAM.
    Memory(MemorySize),
    /// Multiboot modules.
    Modules(Vec<String>),
    /// Where COM1 goes.
    Serial(SerialTarget),
}

impl Setting {
    /// Reads `KEY=VALUE`; an empty value clears what may be empty, modules are separated by commas.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(bad("a setting", text, "write it as KEY=VALUE"));
        };
        let given = !value.is_empty();
        Ok(match key {
            "autostart" => Self::Autostart(parse_bool("autostart", value)?),
            "cmdline" => Self::Cmdline(value.to_string()),
            "cpu.limit" => Self::CpuLimit(parse_amount("cpu.limit", value)?),
            "cpu.pool" => Self::CpuPool(parse_pool(value)?),
            "cpu.reservation" => Self::CpuReservation(parse_amount("cpu.reservation", value)?),
            "cpu.shares" => Self::CpuShares(parse_shares("cpu.shares", value)?),
            "cpus" => Self::Cpus(parse_number("cpus", value)?),
            "description" => Self::Description(value.to_string()),
            "initrd" => Self::Initrd(given.then(|| value.to_string())),
            "kernel" => Self::Kernel(value.to_string()),
            "memory" => Self::Memory(parse_memory("memory", value)?),
            "modules" => {
                let files = value.split(',').filter(|file| !file.is_empty());
                Self::Modules(files.map(ToString::to_string).collect())
            }
            "serial" => Self::Serial(parse_serial(value)?),
            _ => {
                return Err(CommandError::UnknownSetting {
                    key: key.to_string(),
                    suggestion: nearest(key, KEYS.into_iter()).map(ToString::to_string),
                    known: KEYS.join(", "),
                });
            }
        })
    }

    fn apply(&self, definition: &mut VmDefinition) {
        match self {
            Self::Autostart(on) => definition.autostart = *on,
            Self::Cmdline(text) => definition.cmdline.clone_from(text),
            Self::Cpus(count) => definition.cpus = *count,
            Self::CpuLimit(limit) => definition.cpu.limit = *limit,
            Self::CpuPool(pool) => definition.cpu.pool.clone_from(pool),
            Self::CpuReservation(amount) => definition.cpu.reservation = *amount,
            Self::CpuShares(shares) => definition.cpu.shares = *shares,
            Self::Description(text) => definition.description.clone_from(text),
            Self::Initrd(file) => definition.initrd.clone_from(file),
            Self::Kernel(file) => definition.kernel.clone_from(file),
            Self::Memory(size) => definition.memory = *size,
            Self::Modules(files) => definition.modules.clone_from(files),
            Self::Serial(target) => definition.serial = *target,
        }
    }
}

impl Setting {
    /// Tells whether a running VM has it at once.
    #[must_use]
    pub const fn is_immediate(&self) -> bool {
        matches!(
            self,
            Self::CpuLimit(_)
                | Self::CpuPool(_)
                | Self::CpuReservation(_)
                | Self::CpuShares(_)
                | Self::Description(_)
                | Self::Autostart(_)
        )
    }
}

/// Keys that `sched pool set` takes.
const POOL_KEYS: &str = "expandable, limit, reservation, shares";

/// One change to a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolSetting {
    /// Weight among its siblings.
    Shares(CpuShares),
    /// CPU time that is guaranteed.
    Reservation(Option<CpuAmount>),
    /// CPU time that is never exceeded.
    Limit(Option<CpuAmount>),
    /// Whether it takes what it lacks from the pool around it.
    Expandable(bool),
}

impl PoolSetting {
    /// Reads `KEY=VALUE`.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(bad("a setting", text, "write it as KEY=VALUE"));
        };
        Ok(match key {
            "shares" => Self::Shares(parse_shares(key, value)?),
            "reservation" => Self::Reservation(parse_amount(key, value)?),
            "limit" => Self::Limit(parse_amount(key, value)?),
            "expandable" => Self::Expandable(parse_bool(key, value)?),
            _ => return Err(bad("a pool's setting", key, POOL_KEYS)),
        })
    }
}

impl PoolTime {
    /// Returns it with all settings applied.
    #[must_use]
    pub fn with(&self, settings: &[PoolSetting]) -> Self {
        let mut changed = self.clone();
        for setting in settings {
            match setting {
                PoolSetting::Shares(shares) => changed.shares = *shares,
                PoolSetting::Reservation(amount) => changed.reservation = *amount,
                PoolSetting::Limit(limit) => changed.limit = *limit,
                PoolSetting::Expandable(on) => changed.expandable = *on,
            }
        }
        changed
    }
}

impl VmDefinition {
    /// Returns the definition with all settings applied, if that makes a good one.
    pub fn with(&self, settings: &[Setting]) -> Result<Self, DefinitionError> {
        let mut changed = self.clone();
        for setting in settings {
            setting.apply(&mut changed);
        }
        changed.check(Mode::Shell)?;
        Ok(changed)
    }
}

pub(crate) fn parse_number(what: &str, value: &str) -> Result<u32, CommandError> {
    value
        .parse()
        .map_err(|_| bad(what, value, "it must be a whole number"))
}

pub(crate) fn parse_memory(what: &str, value: &str) -> Result<MemorySize, CommandError> {
    MemorySize::parse(value).map_err(|error| bad(what, value, &error.to_string()))
}

fn parse_bool(key: &str, value: &str) -> Result<bool, CommandError> {
    match value {
        "yes" | "on" | "true" => Ok(true),
        "no" | "off" | "false" => Ok(false),
        _ => Err(bad(key, value, "it is yes or no")),
    }
}

fn parse_shares(key: &str, value: &str) -> Result<CpuShares, CommandError> {
    CpuShares::parse(value).map_err(|error| bad(key, value, &error.to_string()))
}

fn parse_amount(key: &str, value: &str) -> Result<Option<CpuAmount>, CommandError> {
    CpuAmount::parse_optional(value).map_err(|error| bad(key, value, &error.to_string()))
}

fn parse_pool(value: &str) -> Result<Option<VmName>, CommandError> {
    if value.is_empty() || value == "none" {
        return Ok(None);
    }
    let name = VmName::new(value).map_err(|error| bad("cpu.pool", value, &error.to_string()))?;
    Ok(Some(name))
}

fn parse_serial(value: &str) -> Result<SerialTarget, CommandError> {
    match value {
        "console" => Ok(SerialTarget::Console),
        "none" => Ok(SerialTarget::None),
        _ => Err(bad("serial", value, "it is console or none")),
    }
}

pub(crate) fn bad(what: &str, value: &str, reason: &str) -> CommandError {
    CommandError::BadValue {
        what: what.to_string(),
        value: value.to_string(),
        reason: reason.to_string(),
    }
}
