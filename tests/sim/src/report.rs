//! The simulator as a command: runs it all and writes down what came out.

use crate::cases::{CASES, percentile};
use crate::host::{Findings, GRAIN_PARTS, RandomHost, SKEW_BOUND};
use crate::workload::US;
use std::fmt::Write;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything that is random.
    pub seed: u64,
    /// CPUs of the random host, 1 to 256.
    pub cpus: usize,
    /// Worlds of the random host.
    pub worlds: usize,
    /// Simulated seconds, after one of settling.
    pub seconds: u64,
}

/// Runs the plan; returns the report and what broke a promise.
#[must_use]
pub fn run(plan: Plan) -> (String, Vec<String>) {
    let findings = RandomHost::new(plan.seed, plan.cpus, plan.worlds).run(plan.seconds);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = describe(&mut text, plan, &findings);
    let _ = compare(&mut text, plan);
    (text, broken(&findings))
}

/// Returns in words what the findings show to be broken.
#[must_use]
pub fn broken(findings: &Findings) -> Vec<String> {
    let mut broken = Vec::new();
    let grain = findings.window / GRAIN_PARTS;
    if findings.excess_max > grain {
        broken.push(format!(
            "entitlement: a VM was {} us beyond 1 %, and {} us (1 % of a CPU) are allowed",
            findings.excess_max / US,
            grain / US
        ));
    }
    if findings.skew_max > SKEW_BOUND {
        broken.push(format!(
            "skew: {} us between siblings",
            findings.skew_max / US
        ));
    }
    if findings.wait_of_bound > 1.0 {
        broken.push(format!(
            "starvation: {:.2} of the bound",
            findings.wait_of_bound
        ));
    }
    if findings.idle_faults > 0 {
        broken.push(format!(
            "idle: {} times while a world waited",
            findings.idle_faults
        ));
    }
    broken
}

fn describe(text: &mut String, plan: Plan, findings: &Findings) -> std::fmt::Result {
    let Plan {
        seed,
        cpus,
        worlds,
        seconds,
    } = plan;
    writeln!(
        text,
        "random host: seed {seed}, {cpus} CPUs, {worlds} worlds, {seconds} s"
    )?;
    writeln!(text, "  decisions            {}", findings.decisions)?;
    writeln!(
        text,
        "  entitlement error    mean {:.3} %, largest {:.3} % of VMs entitled to half a CPU or more",
        findings.error_mean * 100.0,
        findings.error_max * 100.0
    )?;
    writeln!(
        text,
        "  beyond 1 %           {} us at most, in {} windows of VMs of any size",
        findings.excess_max / US,
        findings.compared
    )?;
    writeln!(
        text,
        "  longest wait         {} us; at most {:.2} of a world's bound",
        findings.wait_max / US,
        findings.wait_of_bound
    )?;
    writeln!(
        text,
        "  skew of siblings     {} us, bound {} us",
        findings.skew_max / US,
        SKEW_BOUND / US
    )?;
    writeln!(
        text,
        "  idle while needed    {} times",
        findings.idle_faults
    )?;
    writeln!(
        text,
        "  wake-up latency      {}",
        latencies(&findings.latencies)
    )
}

fn compare(text: &mut String, plan: Plan) -> std::fmt::Result {
    for case in CASES {
        writeln!(text, "{}", case.name)?;
        for outcome in case.run(plan.seed, plan.seconds.min(10)) {
            writeln!(
                text,
                "  {:<16} wake-up {}; {} rounds/s; hogs {:.2} CPUs",
                outcome.policy,
                latencies(&outcome.latencies),
                outcome.done_per_second,
                outcome.hogs
            )?;
        }
    }
    Ok(())
}

fn latencies(sorted: &[u64]) -> String {
    let at = |thousandths| percentile(sorted, thousandths) / US;
    format!(
        "p50 {} p90 {} p99 {} p99.9 {} max {} us",
        at(500),
        at(900),
        at(990),
        at(999),
        at(1000)
    )
}

#[cfg(test)]
mod tests {
    use super::{Plan, broken, run};
    use crate::host::RandomHost;

    #[test]
    fn random_hosts_keep_every_promise() {
        for (seed, cpus, worlds) in [
            (1, 1, 6),
            (2, 2, 12),
            (3, 4, 16),
            (4, 8, 60),
            (5, 16, 48),
            (6, 64, 400),
        ] {
            let findings = RandomHost::new(seed, cpus, worlds).run(10);
            assert_eq!(
                broken(&findings),
                [""; 0],
                "seed {seed}: {cpus} CPUs, {worlds} worlds"
            );
        }
    }

    #[test]
    fn one_seed_gives_one_report() {
        let plan = Plan {
            seed: 9,
            cpus: 3,
            worlds: 12,
            seconds: 2,
        };
        assert_eq!(run(plan).0, run(plan).0);
    }
}
