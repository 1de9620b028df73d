//! Names and MACs of a pod's interfaces, derived from the attachment so that a repeated ADD finds the same.

use ipam_cni::protocol::AttachmentKey;
use ipam_common::Mac;
use sha2::{Digest as _, Sha256};

/// Start of the name of every veth of ours.
pub const HOST_IFNAME_PREFIX: &str = "ipam";

/// Whether only we give links such a name.
#[must_use]
pub fn is_host_ifname(name: &str) -> bool {
    let lower_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    name.strip_prefix(HOST_IFNAME_PREFIX).is_some_and(|rest| rest.len() == 11 && rest.chars().all(lower_hex))
}

/// Name of the veth's end on the node: `ipam` and 11 hexadecimal digits, the 15 characters that a name may have.
#[must_use]
pub fn host_ifname(key: &AttachmentKey) -> String {
    let digits = hex::encode(digest(key, "host-ifname"));
    format!("{HOST_IFNAME_PREFIX}{}", &digits[..11])
}

/// MAC of the veth's end on the node.
#[must_use]
pub fn host_mac(key: &AttachmentKey) -> Mac {
    mac(key, "host-mac")
}

/// MAC of the pod's end.
#[must_use]
pub fn pod_mac(key: &AttachmentKey) -> Mac {
    mac(key, "pod-mac")
}

/// A unicast, locally administered address.
fn mac(key: &AttachmentKey, purpose: &str) -> Mac {
    let [a, b, c, d, e, f, ..] = digest(key, purpose);
    Mac { octets: [(a & 0xfc) | 0x02, b, c, d, e, f] }
}

fn digest(key: &AttachmentKey, purpose: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    // CNI allows no NUL in either name, so no two pairs read the same.
    for part in [purpose, &key.container_id, &key.ifname] {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_ours() {
        assert!(is_host_ifname("ipam0123456789a"));
        for other in ["ipam", "ipam0", "ipam0123456789g", "ipam0123456789A", "veth0123456789a"] {
            assert!(!is_host_ifname(other), "{other}");
        }
    }

    #[test]
    fn names_fit_and_differ() {
        let key = |id: &str| AttachmentKey {
            network: "net".into(),
            container_id: id.into(),
            ifname: "eth0".into(),
        };
        let name = host_ifname(&key("a"));
        assert_eq!(name.len(), 15);
        assert_eq!(name, host_ifname(&key("a")));
        assert_ne!(name, host_ifname(&key("b")));
        for mac in [host_mac(&key("a")), pod_mac(&key("a"))] {
            assert_eq!(mac.octets[0] & 3, 2, "locally administered unicast");
        }
        assert_ne!(host_mac(&key("a")), pod_mac(&key("a")));
    }
}
