//! Requests, and how a line of the shell becomes one.
//!
//! A request holds values that were checked by themselves; whether the VM exists is for the one who carries it out.

use crate::datastore::DatastoreRequest;
use crate::definition::{Mode, VmDefinition, VmName};
use crate::error::CommandError;
use crate::grammar::{self, Arity, CommandSpec, OptionSpec};
use crate::report::LogLevel;
use crate::settings::{PoolSetting, Setting, bad, parse_memory, parse_number};
use crate::suggest::nearest;
use crate::units::parse_millis;
use crate::words::{self, Word};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Milliseconds that a page of `host top` measures if nothing is said.
const TOP_INTERVAL_DEFAULT_MS: u64 = 1000;
/// Milliseconds that `vm writes` measures if nothing is said.
const WRITES_TIME_DEFAULT_MS: u64 = 1000;
/// Milliseconds that it measures at least: below, the figures are noise.
const TOP_INTERVAL_MIN_MS: u64 = 100;

/// What a host can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Explain commands; [`help`](crate::help()) has the text.
    Help(Vec<String>),
    /// Define a VM.
    VmCreate(Box<VmDefinition>),
    /// List all VMs.
    VmList,
    /// Do something with one VM.
    Vm {
        /// Which.
        name: VmName,
        /// What.
        action: VmAction,
    },
    /// Change a definition; [`VmDefinition::with`] does it.
    VmSet {
        /// Which VM.
        name: VmName,
        /// One or more changes.
        settings: Vec<Setting>,
    },
    /// Measure how much memory a VM writes.
    VmWrites {
        /// Which VM.
        name: VmName,
        /// How.
        options: WritesOptions,
    },
    /// Describe the host.
    HostInfo,
    /// List the host's CPUs.
    HostCpus,
    /// Say what is done against leaks of speculative execution.
    HostMitigations,
    /// Say where the host's memory is.
    HostMemory,
    /// Show the log.
    HostLog {
        /// This level and graver ones.
        level: LogLevel,
        /// Only so many of the newest lines.
        last: Option<usize>,
    },
    /// Show who uses the CPUs.
    HostTop(TopOptions),
    /// Do something with a pool of CPU time.
    Pool {
        /// Which.
        name: VmName,
        /// What.
        action: PoolAction,
    },
    /// List the pools.
    PoolList,
    /// List the host's storage devices.
    StorageList,
    /// Show a block of a storage device.
    StorageRead {
        /// Which device.
        device: String,
        /// Which block.
        block: u64,
    },
    /// Something about datastores.
    Datastore(DatastoreRequest),
    /// Restart the host.
    HostReboot,
    /// Switch the host off.
    HostPoweroff,
}

/// What can be done with one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmAction {
    /// Show all about it.
    Info,
    /// Show where its time went.
    Stats,
    /// Start it.
    Start,
    /// Press its power button.
    Stop,
    /// End it at once.
    Kill,
    /// Stop its time.
    Pause,
    /// Let its time go on.
    Resume,
    /// Attach to its console.
    Console,
    /// Forget its definition.
    Delete,
}

/// What can be done with a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolAction {
    /// Make it in another one, or in the host's own.
    Create {
        /// The pool around it.
        parent: Option<VmName>,
        /// What it is to get, if not the usual.
        settings: Vec<PoolSetting>,
    },
    /// Change what it is to get.
    Set(Vec<PoolSetting>),
    /// Remove it; it must be empty.
    Delete,
}

/// How `vm writes` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritesOptions {
    /// Milliseconds to measure.
    pub time_ms: u64,
    /// Compare all of the VM's memory before and after.
    pub check: bool,
}

/// How `host top` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopOptions {
    /// Pages to show.
    pub count: u32,
    /// Milliseconds that each measures.
    pub interval_ms: u64,
    /// Who stands first.
    pub order: TopOrder,
    /// Each page takes the place of the one before, until a key is pressed.
    pub live: bool,
}

/// The order of a page of `host top`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopOrder {
    /// The busiest first.
    Used,
    /// Who waited longest for a CPU first.
    Ready,
    /// Who exited most often first.
    Exits,
    /// By name and number.
    Name,
}

