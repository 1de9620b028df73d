//! What to do about a lease, from what is seen of it. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// How long things take. The defaults are those of Kubernetes' own controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A lease that nobody has renewed for so long is free. Whole seconds, for the object has no others.
    pub lease_duration: Duration,
    /// A holder that could not renew for so long stops. What is between this and the lease's duration is left to
    /// requests that are on their way.
    pub renew_deadline: Duration,
    /// Pause between two looks at the lease, and between two renewals.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Whether a holder always stops before another begins, and has more than one try to renew.
    ///
    /// # Errors
    /// The flag that is wrong, and what to write.
    pub fn check(&self) -> Result<(), String> {
        let Self { lease_duration, renew_deadline, retry_period } = self;
        if lease_duration.is_zero() || lease_duration.subsec_nanos() != 0 {
            return Err("--leader-elect-lease-duration: write whole seconds such as 15s".into());
        }
        if renew_deadline >= lease_duration {
            return Err(format!(
                "--leader-elect-renew-deadline {renew_deadline:?}: must be shorter than \
                 --leader-elect-lease-duration {lease_duration:?}, or two controllers act at the same time"
            ));
        }
        if retry_period.is_zero() || *retry_period * 2 > *renew_deadline {
            return Err(format!(
                "--leader-elect-retry-period {retry_period:?}: must be at most half of \
                 --leader-elect-renew-deadline {renew_deadline:?}, so that one failed renewal is no end"
            ));
        }
        Ok(())
    }
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the lease to its own name.
    Take,
    /// Write that it still holds it.
    Renew,
    /// Look again later.
    Wait,
}

/// The next step of `me`, who has seen this lease unchanged for `unchanged_for` by its own clock.
pub fn step(lease: &LeaseSpec, me: &str, unchanged_for: Duration, timing: &Timing) -> Step {
    // What the holder has promised; one that promises nothing is given what we would take.
    let promised = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let promised = promised.map_or(timing.lease_duration, Duration::from_secs);
    match lease.holder_identity.as_deref() {
        Some(holder) if holder == me => Step::Renew,
        None | Some("") => Step::Take,
        Some(_) if unchanged_for >= promised => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// The lease in the name of `me`. The times are for people to read.
pub fn held(before: &LeaseSpec, me: &str, now: Timestamp, timing: &Timing) -> LeaseSpec {
    let renews = before.holder_identity.as_deref() == Some(me);
    let transitions = before.lease_transitions.unwrap_or(0).saturating_add(i32::from(!renews));
    LeaseSpec {
        acquire_time: before.acquire_time.clone().filter(|_| renews).or(Some(MicroTime(now))),
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(timing.lease_duration.as_secs()).ok(),
        lease_transitions: Some(transitions),
        renew_time: Some(MicroTime(now)),
        ..before.clone()
    }
}

/// The lease in nobody's name.
pub fn freed(before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec { holder_identity: None, renew_time: Some(MicroTime(now)), ..before.clone() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn timing(lease_s: u64, deadline_ms: u64, retry_ms: u64) -> Timing {
        Timing {
            lease_duration: Duration::from_secs(lease_s),
            renew_deadline: MS(deadline_ms),
            retry_period: MS(retry_ms),
        }
    }

    #[test]
    fn times_in_which_two_could_act_are_refused() {
        assert_eq!(Timing::default().check(), Ok(()));
        for (wrong, flag) in [
            (timing(15, 15_000, 2_000), "--leader-elect-renew-deadline 15s"),
            (timing(15, 10_000, 6_000), "--leader-elect-retry-period 6s"),
            (timing(15, 10_000, 0), "--leader-elect-retry-period"),
            (timing(0, 0, 0), "--leader-elect-lease-duration"),
            (Timing { lease_duration: MS(1500), ..timing(2, 1_000, 100) }, "whole seconds"),
        ] {
            let said = wrong.check().unwrap_err();
            assert!(said.contains(flag), "{wrong:?}: {said}");
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_nobodys_or_over() {
        let timing = timing(15, 10_000, 2_000);
        let now = Timestamp::UNIX_EPOCH;
        let a = held(&LeaseSpec::default(), "a", now, &timing);
        assert_eq!(step(&LeaseSpec::default(), "a", MS(0), &timing), Step::Take);
        assert_eq!(step(&a, "a", MS(0), &timing), Step::Renew);
        assert_eq!(step(&a, "b", MS(14_999), &timing), Step::Wait);
        assert_eq!(step(&a, "b", MS(15_000), &timing), Step::Take);
        // It is the holder's word that counts.
        let longer = LeaseSpec { lease_duration_seconds: Some(60), ..a.clone() };
        assert_eq!(step(&longer, "b", MS(15_000), &timing), Step::Wait);
        assert_eq!(step(&freed(&a, now), "b", MS(0), &timing), Step::Take);
        let b = held(&freed(&a, now), "b", now, &timing);
        assert_eq!((a.lease_transitions, b.lease_transitions), (Some(1), Some(2)));
        assert_eq!(held(&b, "b", now, &timing).lease_transitions, Some(2));
    }

    /// Two machines, each with a clock of its own, and a lease that is written only by whoever has seen its last version.
    struct Machine {
        frozen_until: u64,
        seen: Option<(u64, u64)>,
        holds_until: u64,
        next: u64,
    }

    proptest! {
        /// Never do two hold the lease, however long each is frozen and whichever of its looks are lost.
        #[test]
        fn two_never_hold_it(
            lease_s in 2u64..6,
            deadline in 1u64..100,
            pauses in prop::collection::vec((0usize..2, 0u64..60_000, 0u64..20_000, prop::bool::ANY), 1..60),
        ) {
            let deadline_ms = lease_s * 1000 * deadline / 101;
            let timing = timing(lease_s, deadline_ms.max(2), (deadline_ms / 2).max(1));
            prop_assume!(timing.check().is_ok());
            let (mut lease, mut version) = (LeaseSpec::default(), 0u64);
            let mut machines = [0, 1].map(|_| Machine { frozen_until: 0, seen: None, holds_until: 0, next: 0 });
            let mut events: Vec<_> = pauses;
            events.sort_by_key(|(_, at, ..)| *at);
            let mut held_by = [0u32; 2];
            for now in (0..90_000u64).step_by(50) {
                while let Some((who, _, length, _)) = events.first().filter(|(_, at, ..)| *at <= now).copied() {
                    machines[who].frozen_until = machines[who].frozen_until.max(now + length);
                    events.remove(0);
                }
                for (who, machine) in machines.iter_mut().enumerate() {
                    if now < machine.frozen_until.max(machine.next) {
                        continue;
                    }
                    machine.next = now + u64::try_from(timing.retry_period.as_millis()).unwrap();
                    let me = ["a", "b"][who];
                    if machine.seen.is_none_or(|(seen, _)| seen != version) {
                        machine.seen = Some((version, now));
                    }
                    let unchanged = MS(now - machine.seen.unwrap().1);
                    if step(&lease, me, unchanged, &timing) != Step::Wait {
                        // A holder whose term is over ends; it comes back as another. Here it just takes it anew.
                        lease = held(&lease, me, Timestamp::UNIX_EPOCH, &timing);
                        version += 1;
                        machine.seen = Some((version, now));
                        machine.holds_until = now + u64::try_from(timing.renew_deadline.as_millis()).unwrap();
                        held_by[who] += 1;
                    }
                }
                let holding = machines.iter().filter(|machine| now < machine.holds_until).count();
                prop_assert!(holding <= 1, "both hold it at {now} ms");
            }
            prop_assert!(held_by.iter().sum::<u32>() > 0);
        }
    }
}
