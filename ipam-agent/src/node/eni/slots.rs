//! Which slot of the `ENIS` map an ENI has. Pod routes name slots, so an ENI keeps its own for as long as it is there.

use std::collections::BTreeMap;

use ipam_common::{Eni, MAX_ENIS, Mac};

use crate::{
    netlink::{MacText, parse_mac},
    node::journal::EniRecord,
};

/// The slot of the ENI with this MAC: the one it has by the journal, else by the map, else the lowest free one.
/// `None`: all are taken.
#[must_use]
pub fn slot_for(mac: Mac, journal: &BTreeMap<u32, EniRecord>, map: &[(u32, Eni)]) -> Option<u32> {
    let text = MacText(mac).to_string();
    if let Some(record) = journal.values().find(|record| record.mac == text) {
        return Some(record.slot);
    }
    let free = |slot: &u32| !journal.contains_key(slot);
    let by_map = map.iter().find(|(slot, eni)| eni.mac == mac && free(slot)).map(|(slot, _)| *slot);
    by_map.or_else(|| {
        // A slot that the map has for another ENI may be named by routes that this agent has yet to look at.
        (1..MAX_ENIS).find(|slot| free(slot) && map.iter().all(|(taken, _)| taken != slot))
    })
}

/// Whether a journal's ENI and a MAC are the same.
#[must_use]
pub fn is(record: &EniRecord, mac: Mac) -> bool {
    parse_mac(&record.mac) == Some(mac)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac { octets: [2, 0, 0, 0, 0, last] }
    }

    fn eni(last: u8) -> Eni {
        Eni { ifindex: last.into(), mac: mac(last), ..Eni::EMPTY }
    }

    fn record(slot: u32, last: u8) -> (u32, EniRecord) {
        let id = format!("eni-{last}");
        let mac = MacText(mac(last)).to_string();
        let (gateway, primary_ip) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, last));
        (slot, EniRecord { slot, id, mac, gateway, primary_ip, gateway_v6: None })
    }

    #[test]
    fn a_slot_is_kept_and_a_new_one_is_free() {
        let journal = BTreeMap::from([record(3, 1)]);
        assert_eq!(slot_for(mac(1), &journal, &[(7, eni(1))]), Some(3), "the journal is right");
        assert_eq!(slot_for(mac(2), &journal, &[(7, eni(2))]), Some(7), "then the map");
        assert_eq!(slot_for(mac(2), &journal, &[(3, eni(2))]), Some(1), "but not into another one's slot");
        assert_eq!(slot_for(mac(2), &journal, &[(1, eni(9))]), Some(2), "not where a stranger still is");
        let full = (1..MAX_ENIS).map(|slot| record(slot, 100 + slot as u8)).collect();
        assert_eq!(slot_for(mac(2), &full, &[]), None);
    }
}
