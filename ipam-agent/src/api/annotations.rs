//! What a pod says of its address. Our annotations and TKE's mean the same; where both stand, ours wins.

use crate::api::DeletePolicy;
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
/// The one address the pod wants.
pub const NOMINATED_IP: &str = "nominated-vpc-ip";
/// Comma-separated IDs of subnets that the address may come from.
pub const NOMINATED_SUBNETS: &str = "nominated-eni-subnets";

/// The shortest retention that can be asked for (TKE's floor).
pub const MIN_EXPIRED_DURATION: Duration = Duration::from_secs(300);

/// What the annotations of a pod ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressWish {
    /// Absent: the controller's default.
    pub delete_policy: Option<DeletePolicy>,
    /// In the form of [`format_expiry`].
    pub expired_duration: Option<String>,
    /// See [`NOMINATED_IP`].
    pub nominated_ip: Option<IpAddr>,
    /// See [`NOMINATED_SUBNETS`].
    pub nominated_subnets: Vec<String>,
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
            match value.trim().parse::<IpAddr>() {
                // The schema of a claim knows no IPv4 address in the clothes of an IPv6 one.
                Ok(ip) => wish.nominated_ip = Some(ip.to_canonical()),
                Err(_) => refuse(key, value, "is no IP address", "write one address such as 10.0.1.7"),
            }
        }
        if let Some((key, value)) = find(NOMINATED_SUBNETS) {
            wish.nominated_subnets =
                value.split(',').map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect();
            if wish.nominated_subnets.is_empty() {
                refuse(key, value, "names no subnet", "write subnet IDs with commas between them");
            }
        }
        (wish, bad)
    }
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
        assert_eq!(tke.nominated_ip, "10.0.1.7".parse().ok());
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
        assert_eq!(wish.nominated_ip, None);
        let text: Vec<String> = bad.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 3);
        assert!(text[1].starts_with(
            "annotation eni-ipam.dev/claim-expired-duration: \"ten minutes or so\" is no duration; write "
        ));
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
