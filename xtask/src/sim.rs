//! `sim`: runs a simulator of tests/sim and times it.
//!
//! What is simulated and what it must keep to stands in tests/sim; here is only the command and the clock.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand};

/// Which simulator.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// The scheduler: a random host against an oracle, and cases beside a round robin and credit2's rules.
    Sched(Sched),
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
    let Subject::Sched(options) = &options.subject;
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
