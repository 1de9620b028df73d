//! What a pod says of its address. Our annotations and TKE's mean the same; where both stand, ours wins. Those of its
//! namespace count where the pod has none, and the controller's flags where neither has.

use crate::api::{Afterwards, DeletePolicy, Fencing};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Prefix of our annotations.
pub const PREFIX: &str = "eni-ipam.dev/";
/// Prefix of TKE's annotations, accepted so that its manifests run unchanged.
pub const TKE_PREFIX: &str = "tke.cloud.tencent.com/";

/// `Never` (static) or `Immediate`.
pub const DELETE_POLICY: &str = "vpc-ip-claim-delete-policy";
/// How long a retained address is kept: `1h30m`, at least [`MIN_EXPIRED_DURATION`], or `never`.
pub const EXPIRED_DURATION: &str = "claim-expired-duration";
/// The one address the pod wants, or one of each family with a comma between.
pub const NOMINATED_IP: &str = "nominated-vpc-ip";
/// Comma-separated IDs of subnets that the address may come from.
pub const NOMINATED_SUBNETS: &str = "nominated-eni-subnets";

/// What happens to the address when the workload that made the pod is deleted: `Retain`, `Delete` or `TTL`.
pub const WHEN_DELETED: &str = "claim-when-deleted";
/// What happens to the address when the StatefulSet is scaled down below the pod's ordinal: the same three.
pub const WHEN_SCALED: &str = "claim-when-scaled";
/// Whether a pod takes the address over that is kept for its name: see [`Takeover`].
pub const TAKEOVER: &str = "claim-takeover";
/// `Strict` or `Optimistic`: see [`Fencing`].
pub const FENCING: &str = "fencing";

/// The shortest retention that can be asked for (TKE's floor).
pub const MIN_EXPIRED_DURATION: Duration = Duration::from_secs(300);

/// What the annotations of a pod ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressWish {
    /// Absent: the controller's default.
    pub delete_policy: Option<DeletePolicy>,
    /// In the form of [`format_expiry`].
    pub expired_duration: Option<String>,
    /// See [`NOMINATED_IP`]: at most one of each family.
    pub nominated_ips: Vec<IpAddr>,
    /// See [`NOMINATED_SUBNETS`].
    pub nominated_subnets: Vec<String>,
    /// See [`WHEN_DELETED`].
    pub when_deleted: Option<Afterwards>,
    /// See [`WHEN_SCALED`].
    pub when_scaled: Option<Afterwards>,
    /// Absent: [`Takeover::ByName`], or [`Takeover::SameWorkload`] when addresses go with their workload.
    pub takeover: Option<Takeover>,
    /// See [`FENCING`].
    pub fencing: Option<Fencing>,
}

/// Which pods take over an address that is kept for their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// All, as with TKE: also those of another workload that was given the name.
    ByName,
    /// Not those of another workload when the former one is gone: they get an address of their own.
    SameWorkload,
}

/// An annotation that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key}: {value:?} {problem}; {remedy}")]
pub struct BadAnnotation {
    /// Full name of the annotation.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong with the value.
    pub problem: &'static str,
    /// What to write instead.
    pub remedy: &'static str,
}

