//! The commands on datastores.

use super::{Argument, Arity, CommandSpec, Kind, flag, optional, plain};
use crate::datastore as build;

const fn argument(name: &'static str, kind: Kind) -> Argument {
    Argument {
        name,
        kind,
        arity: Arity::One,
    }
}

const fn on(
    words: &'static [&'static str],
    arguments: &'static [Argument],
    summary: &'static str,
    notes: &'static str,
    build: crate::command::Build,
) -> CommandSpec {
    CommandSpec {
        words,
        arguments,
        options: &[],
        summary,
        notes,
        build,
    }
}

const ONE_NAME: &[Argument] = &[argument("NAME", Kind::Datastore)];
const ONE_PATH: &[Argument] = &[argument("DATASTORE:PATH", Kind::StorePath)];
const TWO_PATHS: &[Argument] = &[
    argument("DATASTORE:FROM", Kind::StorePath),
    argument("DATASTORE:TO", Kind::StorePath),
];

pub(super) const LIST: CommandSpec = plain(
    &["datastore", "list"],
    "list the datastores that are mounted",
    build::build_list,
);
pub(super) const INFO: CommandSpec = on(
    &["datastore", "info"],
    ONE_NAME,
    "show all about a datastore",
    "",
    build::build_info,
);
pub(super) const CREATE: CommandSpec = CommandSpec {
    words: &["datastore", "create"],
    arguments: &[
        argument("NAME", Kind::Text),
        argument("DEVICE", Kind::Device),
    ],
    options: &[
        flag("force", "overwrite what is on the device"),
        flag("shared", "other hosts will mount it as well"),
    ],
    summary: "make a datastore on a device or partition",
    notes: "A device on which something is found is refused, unless --force is given. What is overwritten is lost.",
    build: build::build_create,
};
pub(super) const LS: CommandSpec = on(
    &["datastore", "ls"],
    ONE_PATH,
    "list a directory",
    "`boot:` is the archive that came with the kernel.",
    build::build_ls,
);
pub(super) const MKDIR: CommandSpec = on(
    &["datastore", "mkdir"],
    ONE_PATH,
    "make a directory",
    "",
    build::build_mkdir,
);
pub(super) const CP: CommandSpec = on(
    &["datastore", "cp"],
    TWO_PATHS,
    "copy a file; it is durable when the prompt is back",
    "Files of the boot archive can be copied from `boot:`.",
    build::build_cp,
);
pub(super) const MV: CommandSpec = on(
    &["datastore", "mv"],
    TWO_PATHS,
    "move a file or directory within its datastore",
    "",
    build::build_mv,
);
pub(super) const RM: CommandSpec = on(
    &["datastore", "rm"],
    ONE_PATH,
    "remove a file or an empty directory",
    "",
    build::build_rm,
);
pub(super) const CHECK: CommandSpec = on(
    &["datastore", "check"],
    ONE_NAME,
    "look for damage",
    "Only looks. It reads all metadata; the datastore stays mounted, and waits meanwhile.",
    build::build_check,
);
pub(super) const TEST: CommandSpec = CommandSpec {
    words: &["datastore", "test"],
    arguments: ONE_PATH,
    options: &[optional(
        "records",
        "N",
        Kind::Text,
        "how many; 100 if not given",
    )],
    summary: "append numbered records, each durable before it is told",
    notes: "For tests of devices: after a power failure, every record that was told must be in the file.",
    build: build::build_test,
};
