//! Network devices.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use ipam_common::Mac;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::io::Errno;

use super::{DeviceSettings, Netlink, NetlinkError, collect, failed};

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; zero if it has none of six octets.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Kind of a virtual device (`veth`, `vlan`, …); empty for hardware.
    pub kind: String,
    /// Its settings.
    pub settings: DeviceSettings,
}

/// A veth pair to be made.
#[derive(Clone, Debug)]
pub struct NewVeth<'a> {
    /// Name of the end in this namespace.
    pub host_name: &'a str,
    /// Its MAC. Given, so that nobody (udev's `MACAddressPolicy`) feels free to choose another.
    pub host_mac: Mac,
    /// Namespace of the other end.
    pub pod_netns: BorrowedFd<'a>,
    /// Name of the other end.
    pub pod_name: &'a str,
    /// MAC of the other end.
    pub pod_mac: Mac,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: Mac::ZERO,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            kind: String::new(),
            settings: DeviceSettings::default(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(octets) => {
                    link.mac = octets.try_into().map_or(Mac::ZERO, |octets| Mac { octets });
                }
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::AfSpecUnspec(spec) => link.settings.read(&spec),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = kind.to_string();
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

impl Netlink {
    /// Every device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let _alone = self.listing.lock().await;
        let links = collect(self.handle.link().get().execute(), "links").await?;
        Ok(links.into_iter().map(Link::from).collect())
    }

    /// The device of this name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match collect(self.handle.link().get().match_name(name).execute(), "a link").await {
            Ok(links) => Ok(links.into_iter().next().map(Link::from)),
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The device of this index.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        match collect(self.handle.link().get().match_index(index).execute(), "a link").await {
            Ok(links) => Ok(links.into_iter().next().map(Link::from)),
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a veth pair in one message: one end here, up; the other directly in the pod's namespace, down, so that
    /// nothing flows before the programs are attached. No end is ever moved, which would cost an RCU barrier.
    ///
    /// # Errors
    /// `EEXIST` when either name is taken; others when the kernel refuses. Nothing is left behind then.
    pub async fn create_veth(&self, veth: &NewVeth<'_>) -> Result<Link, NetlinkError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.pod_name)
            .address(veth.pod_mac.octets.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(veth.pod_netns.as_raw_fd())
            .build();
        let queues = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
        peer.attributes.extend(queues.clone());
        let mut message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(veth.host_name)
            .address(veth.host_mac.octets.to_vec())
            .mtu(veth.mtu)
            .up()
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        message.attributes.extend(queues);
        self.handle.link().add(message).execute().await.map_err(failed("create veth", veth.host_name))?;
        self.link_by_name(veth.host_name).await?.ok_or_else(|| NetlinkError {
            action: "find the new veth",
            object: veth.host_name.to_owned(),
            source: Errno::NODEV.into(),
        })
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// When there is no such device, or the kernel refuses.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(failed("set up", format!("link {index}")))
    }

    /// Gives a device its MAC, MTU and name: those that are `Some`. A kernel before 6.2 renames only what is down:
    /// `EBUSY`.
    ///
    /// # Errors
    /// When there is no such device, the name is taken, or the kernel refuses.
    pub async fn change_link(
        &self,
        index: u32,
        name: Option<&str>,
        mac: Option<Mac>,
        mtu: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
        message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.octets.to_vec())));
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let set = self.handle.link().set(message).execute().await;
        set.map_err(failed("change", format!("link {index}")))
    }

    /// Sets a device down.
    ///
    /// # Errors
    /// When there is no such device, or the kernel refuses.
    pub async fn set_down(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).down().build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(failed("set down", format!("link {index}")))
    }

    /// Deletes a device; not an error when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let deleted = self.handle.link().del(index).execute().await;
        match deleted.map_err(failed("delete", format!("link {index}"))) {
            Err(error) if error.is_absent() => Ok(()),
            other => other,
        }
    }
}
