//! What becomes of a workload, and what that means for the addresses of its pods that are gone: as a StatefulSet does
//! with its volumes (`persistentVolumeClaimRetentionPolicy`), and by cascade.

use std::ops::RangeInclusive;

use crate::api::Afterwards;

/// What is known of a workload and of the place in it of the pod that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It exists, and nothing says that the pod will not come back.
    Wanted,
    /// It exists with fewer replicas than the pod's ordinal needs.
    ScaledAway,
    /// There is none of this UID.
    Gone,
    /// It could not be read, or nobody knows which it is.
    Unknown,
}

/// What a claim was told to do when its workload does not want the pod any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// When the workload is gone.
    pub when_deleted: Option<Afterwards>,
    /// When it was scaled down.
    pub when_scaled: Option<Afterwards>,
    /// `--enable-ownerref`: the address goes with the workload at the top, unless `when_deleted` says something.
    pub cascade: bool,
}

/// What the workload means for a retained address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the address is kept for as long as the claim says.
    #[default]
    Expire,
    /// It is kept, also when its time is over.
    Keep,
    /// It is given back.
    Release,
}

impl Rules {
    /// Whether the workload matters at all.
    #[must_use]
    pub fn any(&self) -> bool {
        self.cascade || self.when_deleted.is_some() || self.when_scaled.is_some()
    }

    /// The verdict.
    ///
    /// * `maker`: the workload that made the pod, such as its StatefulSet or ReplicaSet.
    /// * `top`: the one at the top of the chain of owners, such as a Deployment.
    #[must_use]
    pub fn verdict(&self, maker: Fate, top: Fate) -> Verdict {
        let told = match maker {
            Fate::Gone => self.when_deleted,
            Fate::ScaledAway => self.when_scaled,
            Fate::Wanted => None,
            // What cannot be read may be the very case in which the address shall stay.
            Fate::Unknown => [self.when_deleted, self.when_scaled]
                .into_iter()
                .flatten()
                .find(|it| *it == Afterwards::Retain),
        };
        match told {
            Some(Afterwards::Retain) => Verdict::Keep,
            Some(Afterwards::Delete) => Verdict::Release,
            Some(Afterwards::Ttl) => Verdict::Expire,
            None if self.cascade && maker == Fate::Gone && top == Fate::Gone => Verdict::Release,
            None => Verdict::Expire,
        }
    }
}