impl AddressWish {
    /// Reads a pod's annotations.
    ///
    /// # Errors
    /// The wish of all annotations that can be followed, and one [`BadAnnotation`] for each that cannot.
    pub fn parse(annotations: &BTreeMap<String, String>) -> (Self, Vec<BadAnnotation>) {
        let mut wish = Self::default();
        let mut bad = Vec::new();
        let find = |name: &str| {
            [PREFIX, TKE_PREFIX]
                .iter()
                .find_map(|prefix| annotations.get_key_value(&format!("{prefix}{name}")))
        };
        let mut refuse = |key: &String, value: &String, problem, remedy| {
            bad.push(BadAnnotation { key: key.clone(), value: value.clone(), problem, remedy });
        };
        if let Some((key, value)) = find(DELETE_POLICY) {
            match value.trim() {
                "Never" => wish.delete_policy = Some(DeletePolicy::Never),
                "Immediate" => wish.delete_policy = Some(DeletePolicy::Immediate),
                _ => {
                    // The safe side of an unreadable policy is to keep the address.
                    wish.delete_policy = Some(DeletePolicy::Never);
                    refuse(key, value, "is no policy, so the address is kept", "write Never or Immediate");
                }
            }
        }
        if let Some((key, value)) = find(EXPIRED_DURATION) {
            match parse_expiry(value) {
                Ok(expiry) => wish.expired_duration = Some(format_expiry(expiry)),
                Err(problem) => {
                    // Likewise: an unreadable time never expires.
                    wish.expired_duration = Some("never".to_owned());
                    refuse(key, value, problem, "write a duration of at least 5m such as 1h30m, or never");
                }
            }
        }
        if let Some((key, value)) = find(NOMINATED_IP) {
            match parse_ips(value) {
                Ok(ips) => wish.nominated_ips = ips,
                Err((problem, remedy)) => refuse(key, value, problem, remedy),
            }
        }
        if let Some((key, value)) = find(NOMINATED_SUBNETS) {
            wish.nominated_subnets =
                value.split(',').map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect();
            if wish.nominated_subnets.is_empty() {
                refuse(key, value, "names no subnet", "write subnet IDs with commas between them");
            }
        }
        let afterwards = "write Retain, Delete or TTL";
        for (name, rule) in [(WHEN_DELETED, &mut wish.when_deleted), (WHEN_SCALED, &mut wish.when_scaled)] {
            let Some((key, value)) = find(name) else { continue };
            *rule = Some(match value.trim() {
                "Retain" => Afterwards::Retain,
                "Delete" => Afterwards::Delete,
                "TTL" => Afterwards::Ttl,
                _ => {
                    refuse(key, value, "is none of the three, so the address is kept", afterwards);
                    Afterwards::Retain
                }
            });
        }
        if let Some((key, value)) = find(TAKEOVER) {
            wish.takeover = match value.trim() {
                "ByName" => Some(Takeover::ByName),
                "SameWorkload" => Some(Takeover::SameWorkload),
                _ => {
                    let problem = "is neither, so the address is taken over by name";
                    refuse(key, value, problem, "write ByName or SameWorkload");
                    Some(Takeover::ByName)
                }
            };
        }
        if let Some((key, value)) = find(FENCING) {
            wish.fencing = match value.trim() {
                "Strict" => Some(Fencing::Strict),
                "Optimistic" => Some(Fencing::Optimistic),
                _ => {
                    refuse(
                        key,
                        value,
                        "is neither, so the former node is waited for",
                        "write Strict or Optimistic",
                    );
                    Some(Fencing::Strict)
                }
            };
        }
        (wish, bad)
    }

    /// Reads the annotations of a namespace: the same ones, for all its pods, but that no one address can be theirs.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_namespace(annotations: &BTreeMap<String, String>) -> (Self, Vec<BadAnnotation>) {
        let (mut wish, mut bad) = Self::parse(annotations);
        wish.nominated_ips.clear();
        for bad in &mut bad {
            bad.key.insert_str(0, "of the namespace, ");
        }
        (wish, bad)
    }

    /// What is not said here is as in `defaults`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        let Self { delete_policy, expired_duration, nominated_ips, nominated_subnets, .. } = self;
        Self {
            delete_policy: delete_policy.or(defaults.delete_policy),
            expired_duration: expired_duration.or(defaults.expired_duration),
            nominated_ips: if nominated_ips.is_empty() { defaults.nominated_ips } else { nominated_ips },
            nominated_subnets: if nominated_subnets.is_empty() {
                defaults.nominated_subnets
            } else {
                nominated_subnets
            },
            when_deleted: self.when_deleted.or(defaults.when_deleted),
            when_scaled: self.when_scaled.or(defaults.when_scaled),
            takeover: self.takeover.or(defaults.takeover),
            fencing: self.fencing.or(defaults.fencing),
        }
    }
}

