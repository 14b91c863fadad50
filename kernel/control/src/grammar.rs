//! The table of commands: what each is called, takes and means. Parsing, help and completion read it.
//!
//! How a parsed line becomes a request stands beside `Request`, in `command.rs`.

mod datastore;

use crate::command::{self, Build};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// What an argument or a value stands for; completion offers such words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An existing VM.
    Vm,
    /// A file that a VM can use.
    File,
    /// A mounted datastore.
    Datastore,
    /// A path in a datastore.
    StorePath,
    /// A storage device or partition.
    Device,
    /// A command or a part of one.
    Command,
    /// A level of the log.
    Level,
    /// `KEY=VALUE` of a definition.
    Setting,
    /// Anything else.
    Text,
}

/// How often an argument is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    ZeroOrMore,
    OneOrMore,
}

/// A positional argument.
#[derive(Debug)]
pub(crate) struct Argument {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) arity: Arity,
}

/// An option; its name has no dashes here.
#[derive(Debug)]
pub(crate) struct OptionSpec {
    pub(crate) name: &'static str,
    /// What its value is called, and its kind; `None` for one that is only there or not.
    pub(crate) value: Option<(&'static str, Kind)>,
    pub(crate) required: bool,
    pub(crate) repeated: bool,
    pub(crate) summary: &'static str,
}

/// A command.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    /// One word, or a group (of one or two words) and a word.
    pub(crate) words: &'static [&'static str],
    pub(crate) arguments: &'static [Argument],
    pub(crate) options: &'static [OptionSpec],
    pub(crate) summary: &'static str,
    /// Further paragraphs for `help`.
    pub(crate) notes: &'static str,
    pub(crate) build: Build,
}

impl CommandSpec {
    /// Its words with blanks between.
    pub(crate) fn name(&self) -> String {
        self.words.join(" ")
    }

    /// Its own options and those that every command has.
    pub(crate) fn all_options(&self) -> impl Iterator<Item = &'static OptionSpec> {
        self.options.iter().chain(&GLOBAL_OPTIONS)
    }

    /// One line that shows what it takes.
    pub(crate) fn usage(&self) -> String {
        let mut usage = self.name();
        for argument in self.arguments {
            let name = argument.name;
            let _ = match argument.arity {
                Arity::One => write!(usage, " {name}"),
                Arity::ZeroOrMore => write!(usage, " [{name}..]"),
                Arity::OneOrMore => write!(usage, " {name}.."),
            };
        }
        for option in self.options {
            let written = option.written();
            let dots = if option.repeated { ".." } else { "" };
            let _ = if option.required {
                write!(usage, " {written}{dots}")
            } else {
                write!(usage, " [{written}]{dots}")
            };
        }
        usage
    }
}

impl OptionSpec {
    /// The option with its dashes and the name of its value.
    pub(crate) fn written(&self) -> String {
        match self.value {
            Some((value, _)) => alloc::format!("--{} {value}", self.name),
            None => alloc::format!("--{}", self.name),
        }
    }
}

/// The command that these words name, if they name one.
pub(crate) fn find(words: &[&str]) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|spec| spec.words == words)
}

/// The commands whose words begin with these.
pub(crate) fn group<'a>(prefix: &'a [&str]) -> impl Iterator<Item = &'static CommandSpec> + 'a {
    COMMANDS
        .iter()
        .filter(move |spec| spec.words.starts_with(prefix))
}

/// The words that can follow these in a command's name, each once, in the table's order.
pub(crate) fn following(prefix: &[&str]) -> Vec<&'static str> {
    let mut words: Vec<&str> = group(prefix)
        .filter_map(|spec| spec.words.get(prefix.len()).copied())
        .collect();
    words.dedup();
    words
}

/// All first words, each once, in the table's order.
pub(crate) fn first_words() -> Vec<&'static str> {
    following(&[])
}

pub(crate) const JSON: &str = "json";
pub(crate) const HELP: &str = "help";

const GLOBAL_OPTIONS: [OptionSpec; 2] = [
    flag(JSON, "answer in JSON, for programs"),
    flag(HELP, "show what the command does instead of doing it"),
];

const fn flag(name: &'static str, summary: &'static str) -> OptionSpec {
    OptionSpec {
        name,
        value: None,
        required: false,
        repeated: false,
        summary,
    }
}

const fn optional(
    name: &'static str,
    value: &'static str,
    kind: Kind,
    summary: &'static str,
) -> OptionSpec {
    OptionSpec {
        name,
        value: Some((value, kind)),
        required: false,
        repeated: false,
        summary,
    }
}

const fn plain(words: &'static [&'static str], summary: &'static str, build: Build) -> CommandSpec {
    CommandSpec {
        words,
        arguments: &[],
        options: &[],
        summary,
        notes: "",
        build,
    }
}

