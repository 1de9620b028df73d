//! What `BPF_PROG_TEST_RUN` cannot show.

use ipam_common::model::{Arrival, Rules};
use ipam_common::{Eni, PodRoute};

bugs! {
    TagBesideAccepted {
        fn tag_beside_is_refused(&self, _: &Arrival) -> bool { false }
    }
    TagBesideDelivered {
        fn eni_may_deliver(&self, arrival: &Arrival) -> bool { arrival.to_host }
    }
    RedirectedJudgedAgain {
        fn lets_redirected_pass(&self, _: &Arrival) -> bool { false }
    }
    WrongPodInterface {
        fn delivery_ifindex(&self, route: &PodRoute) -> u32 { !route.ifindex }
    }
    WrongEniInterface {
        fn exit_ifindex(&self, eni: &Eni) -> u32 { !eni.ifindex }
    }
}
