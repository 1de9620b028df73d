//! The name of an ENI in the cloud.

use sha2::{Digest, Sha256};

/// The longest that every cloud takes, in bytes.
const LONGEST: usize = 60;

/// Names the ENI of a node by its primary address, of which there is one at a time: asking twice for it finds the same.
/// Names that are too long are cut, with a hash of the whole.
#[must_use]
pub fn eni_name(cluster: &str, node: &str, primary: &str) -> String {
    let whole = format!("{cluster}-{node}-{primary}");
    if whole.len() <= LONGEST {
        return whole;
    }
    let hash = hex::encode(&Sha256::digest(&whole)[..6]);
    let tail = format!("-{hash}-{primary}");
    let mut head = format!("{cluster}-{node}");
    while head.len() + tail.len() > LONGEST {
        head.pop();
    }
    head + &tail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_fit_and_tell_nodes_apart(cluster in "[a-zé-]{0,80}", node in "[a-zé.-]{1,253}", last: u8) {
            let primary = format!("10.255.255.{last}");
            let name = eni_name(&cluster, &node, &primary);
            prop_assert!(name.len() <= LONGEST && name.ends_with(&primary), "{name}");
            prop_assert_ne!(name, eni_name(&cluster, &format!("{node}x"), &primary));
        }
    }
}
