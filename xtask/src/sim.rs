//! `sim`: runs a simulator of tests/sim and times it.
//!
//! What is simulated and what it must keep to stands in tests/sim; here is only the command and the clock.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use sim::datastore::{Plan, Subject};

/// Which simulator.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    simulator: Simulator,
}

#[derive(Debug, Subcommand)]
enum Simulator {
    /// The scheduler: a random host against an oracle, and cases beside a round robin and credit2's rules.
    Sched(Sched),
    /// The datastore: hosts that share a disk on which everything goes wrong that may.
    Datastore(Datastore),
}

#[derive(Debug, Args)]
struct Datastore {
    /// Decides everything that is random; one seed gives one schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, from that one on; stops at the first that breaks a promise, and prints its trace.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Hosts; without it each seed chooses.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=8))]
    hosts: Option<u8>,
    /// The atomic step; without it each seed chooses.
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Break this rule, to see that the simulator notices.
    #[arg(long = "break", value_parser = clap::builder::PossibleValuesParser::new(rules()))]
    rule: Option<String>,
    /// Threads to run them on.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Whole volumes with files, instead of the locks alone.
    #[arg(long)]
    volume: bool,
    /// With volumes: the medium fails, too, and hosts fill it up.
    #[arg(long, requires = "volume")]
    hard: bool,
    /// Print what happened even if all went well.
    #[arg(long)]
    trace: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Backend {
    /// The device compares and writes.
    Compare,
    /// Disk Paxos.
    Paxos,
}

fn rules() -> impl Iterator<Item = &'static str> {
    sim::datastore::broken::Rule::ALL
        .iter()
        .map(|(name, _)| *name)
}

#[derive(Debug, Args)]
struct Sched {
    /// Decides everything that is random; one seed gives one report.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// CPUs of the random host.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    cpus: u16,
    /// Worlds of the random host.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    worlds: u32,
    /// Simulated seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    match &options.simulator {
        Simulator::Sched(options) => sched(options),
        Simulator::Datastore(options) => datastore(options),
    }
}

fn datastore(options: &Datastore) -> ExitCode {
    use sim::datastore::{broken, run, sweep_with};
    let plan = Plan {
        seed: options.seed,
        hosts: options.hosts.map(usize::from),
        backend: options.backend.map(|backend| match backend {
            Backend::Compare => lock::Backend::CompareAndWrite,
            Backend::Paxos => lock::Backend::Paxos,
        }),
        rule: options.rule.as_deref().and_then(broken::Rule::named),
        subject: match options.volume {
            true => Subject::Volume,
            false => Subject::Locks,
        },
        hard: options.hard,
    };
    let start = Instant::now();
    let swept = sweep_with(plan, options.count, options.jobs);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} schedules, {} requests, {:.1} h of virtual time",
        swept.schedules,
        swept.requests,
        swept.nanos as f64 / 3.6e12
    );
    println!("took {seconds:.1} s");
    let shown = swept.failed.or(options.trace.then_some(options.seed));
    if let Some(seed) = shown {
        let outcome = run(Plan { seed, ..plan }, true);
        print!("{}", outcome.trace);
        if let Some(promise) = outcome.broken {
            println!("BROKEN by seed {seed}: {promise}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs the first `count` seeds of the datastore's simulator, as a test.
pub(crate) fn datastore_keeps_its_promises(
    (subject, hard): (Subject, bool),
    count: u64,
) -> Result<()> {
    let plan = Plan {
        seed: 1,
        hosts: None,
        backend: None,
        rule: None,
        subject,
        hard,
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let swept = sim::datastore::sweep_with(plan, count, threads);
    if let Some(seed) = swept.failed {
        let outcome = sim::datastore::run(Plan { seed, ..plan }, false);
        let volume = match (subject, hard) {
            (Subject::Locks, _) => "",
            (Subject::Volume, false) => " --volume",
            (Subject::Volume, true) => " --volume --hard",
        };
        bail!(
            "{}\n`cargo xtask sim datastore --seed {seed}{volume}` shows how",
            outcome.broken.unwrap_or_default()
        );
    }
    Ok(())
}

fn sched(options: &Sched) -> ExitCode {
    let plan = sim::report::Plan {
        seed: options.seed,
        cpus: usize::from(options.cpus),
        worlds: options.worlds as usize,
        seconds: options.seconds,
    };
    let start = Instant::now();
    let (report, broken) = sim::report::run(plan);
    print!("{report}");
    println!("took {:.1} s", start.elapsed().as_secs_f64());
    for promise in &broken {
        println!("BROKEN {promise}");
    }
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
