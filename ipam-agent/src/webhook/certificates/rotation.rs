//! When a certificate is made, and when one goes. Pure: what the Secret holds and the time in, one step out.
//!
//! A new authority is trusted for [`OVERLAP`] before anything is signed by it, and the old one for as long after the
//! last certificate of it was in use. So it does not matter which of the two comes first at a server or a caller.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// How long an authority is valid.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * DAY);
/// How long a serving certificate is valid.
pub const SERVING_LIFE: Duration = Duration::from_secs(90 * DAY);
/// How long every server and every caller has to see a change of the Secret or of the `caBundle`.
pub const OVERLAP: Duration = Duration::from_secs(HOUR);
/// Certificates are valid from so long before they are made: clocks differ.
pub const BACKDATE: Duration = Duration::from_secs(HOUR);

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: Timestamp,
    /// The last.
    pub until: Timestamp,
}

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The authorities that callers trust, the newest last: its key is at hand.
    pub authorities: Vec<Validity>,
    /// The serving certificate and the place of its authority in that list; none: there is no such, or it is not for the
    /// names that it is asked for.
    pub serving: Option<(Validity, usize)>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make an authority and a certificate of it: nothing that is there is of use.
    Begin,
    /// Make another authority, and trust both.
    AddAuthority,
    /// Make a serving certificate of the newest authority.
    Reissue,
    /// Trust the newest authority alone.
    ForgetOld,
    /// Nothing before that time.
    Rest(Timestamp),
}

impl Validity {
    /// Valid for `life` from now.
    #[must_use]
    pub fn starting(now: Timestamp, life: Duration) -> Self {
        Self { from: sooner(now, BACKDATE), until: later(now, life) }
    }

    /// When a third of its time is left.
    fn due(&self) -> Timestamp {
        let life = self.until.duration_since(self.from);
        self.from.saturating_add(life / 3 * 2).unwrap_or(self.until)
    }

    /// When everybody has seen it.
    fn settled(&self) -> Timestamp {
        later(self.from, BACKDATE + OVERLAP)
    }