const fn on_vm(
    words: &'static [&'static str],
    summary: &'static str,
    notes: &'static str,
    build: Build,
) -> CommandSpec {
    CommandSpec {
        words,
        arguments: &[Argument {
            name: "NAME",
            kind: Kind::Vm,
            arity: Arity::One,
        }],
        options: &[],
        summary,
        notes,
        build,
    }
}

const POOL: Argument = Argument {
    name: "NAME",
    kind: Kind::Text,
    arity: Arity::One,
};
const POOL_AND_SETTINGS: [Argument; 2] = [
    POOL,
    Argument {
        name: "KEY=VALUE",
        kind: Kind::Text,
        arity: Arity::ZeroOrMore,
    },
];
const POOL_NOTES: &str = "Keys are shares (low, normal, high or a number), reservation and limit (40% of one CPU, or \
    1200MHz; none), and expandable (yes or no): whether it takes what is reserved in it beyond its own reservation from \
    the pool around it. `vm set NAME cpu.pool=POOL` puts a VM into it.";

/// All commands, those of a group next to each other.
pub(crate) static COMMANDS: [CommandSpec; 38] = [
    CommandSpec {
        words: &["help"],
        arguments: &[Argument {
            name: "COMMAND",
            kind: Kind::Command,
            arity: Arity::ZeroOrMore,
        }],
        options: &[],
        summary: "show what commands there are, or what one does",
        notes: "Words are separated by blanks; '...' and \"...\" keep blanks in a word, \\ takes the next character as \
            it stands. Tab completes words, arrow keys bring back earlier lines.",
        build: command::build_help,
    },
    CommandSpec {
        words: &["vm", "create"],
        arguments: &[Argument {
            name: "NAME",
            kind: Kind::Text,
            arity: Arity::One,
        }],
        options: &[
            OptionSpec {
                name: "kernel",
                value: Some(("FILE", Kind::File)),
                required: true,
                repeated: false,
                summary: "what to load: a bzImage, an ELF file with a PVH note, or a Multiboot1 file",
            },
            optional(
                "cpus",
                "N",
                Kind::Text,
                "virtual CPUs, 1 to 64; 1 if not given",
            ),
            optional(
                "memory",
                "SIZE",
                Kind::Text,
                "RAM, as in 512M or 2G; 256M if not given",
            ),
            optional("initrd", "FILE", Kind::File, "Linux' initial RAM disk"),
            OptionSpec {
                name: "module",
                value: Some(("FILE", Kind::File)),
                required: false,
                repeated: true,
                summary: "a Multiboot module; not together with an initrd",
            },
            optional("cmdline", "TEXT", Kind::Text, "the kernel's command line"),
            optional("description", "TEXT", Kind::Text, "a line for people"),
        ],
        summary: "define a VM; it does not start yet",
        notes: "A name is made of a-z 0-9 - _ . and starts with a letter or a digit.",
        build: command::build_create,
    },
    plain(&["vm", "list"], "show all VMs", command::build_list),
    on_vm(
        &["vm", "info"],
        "show all about a VM",
        "For a VM that was stopped for a fault, the last stop says why.",
        command::build_info,
    ),
    on_vm(
        &["vm", "stats"],
        "show where a running VM's time went",
        "",
        command::build_stats,
    ),
    on_vm(&["vm", "start"], "start a VM", "", command::build_start),
    on_vm(
        &["vm", "stop"],
        "ask a VM to switch itself off",
        "It presses the power button; a guest that does not listen goes on running, and `vm kill` ends it.",
        command::build_stop,
    ),
    on_vm(
        &["vm", "kill"],
        "end a VM at once",
        "As if its plug was pulled: what the guest has not written is lost.",
        command::build_kill,
    ),
    on_vm(
        &["vm", "pause"],
        "stop a VM's time",
        "",
        command::build_pause,
    ),
    on_vm(
        &["vm", "resume"],
        "let a paused VM go on",
        "",
        command::build_resume,
    ),
    on_vm(
        &["vm", "console"],
        "attach to a VM's console",
        "Shows what the guest wrote last, then goes both ways. Ctrl-] leaves it; the VM runs on.",
        command::build_console,
    ),
    CommandSpec {
        words: &["vm", "set"],
        arguments: &[
            Argument {
                name: "NAME",
                kind: Kind::Vm,
                arity: Arity::One,
            },
            Argument {
                name: "KEY=VALUE",
                kind: Kind::Setting,
                arity: Arity::OneOrMore,
            },
        ],
        options: &[],
        summary: "change a VM's definition",
        notes: "Keys are autostart, cmdline, cpu.limit, cpu.pool, cpu.reservation, cpu.shares, cpus, description, \
            initrd, kernel, memory, modules (separated by commas) and serial. A running VM has those of cpu. at once, \
            the others from its next start on. Shares are low, normal, high or a number; amounts of CPU time are \
            written as 40% (of one CPU) or 1200MHz.",
        build: command::build_set,
    },
    CommandSpec {
        words: &["vm", "writes"],
        arguments: &[Argument {
            name: "NAME",
            kind: Kind::Vm,
            arity: Arity::One,
        }],
        options: &[
            optional(
                "time",
                "TIME",
                Kind::Text,
                "how long to look; 1s if not given",
            ),
            flag(
                "check",
                "compare all memory before and after: has anything changed unnoticed?",
            ),
        ],
        summary: "measure how much memory a VM writes",
        notes: "That is what a migration would have to send again. The VM runs on, a little slower; with --check it \
            stands still while its memory is read, twice.",
        build: command::build_writes,
    },
    on_vm(
        &["vm", "delete"],
        "forget a VM that does not run",
        "",
        command::build_delete,
    ),
    CommandSpec {
        words: &["sched", "pool", "create"],
        arguments: &POOL_AND_SETTINGS,
        options: &[optional(
            "parent",
            "POOL",
            Kind::Text,
            "the pool that it is in; the host's own if not given",
        )],
        summary: "make a pool of CPU time",
        notes: POOL_NOTES,
        build: command::build_pool_create,
    },
    CommandSpec {
        words: &["sched", "pool", "set"],
        arguments: &POOL_AND_SETTINGS,
        options: &[],
        summary: "change what a pool is to get",
        notes: POOL_NOTES,
        build: command::build_pool_set,
    },
    plain(
        &["sched", "pool", "list"],
        "list the pools of CPU time",
        command::build_pool_list,
    ),
    CommandSpec {
        words: &["sched", "pool", "delete"],
        arguments: &[POOL],
        options: &[],
        summary: "remove an empty pool",
        notes: "",
        build: command::build_pool_delete,
    },
    plain(
        &["storage", "device", "list"],
        "list the host's storage devices",
        command::build_storage_list,
    ),
    CommandSpec {
        words: &["storage", "device", "read"],
        arguments: &[Argument {
            name: "DEVICE",
            arity: Arity::One,
            kind: Kind::Device,
        }],
        options: &[optional(
            "block",
            "N",
            Kind::Text,
            "which block, from 0; the first if not given",
        )],
        summary: "show what a block of a storage device holds",
        notes: "",
        build: command::build_storage_read,
    },
    datastore::LIST,
    datastore::INFO,
    datastore::CREATE,
    datastore::LS,
    datastore::MKDIR,
    datastore::CP,
    datastore::MV,
    datastore::RM,
    datastore::CHECK,
    datastore::TEST,
    plain(
        &["host", "info"],
        "show what this host is",
        command::build_host_info,
    ),
    plain(
        &["host", "cpus"],
        "show the host's CPUs",
        command::build_host_cpus,
    ),
    plain(
        &["host", "mitigations"],
        "show speculative leaks and their guards",
        command::build_host_mitigations,
    ),
    plain(
        &["host", "memory"],
        "show where the host's memory is",
        command::build_host_memory,
    ),
    CommandSpec {
        words: &["host", "log"],
        arguments: &[],
        options: &[
            optional(
                "level",
                "LEVEL",
                Kind::Level,
                "this level and graver ones: error, warn, info, debug",
            ),
            optional("last", "N", Kind::Text, "only the last N lines"),
        ],
        summary: "show the host's log",
        notes: "",
        build: command::build_host_log,
    },
    CommandSpec {
        words: &["host", "top"],
        arguments: &[],
        options: &[
            optional("count", "N", Kind::Text, "pages to show; 1 if not given"),
            flag(
                "live",
                "show a page over the last one until a key is pressed",
            ),
            optional(
                "sort",
                "ORDER",
                Kind::Text,
                "used, ready, exits or name; used if not given",
            ),
            optional(
                "interval",
                "TIME",
                Kind::Text,
                "time that each page measures; 1s if not given",
            ),
        ],
        summary: "show who uses the host's CPUs",
        notes: "USED is time on a CPU, READY time that a CPU was waited for, COSTOP time stopped for a sibling's sake, \
            LIMIT time held back by a limit, all of one CPU. Ctrl-C ends it early. With --live, the keys u, r, e and n \
            change the order, and any other key ends it.",
        build: command::build_host_top,
    },
    plain(
        &["host", "reboot"],
        "restart the host; running VMs are killed",
        command::build_host_reboot,
    ),
    plain(
        &["host", "poweroff"],
        "switch the host off; running VMs are killed",
        command::build_host_poweroff,
    ),
];
