//! The node's end of a pod's veth: its name, MAC, MTU, and that it is up.

use rustix::io::Errno;

use crate::{
    netlink::{Link, MacText, NetlinkError, parse_mac},
    node::{context::Node, drift::Kind, journal::Record},
};

/// Makes the link as its ADD has made it. Answers what it is now, but for `up`: false if it was down at any
/// time, for it has lost its routes then.
///
/// # Errors
/// When the kernel refuses.
pub async fn keep(node: &Node, record: &Record, link: &Link) -> Result<Link, NetlinkError> {
    let mut now = link.clone();
    let mut wrong = Vec::new();
    let mac = parse_mac(&record.host_mac).filter(|mac| *mac != link.mac);
    if let Some(mac) = mac {
        wrong.push(format!("MAC {}", MacText(link.mac)));
        now.mac = mac;
    }
    let mtu = (record.mtu != link.mtu).then_some(record.mtu);
    if let Some(mtu) = mtu {
        wrong.push(format!("MTU {}", link.mtu));
        now.mtu = mtu;
    }
    if mac.is_some() || mtu.is_some() {
        node.net.change_link(link.index, None, mac, mtu).await?;
    }
    if link.name != record.host_ifname {
        match rename(node, link, &record.host_ifname).await {
            Ok(stayed_up) => {
                now.up &= stayed_up;
                wrong.push(format!("renamed to {}", link.name));
                now.name.clone_from(&record.host_ifname);
            }
            // Everything goes by its index; it works under any name.
            Err(error) => node.repairs.failed(
                Kind::PodLink,
                &record.host_ifname,
                format_args!("it was renamed to {}: {error}; remove what has taken the name", link.name),
            ),
        }
    }
    if !link.up {
        node.net.set_up(link.index).await?;
        wrong.push("down".to_owned());
    }
    if !wrong.is_empty() {
        node.repairs.done(Kind::PodLink, &record.host_ifname, wrong.join(", "));
    }
    Ok(now)
}

/// Renames a link; answers whether it stayed up meanwhile.
async fn rename(node: &Node, link: &Link, name: &str) -> Result<bool, NetlinkError> {
    match node.net.change_link(link.index, Some(name), None, None).await {
        Err(error) if error.is(Errno::BUSY) => {
            node.net.set_down(link.index).await?;
            let renamed = node.net.change_link(link.index, Some(name), None, None).await;
            node.net.set_up(link.index).await?;
            renamed.map(|()| false)
        }
        other => other.map(|()| true),
    }
}