impl AddressWish {
    /// The nominated addresses as a claim has them.
    #[must_use]
    pub fn nominated_text(&self) -> Option<String> {
        let texts: Vec<_> = self.nominated_ips.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    }
}

/// Reads one address, or one of each family.
fn parse_ips(text: &str) -> Result<Vec<IpAddr>, (&'static str, &'static str)> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for part in text.split(',') {
        let ip: IpAddr =
            part.trim().parse().map_err(|_| ("is no IP address", "write one address such as 10.0.1.7"))?;
        // The schema of a claim knows no IPv4 address in the clothes of an IPv6 one.
        let ip = ip.to_canonical();
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(("names two addresses of one family", "write one of each: 10.0.1.7,fd00::7"));
        }
        ips.push(ip);
    }
    Ok(ips)
}

/// Reads a retention: a duration (`1h30m`, `600s`), or `never` (`None`).
///
/// # Errors
/// What is wrong with the text.
pub fn parse_expiry(text: &str) -> Result<Option<Duration>, &'static str> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("never") {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Err(_) => Err("is no duration"),
        Ok(duration) if duration < MIN_EXPIRED_DURATION => Err("is shorter than 5m"),
        Ok(duration) => Ok(Some(duration)),
    }
}

/// Writes a retention as a claim has it: hours, minutes and seconds (`1h30m`), which is what a rule of the schema can
/// read, or `never`. Parts of a second round up, so that no address goes early; more than 292 years, which such a
/// rule cannot hold, are `never`.
#[must_use]
pub fn format_expiry(expiry: Option<Duration>) -> String {
    /// The longest duration of CEL: 2^63 nanoseconds.
    const LONGEST: Duration = Duration::from_secs(i64::MAX.unsigned_abs() / 1_000_000_000);
    let Some(expiry) = expiry.filter(|expiry| *expiry < LONGEST) else { return "never".to_owned() };
    let seconds = expiry.as_secs() + u64::from(expiry.subsec_nanos() > 0);
    [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(pairs: &[(&str, &str)]) -> (AddressWish, Vec<BadAnnotation>) {
        AddressWish::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn tke_annotations_mean_the_same_and_ours_win() {
        let (tke, bad) = wish(&[
            ("tke.cloud.tencent.com/vpc-ip-claim-delete-policy", "Never"),
            ("tke.cloud.tencent.com/claim-expired-duration", "1h30m"),
            ("tke.cloud.tencent.com/nominated-vpc-ip", "10.0.1.7"),
            ("tke.cloud.tencent.com/nominated-eni-subnets", "subnet-a, subnet-b"),
        ]);
        assert_eq!(bad, []);
        assert_eq!(tke.delete_policy, Some(DeletePolicy::Never));
        assert_eq!(tke.expired_duration.as_deref(), Some("1h30m"));
        assert_eq!(tke.nominated_text().as_deref(), Some("10.0.1.7"));
        assert_eq!(tke.nominated_subnets, ["subnet-a", "subnet-b"]);
        let (both, _) = wish(&[
            ("eni-ipam.dev/vpc-ip-claim-delete-policy", "Immediate"),
            ("tke.cloud.tencent.com/vpc-ip-claim-delete-policy", "Never"),
        ]);
        assert_eq!(both.delete_policy, Some(DeletePolicy::Immediate));
    }

    #[test]
    fn nonsense_names_the_annotation_and_keeps_the_address() {
        let (wish, bad) = wish(&[
            ("eni-ipam.dev/vpc-ip-claim-delete-policy", "Sometimes"),
            ("eni-ipam.dev/claim-expired-duration", "ten minutes or so"),
            ("eni-ipam.dev/nominated-vpc-ip", "10.0.1.700"),
        ]);
        assert_eq!(wish.delete_policy, Some(DeletePolicy::Never));
        assert_eq!(wish.expired_duration.as_deref(), Some("never"));
        assert_eq!(wish.nominated_text(), None);
        let text: Vec<String> = bad.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 3);
        assert!(text[1].starts_with(
            "annotation eni-ipam.dev/claim-expired-duration: \"ten minutes or so\" is no duration; write "
        ));
    }

    #[test]
    fn one_address_of_each_family_can_be_nominated() {
        let nominate = |text| wish(&[("eni-ipam.dev/nominated-vpc-ip", text)]);
        for (text, read) in [
            ("10.0.1.7", "10.0.1.7"),
            ("FD00:0::7", "fd00::7"),
            (" 10.0.1.7, fd00::7 ", "10.0.1.7,fd00::7"),
            ("::ffff:10.0.1.7", "10.0.1.7"),
        ] {
            let (wish, bad) = nominate(text);
            assert_eq!((wish.nominated_text().as_deref(), bad), (Some(read), vec![]));
        }
        for (text, problem) in [
            ("10.0.1.7,", "is no IP address"),
            ("10.0.1.7 fd00::7", "is no IP address"),
            ("10.0.1.7,10.0.1.8", "names two addresses of one family"),
            ("10.0.1.7,fd00::7,fd00::8", "names two addresses of one family"),
        ] {
            let (wish, bad) = nominate(text);
            assert_eq!((wish.nominated_ips.len(), bad[0].problem), (0, problem), "{text}");
        }
    }

    #[test]
    fn a_namespace_speaks_where_its_pods_are_silent() {
        let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let (defaults, bad) = AddressWish::of_namespace(&of(&[
            ("tke.cloud.tencent.com/vpc-ip-claim-delete-policy", "Never"),
            ("eni-ipam.dev/claim-expired-duration", "2h"),
            ("eni-ipam.dev/nominated-vpc-ip", "10.0.1.7"),
            ("eni-ipam.dev/claim-when-scaled", "Delete"),
            ("eni-ipam.dev/claim-when-deleted", "Perhaps"),
        ]));
        assert_eq!(bad.len(), 1);
        assert!(bad[0].to_string().starts_with(
            "annotation of the namespace, eni-ipam.dev/claim-when-deleted: \"Perhaps\" is none of the three, so the \
             address is kept; write "
        ));
        let silent = AddressWish::default().or(defaults.clone());
        assert_eq!(silent.delete_policy, Some(DeletePolicy::Never));
        assert_eq!(silent.nominated_text(), None, "one address is not for all");
        assert_eq!(
            (silent.when_deleted, silent.when_scaled),
            (Some(Afterwards::Retain), Some(Afterwards::Delete))
        );
        let (pod, _) = wish(&[
            ("eni-ipam.dev/vpc-ip-claim-delete-policy", "Immediate"),
            ("eni-ipam.dev/claim-expired-duration", "never"),
            ("eni-ipam.dev/claim-when-scaled", "TTL"),
        ]);
        let pod = pod.or(defaults);
        assert_eq!(pod.delete_policy, Some(DeletePolicy::Immediate));
        assert_eq!(pod.expired_duration.as_deref(), Some("never"));
        assert_eq!(pod.when_scaled, Some(Afterwards::Ttl));
    }

    #[test]
    fn expiry_has_a_floor() {
        assert_eq!(parse_expiry("299s"), Err("is shorter than 5m"));
        assert_eq!(parse_expiry("300s"), Ok(Some(MIN_EXPIRED_DURATION)));
        assert_eq!(parse_expiry("Never"), Ok(None));
    }
    #[test]
    fn expiry_is_written_so_that_the_schema_can_read_it() {
        for (text, written) in [
            ("300s", "5m"),
            ("1h 30min", "1h30m"),
            ("7d", "168h"),
            ("1h1m1s", "1h1m1s"),
            ("300001ms", "5m1s"),
            ("NEVER", "never"),
            ("1000years", "never"),
        ] {
            let expiry = parse_expiry(text).unwrap();
            assert_eq!(format_expiry(expiry), written);
            assert!(parse_expiry(written).unwrap().is_none_or(|read| Some(read) >= expiry), "{text}");
        }
    }
}
