//! Settings of a device's IP stack: what `/proc/sys/net/ipv4/conf/DEVICE` shows, but by netlink, which an unprivileged
//! container may use although its `/proc/sys` is read-only, and which tells those of every device in one list.

use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, InetDevConf, LinkAttribute,
};
use rtnetlink::LinkUnspec;

use super::{Netlink, NetlinkError, failed};

/// `rp_filter`: a source is right if it can be reached by any interface.
pub const RP_FILTER_LOOSE: i32 = 2;

/// The settings of a device that decide whether pods' packets get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Whether IPv4 packets that come in by it are forwarded.
    pub forwarding: bool,
    /// `rp_filter` of the device alone: the kernel takes the greater of it and that of `all`.
    pub rp_filter: i32,
    /// Those of IPv6; `None`: the device has no IPv6 at all (its MTU is below 1280, or IPv6 is off in the kernel).
    pub ipv6: Option<DeviceSettingsV6>,
}

/// The settings of IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceSettingsV6 {
    /// Whether packets that come in by it are forwarded.
    pub forwarding: bool,
    /// Whether router advertisements change routes: 0 never, 1 unless it forwards, 2 always.
    pub accept_ra: i32,
    /// Whether it has no IPv6 addresses.
    pub disabled: bool,
}

impl DeviceSettings {
    /// Reads them from a device's message.
    pub(super) fn read(&mut self, spec: &[AfSpecUnspec]) {
        for family in spec {
            match family {
                AfSpecUnspec::Inet(inet) => {
                    for item in inet {
                        if let AfSpecInet::DevConf(InetDevConf { forwarding, rp_filter, .. }) = item {
                            (self.forwarding, self.rp_filter) = (*forwarding != 0, *rp_filter);
                        }
                    }
                }
                AfSpecUnspec::Inet6(inet6) => {
                    for item in inet6 {
                        if let AfSpecInet6::DevConf(conf) = item {
                            let Inet6DevConf { forwarding, accept_ra, disable_ipv6, .. } = *conf;
                            let (forwarding, disabled) = (forwarding != 0, disable_ipv6 != 0);
                            self.ipv6 = Some(DeviceSettingsV6 { forwarding, accept_ra, disabled });
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

impl Netlink {
    /// Has a device forward IPv4 packets.
    ///
    /// # Errors
    /// When there is no such device, or the kernel refuses.
    pub async fn set_forwarding(&self, index: u32) -> Result<(), NetlinkError> {
        let mut conf = InetDevConf::default();
        conf.forwarding = 1;
        self.set_conf(index, conf, "have forward").await
    }

    /// Makes the reverse-path filter of a device loose: a reply may come in by another ENI than the one the main table
    /// would send to. The kernel takes the greater of this value and that of `all`, so it holds even where `all` is
    /// strict (1).
    ///
    /// # Errors
    /// When there is no such device, or the kernel refuses.
    pub async fn loosen_rp_filter(&self, index: u32) -> Result<(), NetlinkError> {
        let mut conf = InetDevConf::default();
        conf.rp_filter = RP_FILTER_LOOSE;
        self.set_conf(index, conf, "loosen rp_filter of").await
    }

    /// Settings that are zero are left as they are: so netlink-packet-route writes them.
    async fn set_conf(
        &self,
        index: u32,
        conf: InetDevConf,
        action: &'static str,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(index).build();
        let inet = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![inet]));
        let set = self.handle.link().set(message).execute().await;
        set.map_err(failed(action, format!("link {index}")))
    }
}