impl TopOrder {
    /// Returns the order of this name.
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "used" => Self::Used,
            "ready" => Self::Ready,
            "exits" => Self::Exits,
            "name" => Self::Name,
            _ => return None,
        })
    }
}

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// Whether the answer shall be JSON.
    pub json: bool,
}

/// Makes a request of what was parsed.
pub(crate) type Build = fn(&Matches) -> Result<Request, CommandError>;

/// Parses a line; `None` if it says nothing.
pub fn parse(line: &str) -> Result<Option<Command>, CommandError> {
    let words = words::split(line)?;
    let is_json = |word: &&Word| !word.quoted && word.text == "--json";
    let leading = words.iter().take_while(is_json).count();
    let words = words.get(leading..).unwrap_or_default();
    let Some((spec, rest)) = find_command(words)? else {
        return Ok(None);
    };
    let matches = Matches::parse(spec, rest)?;
    let json = leading != 0 || matches.has(grammar::JSON);
    let request = if matches.has(grammar::HELP) {
        Request::Help(spec.words.iter().map(ToString::to_string).collect())
    } else {
        matches.check_complete(spec)?;
        (spec.build)(&matches)?
    };
    Ok(Some(Command { request, json }))
}

/// Finds the command that the first words name; returns what follows them.
fn find_command(words: &[Word]) -> Result<Option<(&'static CommandSpec, &[Word])>, CommandError> {
    let mut typed: Vec<&str> = Vec::new();
    let mut rest = words;
    loop {
        if let Some(spec) = grammar::find(&typed) {
            return Ok(Some((spec, rest)));
        }
        let following = grammar::following(&typed);
        let next = rest.split_first().filter(|(word, _)| {
            // `vm --help` shows the group.
            typed.is_empty() || word.quoted || !word.text.starts_with('-')
        });
        let Some((word, after)) = next else {
            if typed.is_empty() {
                return Ok(None);
            }
            return Err(CommandError::MissingCommand {
                group: typed.join(" "),
                commands: following.join(", "),
            });
        };
        let word = word.text.as_str();
        if !following.contains(&word) {
            return Err(unknown(&typed, word, &following));
        }
        typed.push(word);
        rest = after;
    }
}

fn unknown(typed: &[&str], word: &str, following: &[&str]) -> CommandError {
    let suggestion = if typed.is_empty() {
        suggest_command(word)
    } else {
        nearest(word, following.iter().copied()).map(|near| [&typed.join(" "), near].join(" "))
    };
    CommandError::UnknownCommand {
        word: typed
            .iter()
            .chain([&word])
            .copied()
            .collect::<Vec<_>>()
            .join(" "),
        suggestion,
    }
}

/// The command whose second word it is (`vm list` for `list`), or else a first word like it.
fn suggest_command(word: &str) -> Option<String> {
    let of_group = |spec: &&CommandSpec| spec.words.get(1) == Some(&word);
    if let Some(spec) = grammar::COMMANDS.iter().find(of_group) {
        return Some(spec.name());
    }
    nearest(word, grammar::first_words().into_iter()).map(ToString::to_string)
}