/// What a workload's replicas say of a pod that is named `<workload>-<ordinal>`, with ordinals from `start` on.
/// `reserved` ordinals are left out in the counting, as OpenKruise's StatefulSet can do; ranges may overlap. A pod whose
/// own ordinal is reserved is not scaled away by that: it was set aside, and may be let in again.
#[must_use]
pub fn place_in(
    pod: &str,
    workload: &str,
    start: i64,
    replicas: i64,
    mut reserved: Vec<RangeInclusive<i64>>,
) -> Fate {
    let ordinal = pod.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-'));
    let Some(ordinal) = ordinal.and_then(|ordinal| ordinal.parse::<i64>().ok()) else { return Fate::Wanted };
    reserved.sort_unstable_by_key(|range| *range.start());
    // Ordinals from `start` up to the pod's own that count: each gap before a reserved range, and the last one.
    let (mut next, mut before) = (start, 0i64);
    for range in reserved.into_iter().filter(|range| *range.start() < ordinal) {
        before = before.saturating_add(range.start().saturating_sub(next).max(0));
        next = next.max(range.end().saturating_add(1));
    }
    before = before.saturating_add(ordinal.saturating_sub(next).max(0));
    if ordinal >= start && before >= replicas { Fate::ScaledAway } else { Fate::Wanted }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_fate() -> impl Strategy<Value = Fate> {
        prop_oneof![Just(Fate::Wanted), Just(Fate::ScaledAway), Just(Fate::Gone), Just(Fate::Unknown)]
    }

    fn any_afterwards() -> impl Strategy<Value = Option<Afterwards>> {
        proptest::option::of(prop_oneof![
            Just(Afterwards::Retain),
            Just(Afterwards::Delete),
            Just(Afterwards::Ttl)
        ])
    }

    prop_compose! {
        fn any_rules()(when_deleted in any_afterwards(), when_scaled in any_afterwards(), cascade: bool) -> Rules {
            Rules { when_deleted, when_scaled, cascade }
        }
    }

    proptest! {
        /// Absence of information never releases anything.
        #[test]
        fn what_cannot_be_read_releases_nothing(rules in any_rules(), top in any_fate()) {
            prop_assert_ne!(rules.verdict(Fate::Unknown, top), Verdict::Release);
        }

        /// A workload that wants its pod back releases nothing, whatever became of the one above it.
        #[test]
        fn a_wanted_pod_keeps_its_address(rules in any_rules(), top in any_fate()) {
            prop_assert_eq!(rules.verdict(Fate::Wanted, top), Verdict::Expire);
        }

        /// Only who was told to gives back, and each rule is for its own case.
        #[test]
        fn every_release_was_asked_for(rules in any_rules(), maker in any_fate(), top in any_fate()) {
            if rules.verdict(maker, top) == Verdict::Release {
                let by_rule = match maker {
                    Fate::Gone => rules.when_deleted == Some(Afterwards::Delete),
                    Fate::ScaledAway => rules.when_scaled == Some(Afterwards::Delete),
                    Fate::Wanted | Fate::Unknown => false,
                };
                let by_cascade = rules.cascade && rules.when_deleted.is_none() && (maker, top) == (Fate::Gone, Fate::Gone);
                prop_assert!(by_rule || by_cascade);
            }
        }

        /// Retain wins over everything, also over not knowing.
        #[test]
        fn retain_keeps(cascade: bool, top in any_fate(), maker in prop_oneof![Just(Fate::ScaledAway), Just(Fate::Gone), Just(Fate::Unknown)]) {
            let rules = Rules { when_deleted: Some(Afterwards::Retain), when_scaled: Some(Afterwards::Retain), cascade };
            prop_assert_eq!(rules.verdict(maker, top), Verdict::Keep);
        }

        /// Of `replicas` ordinals from `start` on, exactly those are wanted.
        #[test]
        fn ordinals_beyond_the_replicas_are_scaled_away(start in 0i64..5, replicas in 0i64..5, ordinal in 0i64..20) {
            let fate = place_in(&format!("web-{ordinal}"), "web", start, replicas, Vec::new());
            prop_assert_eq!(fate == Fate::ScaledAway, ordinal >= start + replicas);
        }

        /// Reserved ordinals move the end as far as counting them one by one does.
        #[test]
        fn reserved_ordinals_are_skipped(
            start in 0i64..5, replicas in 0i64..5, ordinal in 0i64..40,
            reserved in proptest::collection::vec((0i64..20, 0i64..5), 0..5),
        ) {
            let reserved: Vec<_> = reserved.into_iter().map(|(first, more)| first..=first + more).collect();
            let counts = |ordinal: &i64| !reserved.iter().any(|range| range.contains(ordinal));
            let last = usize::try_from(replicas).unwrap().checked_sub(1).and_then(|nth| (start..).filter(counts).nth(nth));
            let end = last.map_or(start, |last| last + 1);
            let fate = place_in(&format!("web-{ordinal}"), "web", start, replicas, reserved.clone());
            prop_assert_eq!(fate == Fate::ScaledAway, ordinal >= end);
        }
    }

    #[test]
    fn a_pod_that_is_not_numbered_by_its_workload_is_wanted() {
        for pod in ["web", "web-", "web-x", "other-7", "web-7-0", "web7"] {
            assert_eq!(place_in(pod, "web", 0, 1, Vec::new()), Fate::Wanted, "{pod}");
        }
    }
}
