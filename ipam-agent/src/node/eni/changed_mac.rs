//! An ENI's device whose MAC somebody has changed: the MAC is how an ENI is known, and the cloud drops what another
//! sends.

use crate::{
    dataplane::Program,
    netlink::{Link, MacText, NetlinkError, parse_mac},
    node::{context::Node, drift::Kind, journal::EniRecord},
};

/// Gives the device its MAC back. Known it is by its index and by the program that was attached to it under its name.
/// Answers the device as it is now; `None`: there is none.
///
/// # Errors
/// When the kernel refuses.
pub async fn restore(node: &Node, record: &EniRecord, links: &[Link]) -> Result<Option<Link>, NetlinkError> {
    let before =
        node.enis.borrow().iter().find(|view| view.slot == record.slot).and_then(|view| view.ifindex);
    let Some(mac) = parse_mac(&record.mac) else { return Ok(None) };
    let Some(link) = links.iter().find(|link| Some(link.index) == before) else { return Ok(None) };
    let pins = node.dataplane().links();
    let attached = |link: &Link| {
        pins.as_ref().is_ok_and(|pins| {
            pins.iter().any(|pin| {
                (pin.ifindex, &pin.ifname, pin.program) == (link.index, &link.name, Program::FromEni)
            })
        })
    };
    if !attached(link) {
        return Ok(None);
    }
    node.net.change_link(link.index, None, Some(mac), None).await?;
    let found = format!("MAC {}", MacText(link.mac));
    node.repairs.done(Kind::EniLink, format_args!("ENI {} ({})", record.id, link.name), found);
    Ok(Some(Link { mac, ..link.clone() }))
}