/// What a line gives to a command.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    arguments: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Matches {
    fn parse(spec: &'static CommandSpec, words: &[Word]) -> Result<Self, CommandError> {
        let mut matches = Self::default();
        let mut words = words.iter();
        let mut options_end = false;
        while let Some(word) = words.next() {
            let dashes = !options_end && word.text.starts_with("--");
            // Only the name must stand bare: --cmdline="a b" is an option.
            match word.text.strip_prefix("--").filter(|_| dashes) {
                Some("") => options_end = true,
                Some(option) => matches.option(spec, option, &mut words)?,
                None => matches.arguments.push(word.text.clone()),
            }
        }
        Ok(matches)
    }

    fn option<'a>(
        &mut self,
        spec: &'static CommandSpec,
        text: &str,
        rest: &mut impl Iterator<Item = &'a Word>,
    ) -> Result<(), CommandError> {
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let Some(option) = spec.all_options().find(|option| option.name == name) else {
            let near = nearest(name, spec.all_options().map(|option| option.name));
            return Err(CommandError::UnknownOption {
                command: spec.name(),
                option: dashed(name),
                suggestion: near.map(dashed),
            });
        };
        if self.has(option.name) && !option.repeated {
            return Err(CommandError::Repeated(dashed(name)));
        }
        let value = option_value(option, inline, rest)?;
        self.options.push((option.name, value));
        Ok(())
    }

    /// Checks that the arguments are as many as they should be, and that needed options are there.
    fn check_complete(&self, spec: &CommandSpec) -> Result<(), CommandError> {
        let missing = |what: String| CommandError::Missing {
            what,
            usage: spec.usage(),
        };
        let mut needed = spec
            .arguments
            .iter()
            .filter(|argument| argument.arity != Arity::ZeroOrMore);
        if let Some(argument) = needed.nth(self.arguments.len()) {
            return Err(missing(argument.name.to_string()));
        }
        let endless = spec
            .arguments
            .last()
            .is_some_and(|argument| argument.arity != Arity::One);
        if let Some(word) = self.arguments.get(spec.arguments.len())
            && !endless
        {
            return Err(CommandError::Unexpected {
                word: word.clone(),
                usage: spec.usage(),
            });
        }
        let absent = |option: &&OptionSpec| option.required && !self.has(option.name);
        match spec.options.iter().find(absent) {
            Some(option) => Err(missing(option.written())),
            None => Ok(()),
        }
    }

    pub(crate) fn has(&self, option: &str) -> bool {
        self.value(option).is_some()
    }

    /// The value of an option that was given.
    fn value(&self, option: &str) -> Option<&str> {
        self.values(option).next()
    }

    fn values(&self, option: &str) -> impl Iterator<Item = &str> {
        self.options
            .iter()
            .filter(move |(name, _)| *name == option)
            .map(|(_, value)| value.as_str())
    }

    /// An argument; empty if it was not given.
    pub(crate) fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }

    /// The first argument as a VM's name.
    fn name(&self) -> Result<VmName, CommandError> {
        let name = self.arguments.first().map_or("", String::as_str);
        VmName::new(name).map_err(|error| bad("NAME", name, &error.to_string()))
    }

    pub(crate) fn number(&self, option: &str) -> Result<Option<u32>, CommandError> {
        self.value(option)
            .map(|value| parse_number(&dashed(option), value))
            .transpose()
    }

    fn action(&self, action: VmAction) -> Result<Request, CommandError> {
        let name = self.name()?;
        Ok(Request::Vm { name, action })
    }
}

fn option_value<'a>(
    option: &OptionSpec,
    inline: Option<&str>,
    rest: &mut impl Iterator<Item = &'a Word>,
) -> Result<String, CommandError> {
    match (option.value, inline) {
        (None, None) => Ok(String::new()),
        (None, Some(_)) => Err(CommandError::UnwantedValue(dashed(option.name))),
        (Some(_), Some(value)) => Ok(value.to_string()),
        (Some((value, _)), None) => match rest.next() {
            Some(word) => Ok(word.text.clone()),
            None => Err(CommandError::MissingValue {
                option: dashed(option.name),
                value,
            }),
        },
    }
}

fn dashed(name: &str) -> String {
    ["--", name].concat()
}

pub(crate) fn build_help(matches: &Matches) -> Result<Request, CommandError> {
    Ok(Request::Help(matches.arguments.clone()))
}

pub(crate) fn build_create(matches: &Matches) -> Result<Request, CommandError> {
    let kernel = matches.value("kernel").unwrap_or_default();
    let mut definition = VmDefinition::new(matches.name()?, kernel);
    if let Some(cpus) = matches.number("cpus")? {
        definition.cpus = cpus;
    }
    if let Some(size) = matches.value("memory") {
        definition.memory = parse_memory("--memory", size)?;
    }
    definition.initrd = matches.value("initrd").map(ToString::to_string);
    definition.modules = matches.values("module").map(ToString::to_string).collect();
    definition.cmdline = matches.value("cmdline").unwrap_or_default().to_string();
    definition.description = matches.value("description").unwrap_or_default().to_string();
    definition.check(Mode::Shell)?;
    Ok(Request::VmCreate(Box::new(definition)))
}

pub(crate) fn build_list(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::VmList)
}

pub(crate) fn build_info(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Info)
}

pub(crate) fn build_start(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Start)
}

pub(crate) fn build_stop(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Stop)
}

pub(crate) fn build_kill(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Kill)
}

pub(crate) fn build_pause(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Pause)
}

pub(crate) fn build_resume(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Resume)
}

pub(crate) fn build_console(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Console)
}

