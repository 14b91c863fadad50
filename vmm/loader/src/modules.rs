//! Files that travel beside a kernel: the initrd and modules, for the protocols that have a list of them.

use crate::Request;
use crate::arena::Arena;
use crate::error::LoadError;
use alloc::vec::Vec;

/// A module in guest memory.
pub(crate) struct PlacedModule<'a> {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) command_line: &'a str,
}

/// Copies the initrd, as the first module, and all modules to pages directly above the kernel.
pub(crate) fn place_modules<'a>(
    arena: &mut Arena<'_>,
    request: &Request<'a>,
) -> Result<Vec<PlacedModule<'a>>, LoadError> {
    let initrd = request.initrd.map(|data| ("the initrd", "", data));
    let modules = request.modules.iter();
    let modules = modules.map(|m| ("a module", m.command_line, m.data));
    initrd
        .into_iter()
        .chain(modules)
        .map(|(what, command_line, data)| {
            let size = data.len() as u64;
            let start = arena.place_up(what, size)?;
            arena.write(start, data)?;
            Ok(PlacedModule {
                start,
                size,
                command_line,
            })
        })
        .collect()
}
