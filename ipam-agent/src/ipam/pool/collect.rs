//! ENIs that carry the cluster's tag and that nobody needs any more: leaked when they were made, or left by a node that
//! is gone.
//!
//! Absence of information collects nothing. What an ENI holds for a claim keeps it, though its machine is gone: in a
//! cloud that is what keeps others from the address.

use std::time::Duration;

/// An ENI with the cluster's tag, as a list of the cloud and the API show it.
#[derive(Clone, Debug)]
pub struct EniSeen {
    /// It is a machine's primary one.
    pub primary: bool,
    /// It is on a machine, or on its way to or from one.
    pub on_machine: bool,
    /// It is neither being created, attached, detached nor deleted.
    pub settled: bool,
    /// The Node object that it was made for, or is on, exists; `None`: nothing says which node that is.
    pub node_exists: Option<bool>,
    /// The controller is about to attach it, or the node's status lists it.
    pub expected: bool,
    /// Addresses on it that have an object: of a claim, or in their cooldown.
    pub holds: usize,
    /// How long this process has seen it in this state.
    pub seen_for: Duration,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is needed, or not ours to touch.
    Keep,
    /// Its machine is gone, and it stays for the addresses that it holds.
    Hold,
    /// It seems needless; look again when it has been so for the whole period.
    Watch,
    /// Needless for a whole period: look at it live, then delete it.
    Collect,
    /// On its way for so long that it will not arrive: take it off and delete it.
    Unstick,
}

/// Decides. `period` lies between two observations; `stuck` is longer than any task of the cloud takes.
#[must_use]
pub fn verdict(eni: &EniSeen, period: Duration, stuck: Duration) -> Verdict {
    let waits = |verdict, time| if eni.seen_for >= time { verdict } else { Verdict::Watch };
    if eni.primary {
        return Verdict::Keep;
    }
    if !eni.settled {
        return if eni.holds > 0 { Verdict::Keep } else { waits(Verdict::Unstick, stuck) };
    }
    if eni.on_machine || eni.expected {
        return Verdict::Keep;
    }
    match eni.holds {
        0 => waits(Verdict::Collect, period),
        _ if eni.node_exists == Some(true) => Verdict::Keep,
        _ => Verdict::Hold,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(300);
    const STUCK: Duration = Duration::from_secs(120);

    prop_compose! {
        fn any_eni()(
            primary: bool, on_machine: bool, settled: bool, node_exists: Option<bool>, expected: bool, holds in 0usize..3,
            seconds in 0u64..400,
        ) -> EniSeen {
            EniSeen { primary, on_machine, settled, node_exists, expected, holds, seen_for: Duration::from_secs(seconds) }
        }
    }

    proptest! {
        /// What holds an address, serves a machine or is expected is never deleted; nothing is at first sight.
        #[test]
        fn nothing_that_is_needed_goes(eni in any_eni()) {
            match verdict(&eni, PERIOD, STUCK) {
                Verdict::Collect => {
                    prop_assert!(!eni.primary && !eni.on_machine && eni.settled && !eni.expected);
                    prop_assert!(eni.holds == 0 && eni.seen_for >= PERIOD);
                }
                Verdict::Unstick => prop_assert!(!eni.primary && !eni.settled && eni.holds == 0 && eni.seen_for >= STUCK),
                Verdict::Hold => prop_assert!(eni.holds > 0 && eni.node_exists != Some(true)),
                Verdict::Keep | Verdict::Watch => {}
            }
        }

        /// What nobody needs goes in the end.
        #[test]
        fn nothing_needless_stays(eni in any_eni()) {
            let needless = EniSeen { primary: false, on_machine: false, expected: false, holds: 0, seen_for: PERIOD, ..eni };
            prop_assert!(matches!(verdict(&needless, PERIOD, STUCK), Verdict::Collect | Verdict::Unstick));
        }
    }
}
