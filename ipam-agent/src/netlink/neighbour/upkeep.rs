//! Whether the kernel keeps neighbours fresh by itself.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourState,
};
use rustix::io::Errno;
use tracing::info;

use super::super::{Netlink, failed};

/// No device has it.
const NO_DEVICE: u32 = i32::MAX.cast_unsigned();
/// No kernel knows it.
const UNKNOWN_FLAG: u32 = 1 << 31;

impl Netlink {
    /// Whether the kernel does what [`Self::manage_neighbour`] asks for (`NTF_EXT_MANAGED`, Linux 5.16). One that does
    /// not finds the MAC once, each time that it is asked.
    ///
    /// The probe changes nothing. A kernel with extended flags refuses one that it does not know; an older one does not
    /// look at them, and goes on to refuse the device.
    pub async fn keeps_neighbours(&self) -> bool {
        let probe = async {
            let mut request = self.handle.neighbours().add(NO_DEVICE, IpAddr::V4(Ipv4Addr::LOCALHOST));
            request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
            let unknown = NeighbourExtFlags::from_bits_retain(UNKNOWN_FLAG);
            request.message_mut().attributes.push(NeighbourAttribute::ExtFlags(unknown));
            let answer = request.execute().await.map_err(failed("probe", "managed neighbours"));
            let lacking = answer.is_err_and(|error| error.is(Errno::NODEV));
            if lacking {
                info!(
                    "this kernel does not keep neighbours fresh by itself (Linux 5.16 or later does): the agent asks \
                     for the gateways again and again"
                );
            }
            !lacking
        };
        *self.keeps_neighbours.get_or_init(|| probe).await
    }
}
