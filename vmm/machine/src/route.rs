//! Which local APICs an interrupt message reaches.

use devices::message::{ApicIdentity, ApicMessage, Delivery, RoundRobin};

/// Calls `deliver` with the number of every virtual CPU that takes `message`, in rising order; for a lowest-priority
/// message with one of them, each in its turn.
///
/// `identities` holds the local APICs by CPU number; `sender` is the CPU whose command it was, `None` for the I/O APIC
/// and MSIs. The cost is one comparison per CPU.
pub fn route(
    message: &ApicMessage,
    sender: Option<usize>,
    identities: &[ApicIdentity],
    turn: &mut RoundRobin,
    mut deliver: impl FnMut(usize),
) {
    let mut targets = identities
        .iter()
        .enumerate()
        .filter(|(cpu, identity)| {
            message.destination.matches(identity, sender == Some(*cpu))
                && identity.accepts(message.delivery)
        })
        .map(|(cpu, _)| cpu);
    if message.delivery == Delivery::LowestPriority {
        if let Some(cpu) = turn.pick(&mut targets) {
            deliver(cpu);
        }
    } else {
        targets.for_each(&mut deliver);
    }
}

#[cfg(test)]
mod tests {
    use super::route;
    use alloc::vec::Vec;
    use devices::message::{
        ApicIdentity, ApicMessage, ApicMode, Delivery, Destination, RoundRobin,
    };

    fn cpus() -> Vec<ApicIdentity> {
        (0..4)
            .map(|id| ApicIdentity {
                id,
                initial_id: id,
                logical_id: 1 << id,
                format: 0xf,
                mode: ApicMode::XApic,
                software_enabled: id != 3,
            })
            .collect()
    }

    fn targets(
        delivery: Delivery,
        destination: Destination,
        sender: Option<usize>,
        turn: &mut RoundRobin,
    ) -> Vec<usize> {
        let message = ApicMessage {
            destination,
            delivery,
            vector: 0x40,
            level: false,
        };
        let mut reached = Vec::new();
        route(&message, sender, &cpus(), turn, |cpu| reached.push(cpu));
        reached
    }

    #[test]
    fn fixed_messages_reach_all_that_accept() {
        let mut turn = RoundRobin::default();
        let mut to =
            |delivery, destination, sender| targets(delivery, destination, sender, &mut turn);
        assert_eq!(to(Delivery::Fixed, Destination::All, Some(1)), [0, 1, 2]);
        assert_eq!(
            to(Delivery::Nmi, Destination::AllButSelf, Some(1)),
            [0, 2, 3]
        );
        assert_eq!(to(Delivery::Init, Destination::SelfOnly, Some(2)), [2]);
        assert_eq!(
            to(Delivery::Fixed, Destination::narrow(6, true), None),
            [1, 2]
        );
        assert_eq!(to(Delivery::Fixed, Destination::narrow(9, false), None), []);
    }

    #[test]
    fn lowest_priority_takes_turns() {
        let mut turn = RoundRobin::default();
        let mut next = || {
            targets(
                Delivery::LowestPriority,
                Destination::narrow(0xd, true),
                None,
                &mut turn,
            )
        };
        assert_eq!(next(), [0]);
        assert_eq!(next(), [2]);
        assert_eq!(next(), [0]);
    }
}