pub(crate) fn build_delete(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Delete)
}

pub(crate) fn build_set(matches: &Matches) -> Result<Request, CommandError> {
    let settings = matches.arguments.iter().skip(1);
    Ok(Request::VmSet {
        name: matches.name()?,
        settings: settings
            .map(|text| Setting::parse(text))
            .collect::<Result<_, _>>()?,
    })
}

pub(crate) fn build_writes(matches: &Matches) -> Result<Request, CommandError> {
    let time_ms = match matches.value("time") {
        None => WRITES_TIME_DEFAULT_MS,
        Some(time) => {
            parse_millis(time).map_err(|error| bad("--time", time, &error.to_string()))?
        }
    };
    Ok(Request::VmWrites {
        name: matches.name()?,
        options: WritesOptions {
            time_ms,
            check: matches.has("check"),
        },
    })
}

pub(crate) fn build_host_info(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::HostInfo)
}

pub(crate) fn build_host_cpus(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::HostCpus)
}

pub(crate) fn build_storage_list(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::StorageList)
}

pub(crate) fn build_storage_read(matches: &Matches) -> Result<Request, CommandError> {
    let device = matches.arguments.first().cloned().unwrap_or_default();
    let block = match matches.value("block") {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| bad("--block", text, "it is a number, from 0"))?,
    };
    Ok(Request::StorageRead { device, block })
}

pub(crate) fn build_host_mitigations(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::HostMitigations)
}

pub(crate) fn build_host_memory(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::HostMemory)
}

pub(crate) fn build_host_log(matches: &Matches) -> Result<Request, CommandError> {
    let level = match matches.value("level") {
        None => LogLevel::Debug,
        Some(name) => LogLevel::from_name(name)
            .ok_or_else(|| bad("--level", name, "it is error, warn, info or debug"))?,
    };
    let last = matches.number("last")?;
    Ok(Request::HostLog {
        level,
        last: last.and_then(|last| usize::try_from(last).ok()),
    })
}

pub(crate) fn build_host_top(matches: &Matches) -> Result<Request, CommandError> {
    let interval_ms = match matches.value("interval") {
        None => TOP_INTERVAL_DEFAULT_MS,
        Some(time) => {
            parse_millis(time).map_err(|error| bad("--interval", time, &error.to_string()))?
        }
    };
    Ok(Request::HostTop(TopOptions {
        count: matches.number("count")?.unwrap_or(1),
        interval_ms: interval_ms.max(TOP_INTERVAL_MIN_MS),
        order: match matches.value("sort") {
            None => TopOrder::Used,
            Some(name) => TopOrder::from_name(name)
                .ok_or_else(|| bad("--sort", name, "it is used, ready, exits or name"))?,
        },
        live: matches.has("live"),
    }))
}

pub(crate) fn build_stats(matches: &Matches) -> Result<Request, CommandError> {
    matches.action(VmAction::Stats)
}

fn pool(matches: &Matches, action: PoolAction) -> Result<Request, CommandError> {
    let name = matches.name()?;
    Ok(Request::Pool { name, action })
}

fn pool_settings(matches: &Matches) -> Result<Vec<PoolSetting>, CommandError> {
    let settings = matches.arguments.iter().skip(1);
    settings.map(|text| PoolSetting::parse(text)).collect()
}

pub(crate) fn build_pool_create(matches: &Matches) -> Result<Request, CommandError> {
    let parent = matches
        .value("parent")
        .map(|name| VmName::new(name).map_err(|error| bad("--parent", name, &error.to_string())));
    let action = PoolAction::Create {
        parent: parent.transpose()?,
        settings: pool_settings(matches)?,
    };
    pool(matches, action)
}

pub(crate) fn build_pool_set(matches: &Matches) -> Result<Request, CommandError> {
    pool(matches, PoolAction::Set(pool_settings(matches)?))
}

pub(crate) fn build_pool_delete(matches: &Matches) -> Result<Request, CommandError> {
    pool(matches, PoolAction::Delete)
}

pub(crate) fn build_pool_list(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::PoolList)
}

pub(crate) fn build_host_reboot(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::HostReboot)
}

pub(crate) fn build_host_poweroff(_: &Matches) -> Result<Request, CommandError> {
    Ok(Request::HostPoweroff)
}

#[cfg(test)]
mod tests;
