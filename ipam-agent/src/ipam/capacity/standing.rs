//! Whether pods may come to a node: its taint and its condition, from what is seen of it, and for how long.

use std::time::Duration;

use super::{Capacity, Limit};

/// How long a node must be able to serve before pods come: an agent that dies again at once shall not flap.
pub const STEADY: Duration = Duration::from_secs(3);

/// How long a node that served may be unable to, an agent being replaced for example, before pods stay away. Pods that
/// come meanwhile wait that long at most.
pub const GRACE: Duration = Duration::from_secs(60);

/// The node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// There is none.
    Missing,
    /// It is not ready.
    NotReady,
    /// It answers.
    Ready,
}

/// What is seen of a node.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its agent.
    pub agent: Agent,
    /// What it can carry; none: its ENIs were not looked at yet.
    pub capacity: Option<&'a Capacity>,
    /// What its condition says; none: nothing yet.
    pub said: Option<bool>,
}

/// What to say of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Pods may come: the condition is true and the taint is off.
    pub open: bool,
    /// Reason of the condition.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// What the node says is not so any more, and stays until then nevertheless.
    pub again: Option<Duration>,
    /// The words stay too: the difference may be over before anybody has read others.
    pub quiet: bool,
}

/// Reasons of the condition.
pub mod reason {
    /// All that the limits allow can be served.
    pub const READY: &str = "Ready";
    /// The node has no agent, or it is not ready.
    pub const AGENT_NOT_READY: &str = "AgentNotReady";
    /// The node's ENIs were not looked at yet.
    pub const NOT_SEEN: &str = "ENIsNotSeen";
    /// The subnets of the node's zone have no more addresses, or there are none.
    pub const SUBNET_EXHAUSTED: &str = "SubnetExhausted";
    /// No further ENI can be had.
    pub const ENI_LIMIT: &str = "ENILimit";
}

/// Whether pods could have addresses now.
#[must_use]
pub fn serves(seen: Seen<'_>) -> bool {
    seen.agent == Agent::Ready && seen.capacity.is_some_and(|capacity| capacity.pods > 0)
}

/// Decides. `unchanged` is how long [`serves`] has been what it is.
#[must_use]
pub fn standing(seen: Seen<'_>, unchanged: Duration) -> Standing {
    let delay = match (seen.said, serves(seen)) {
        (Some(false), true) => Some(STEADY),
        (Some(true), false) => Some(GRACE),
        _ => None,
    };
    let again = delay.and_then(|delay| delay.checked_sub(unchanged)).filter(|left| !left.is_zero());
    let open = if again.is_some() { seen.said == Some(true) } else { serves(seen) };
    let quiet = again.is_some() && (open != (seen.agent == Agent::Ready));
    let (reason, message) = words(seen);
    Standing { open, reason, message, again, quiet }
}

fn words(seen: Seen<'_>) -> (&'static str, String) {
    match (seen.agent, seen.capacity) {
        (Agent::Missing, _) => (reason::AGENT_NOT_READY, "no node agent runs here".to_owned()),
        (Agent::NotReady, _) => (reason::AGENT_NOT_READY, "the node agent is not ready".to_owned()),
        (Agent::Ready, None) => (reason::NOT_SEEN, "the node's ENIs were not looked at yet".to_owned()),
        (Agent::Ready, Some(capacity)) => {
            let reason = match capacity.below {
                None => reason::READY,
                Some(Limit::Enis(_)) => reason::ENI_LIMIT,
                Some(Limit::Subnets(_) | Limit::NoSubnet(_)) => reason::SUBNET_EXHAUSTED,
            };
            (reason, capacity.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(pods: u64) -> Capacity {
        Capacity { pods, limit: 27, below: (pods < 27).then(|| Limit::Subnets("subnet-a has 0 free".into())) }
    }

    /// A node through time, second after second. Gives what it was said to be, and how often that changed.
    fn live(ready: &[bool], first: Option<bool>) -> (Vec<bool>, usize) {
        let (full, mut said, mut since, mut open) = (with(27), first, 0, Vec::new());
        for (now, agent) in ready.iter().enumerate() {
            if now > 0 && *agent != ready[now - 1] {
                since = now;
            }
            let agent = if *agent { Agent::Ready } else { Agent::NotReady };
            let seen = Seen { agent, capacity: Some(&full), said };
            let standing = standing(seen, Duration::from_secs((now - since) as u64));
            said = Some(standing.open);
            open.push(standing.open);
        }
        let changes = open.windows(2).filter(|pair| pair[0] != pair[1]).count();
        (open, changes)
    }

    proptest! {
        /// However an agent flaps, pods are let in and kept out at most once in the time of the grace.
        #[test]
        fn it_does_not_flap(runs in proptest::collection::vec(1usize..90, 1..30), first in proptest::option::of(any::<bool>())) {
            let ready: Vec<bool> = runs.iter().enumerate().flat_map(|(at, run)| vec![at % 2 == 0; *run]).collect();
            let (_, changes) = live(&ready, first);
            let grace = usize::try_from(GRACE.as_secs()).unwrap();
            prop_assert!(changes <= 2 * (ready.len() / grace + 1), "{} changes in {} s", changes, ready.len());
        }

        /// Nothing is let in that was never seen to serve; what serves for long is let in.
        #[test]
        fn who_serves_is_open_in_the_end_and_who_does_not_is_not(before in proptest::collection::vec(any::<bool>(), 0..50), first in proptest::option::of(any::<bool>())) {
            let (open, _) = live(&[before.clone(), vec![true; 4]].concat(), first);
            prop_assert!(open.last().unwrap());
            let (open, _) = live(&[before, vec![false; 61]].concat(), first);
            prop_assert!(!open.last().unwrap());
        }
    }

    #[test]
    fn a_node_seen_for_the_first_time_is_closed_at_once_and_looked_at_again_in_time() {
        let full = with(27);
        let seen = |agent, said| Seen { agent, capacity: Some(&full), said };
        let new = standing(seen(Agent::Missing, None), Duration::ZERO);
        assert_eq!((new.open, new.reason, new.again), (false, reason::AGENT_NOT_READY, None));
        let up = standing(seen(Agent::Ready, Some(false)), Duration::from_secs(1));
        assert_eq!((up.open, up.again), (false, Some(Duration::from_secs(2))));
        let gone = standing(seen(Agent::NotReady, Some(true)), Duration::from_secs(20));
        assert_eq!((gone.open, gone.again, gone.quiet), (true, Some(Duration::from_secs(40)), true));
        let none = with(0);
        let full = Seen { agent: Agent::Ready, capacity: Some(&none), said: Some(true) };
        let full = standing(full, Duration::ZERO);
        assert_eq!((full.open, full.reason, full.quiet), (true, reason::SUBNET_EXHAUSTED, false));
    }

    #[test]
    fn a_node_with_fewer_addresses_is_open_and_says_why() {
        let (some, none) = (with(5), with(0));
        let seen = |capacity| Seen { agent: Agent::Ready, capacity, said: Some(true) };
        let reduced = standing(seen(Some(&some)), GRACE);
        assert_eq!((reduced.open, reduced.reason), (true, reason::SUBNET_EXHAUSTED));
        assert!(reduced.message.starts_with("5 pods can have an address, of 27"), "{}", reduced.message);
        assert!(!standing(seen(Some(&none)), GRACE).open);
        assert_eq!(standing(seen(None), GRACE).reason, reason::NOT_SEEN);
    }
}
