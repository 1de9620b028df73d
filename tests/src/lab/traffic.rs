//! Traffic between namespaces, and what became of it.

mod ping;
mod tcp;
mod udp;

pub use ping::{ping, ping_sized};
pub use tcp::{TcpEcho, tcp_roundtrip};
pub use udp::{UdpReport, UdpStream, udp_stream};
