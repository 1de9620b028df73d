//! The pod's own side, seen from inside its network namespace.

use std::{fs::File, os::fd::AsFd as _};

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    explain::InsideView,
    inspect::AttachmentView,
    netlink::{MacText, Netlink},
    node::POD_GATEWAY,
};

/// Looks at the pod's interface. Needs root.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub fn look(attachment: &AttachmentView) -> anyhow::Result<InsideView> {
    let netns = File::open(&attachment.netns).with_context(|| attachment.netns.clone())?;
    let ifname = attachment.ifname.clone();
    // A thread of its own: the namespace is a thread's, and this one ends with it.
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(interface(&ifname))
    });
    thread.join().map_err(|_| anyhow::anyhow!("the thread that looked has panicked"))?
}

async fn interface(ifname: &str) -> anyhow::Result<InsideView> {
    let net = Netlink::open()?;
    let Some(link) = net.link_by_name(ifname).await? else { return Ok(InsideView::default()) };
    let addresses = net.addresses().await?;
    let neighbours = net.neighbours().await?;
    let gateway =
        neighbours.iter().find(|neighbour| neighbour.ifindex == link.index && neighbour.ip == POD_GATEWAY);
    Ok(InsideView {
        up: Some(link.up),
        addresses: addresses
            .into_iter()
            .filter(|(index, _)| *index == link.index)
            .map(|(_, ip)| ip)
            .collect(),
        default_route: net.default_route_interfaces().await?.contains(&link.index),
        gateway_mac: gateway.and_then(|gateway| gateway.mac).map(|mac| MacText(mac).to_string()),
    })
}