    fn covers(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}

/// The next step.
#[must_use]
pub fn next_step(held: &Held, now: Timestamp) -> Step {
    let Some((newest, old)) = held.authorities.split_last() else { return Step::Begin };
    // One that is not valid yet was made by a clock that runs ahead: the callers' need not.
    if !newest.covers(now) {
        return Step::Begin;
    }
    let Some((serving, issuer)) = held.serving.filter(|(serving, _)| serving.covers(now)) else {
        return Step::Reissue;
    };
    if newest.due() <= now {
        return Step::AddAuthority;
    }
    if issuer != old.len() {
        let when = newest.settled();
        return if when <= now { Step::Reissue } else { Step::Rest(when.min(serving.until)) };
    }
    if serving.due() <= now {
        return Step::Reissue;
    }
    let mut next = serving.due().min(newest.due());
    if !old.is_empty() {
        if serving.settled() <= now {
            return Step::ForgetOld;
        }
        next = next.min(serving.settled());
    }
    Step::Rest(next)
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn sooner(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The Secret as a chain of numbered authorities.
    #[derive(Clone, Debug)]
    struct Secret {
        authorities: Vec<(u32, Validity)>,
        serving: Option<(Validity, u32)>,
        made: u32,
    }

    impl Secret {
        fn held(&self) -> Held {
            let place = |issuer| self.authorities.iter().position(|(number, _)| *number == issuer);
            Held {
                authorities: self.authorities.iter().map(|(_, validity)| *validity).collect(),
                serving: self.serving.and_then(|(serving, issuer)| Some((serving, place(issuer)?))),
            }
        }

        fn newest(&mut self, now: Timestamp) {
            self.made += 1;
            self.authorities.push((self.made, Validity::starting(now, AUTHORITY_LIFE)));
        }

        fn apply(&mut self, step: Step, now: Timestamp) {
            let serving = Some((Validity::starting(now, SERVING_LIFE), 0));
            match step {
                Step::Begin => {
                    self.authorities.clear();
                    self.newest(now);
                    self.serving = serving.map(|(serving, _)| (serving, self.made));
                }
                Step::AddAuthority => self.newest(now),
                Step::Reissue => self.serving = serving.map(|(serving, _)| (serving, self.made)),
                Step::ForgetOld => drop(self.authorities.drain(..self.authorities.len() - 1)),
                Step::Rest(_) => {}
            }
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    proptest! {
        /// Three years, looked at now and then: whoever has a bundle and whoever serves a certificate get on with each
        /// other although one of them is up to half an hour late; and the certificate is always valid.
        #[test]
        fn late_callers_and_late_servers_are_served(gaps in proptest::collection::vec(60i64..1_700, 10), days in 200i64..1_100) {
            let (mut now, mut gap) = (0, gaps.iter().cycle());
            let mut secret = Secret { authorities: Vec::new(), serving: None, made: 0 };
            let mut past: std::collections::VecDeque<(i64, Vec<u32>, u32)> = std::collections::VecDeque::new();
            while now < days * 24 * 3_600 {
                let mut resting = None;
                for _ in 0..4 {
                    let step = next_step(&secret.held(), at(now));
                    if let Step::Rest(until) = step {
                        prop_assert!(until > at(now), "rests until it is over");
                        resting = Some(until);
                        break;
                    }
                    secret.apply(step, at(now));
                }
                let Some(until) = resting else { panic!("never rests: {secret:?}") };
                let (serving, issuer) = secret.serving.unwrap();
                prop_assert!(serving.covers(at(now)));
                let trusted: Vec<u32> = secret.authorities.iter().map(|(number, _)| *number).collect();
                past.retain(|(then, ..)| now - then <= 1_800);
                past.push_back((now, trusted.clone(), issuer));
                for (then, trusted_then, issuer_then) in &past {
                    prop_assert!(trusted_then.contains(&issuer), "a caller of {then} refuses at {now}");
                    prop_assert!(trusted.contains(issuer_then), "a server of {then} is refused at {now}");
                }
                prop_assert!(trusted.len() <= 2, "authorities pile up: {trusted:?}");
                // Nothing happens until the step that was announced, or a look in between.
                let next = until.duration_since(at(now)).as_secs();
                now += next.clamp(60, 20 * 24 * 3_600).max(60) + gap.next().unwrap();
            }
            let years = u32::try_from(days / 365).unwrap();
            prop_assert!(secret.made >= years, "{} authorities in {days} days", secret.made);
        }

        /// Whatever is found, a handful of steps lead to rest.
        #[test]
        fn whatever_is_found_is_brought_in_order(
            froms in proptest::collection::vec(-100_000_000i64..100_000_000, 0..4),
            lives in proptest::collection::vec(1i64..50_000_000, 5),
            serving in proptest::option::of((-20_000_000i64..20_000_000, 0usize..4)),
        ) {
            let validity = |from: i64, life: i64| Validity { from: at(from), until: at(from + life) };
            let authorities: Vec<(u32, Validity)> =
                froms.iter().zip(&lives).zip(1..).map(|((from, life), number)| (number, validity(*from, *life))).collect();
            let made = u32::try_from(authorities.len()).unwrap();
            let serving = serving.map(|(from, issuer)| (validity(from, lives[4]), u32::try_from(issuer).unwrap()));
            let mut secret = Secret { authorities, serving, made };
            let mut steps = 0;
            loop {
                let step = next_step(&secret.held(), at(0));
                if matches!(step, Step::Rest(_)) {
                    break;
                }
                secret.apply(step, at(0));
                steps += 1;
                prop_assert!(steps <= 4, "{step:?} again: {secret:?}");
            }
            prop_assert!(secret.serving.unwrap().0.covers(at(0)));
        }
    }

    #[test]
    fn certificates_of_a_clock_that_ran_ahead_are_not_used() {
        let ahead = Validity::starting(at(100_000), AUTHORITY_LIFE);
        let held = Held { authorities: vec![ahead], serving: Some((ahead, 0)) };
        assert_eq!(next_step(&held, at(0)), Step::Begin);
    }
}
