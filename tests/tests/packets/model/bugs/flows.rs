//! The rules of stack affinity: what has a flow, who marks it, who heeds it.

use ipam_common::Eni;
use ipam_common::model::flow::Ports;
use ipam_common::model::{Rules, Specified};
use std::net::IpAddr;

bugs! {
    SctpForgotten {
        fn has_flows(&self, ipv6: bool, number: u8) -> bool { number != 132 && Specified.has_flows(ipv6, number) }
    }
    IcmpOfTheOtherFamily {
        fn has_flows(&self, ipv6: bool, number: u8) -> bool {
            matches!(number, 1 | 58) || Specified.has_flows(ipv6, number)
        }
    }
    EveryProtocolHasFlows {
        fn has_flows(&self, _: bool, _: u8) -> bool { true }
    }
    RepliesForgotten {
        fn ports(&self, ipv6: bool, number: u8, start: [u8; 8]) -> Option<Ports> {
            let reply = if ipv6 { (58, 129) } else { (1, 0) };
            Specified.ports(ipv6, number, start).filter(|_| (number, start[0]) != reply)
        }
    }
    RequestsForgotten {
        fn ports(&self, ipv6: bool, number: u8, start: [u8; 8]) -> Option<Ports> {
            let request = if ipv6 { (58, 128) } else { (1, 8) };
            Specified.ports(ipv6, number, start).filter(|_| (number, start[0]) != request)
        }
    }
    IdentifierIgnored {
        fn ports(&self, ipv6: bool, number: u8, start: [u8; 8]) -> Option<Ports> {
            match Specified.ports(ipv6, number, start)? {
                Ports::Echo(_) => Some(Ports::Echo([0; 2])),
                ports => Some(ports),
            }
        }
    }
    SourcePortIgnored {
        fn ports(&self, ipv6: bool, number: u8, start: [u8; 8]) -> Option<Ports> {
            match Specified.ports(ipv6, number, start)? {
                Ports::Both(_, destination) => Some(Ports::Both([0; 2], destination)),
                ports => Some(ports),
            }
        }
    }
    PortsSwapped {
        fn ports(&self, ipv6: bool, number: u8, start: [u8; 8]) -> Option<Ports> {
            match Specified.ports(ipv6, number, start)? {
                Ports::Both(source, destination) => Some(Ports::Both(destination, source)),
                ports => Some(ports),
            }
        }
    }
    ErrorsAreNoErrors {
        fn icmp_is_error(&self, _: bool, _: u8) -> bool { false }
    }
    UnreachableForgotten {
        fn icmp_is_error(&self, ipv6: bool, kind: u8) -> bool {
            kind != (if ipv6 { 1 } else { 3 }) && Specified.icmp_is_error(ipv6, kind)
        }
    }
    TooBigForgotten {
        fn icmp_is_error(&self, ipv6: bool, kind: u8) -> bool {
            (!ipv6 || kind != 2) && Specified.icmp_is_error(ipv6, kind)
        }
    }
    ParameterProblemForgotten {
        fn icmp_is_error(&self, ipv6: bool, kind: u8) -> bool {
            kind != (if ipv6 { 4 } else { 12 }) && Specified.icmp_is_error(ipv6, kind)
        }
    }
    TimeExceededForgotten {
        fn icmp_is_error(&self, ipv6: bool, kind: u8) -> bool {
            kind != (if ipv6 { 3 } else { 11 }) && Specified.icmp_is_error(ipv6, kind)
        }
    }
    RedirectIsAnError {
        fn icmp_is_error(&self, ipv6: bool, kind: u8) -> bool {
            kind == 5 || Specified.icmp_is_error(ipv6, kind)
        }
    }
    ErrorsTakeTheFastPath {
        fn errors_follow_flow(&self) -> bool { false }
    }
    PodBeforeFlow {
        fn prefers_flow_to_pod(&self) -> bool { false }
    }
    NodesOwnMarks {
        fn nodes_own_marks_nothing(&self) -> bool { false }
    }
    LocalSenderForgotten {
        fn marks_local_sender(&self) -> bool { false }
    }
    PairsForgotten {
        fn marks_pair(&self) -> bool { false }
    }
    SendingMarksNothing {
        fn sending_marks(&self) -> bool { false }
    }
    LinkLocalSentAway {
        fn is_of_the_link(&self, _: IpAddr, destination: IpAddr) -> bool {
            matches!(destination, IpAddr::V6(addr) if addr.is_multicast())
        }
    }
    MulticastSentAway {
        fn is_of_the_link(&self, _: IpAddr, destination: IpAddr) -> bool {
            matches!(destination, IpAddr::V6(addr) if addr.is_unicast_link_local())
        }
    }
    AlwaysSentAway {
        fn stays(&self, _: &Eni, _: u32) -> bool { false }
    }
    NeverSentAway {
        fn stays(&self, _: &Eni, _: u32) -> bool { true }
    }
    DeliveryByStackNotCounted {
        fn counts_delivered_by_stack(&self) -> bool { false }
    }
}
