//! What the egress programs shall do: remember which flows the stack has touched, and mend what it cannot know.

use super::{
    Case, Outcome, Ruling, Verdict,
    flow::{Belongs, Packet, Pod},
    frame::Frame,
    outcome::Marks,
};

impl Case<'_> {
    /// Whatever the stack delivers passes; it counts as received, and marks its flow.
    pub(super) fn pod_egress(&self, frame: Option<&Frame<'_>>) -> Ruling {
        let mut outcome = Outcome::of(Verdict::Pass);
        let Some(packet) = self.packet(frame) else { return outcome.into() };
        if self.rules.counts_delivered_by_stack() {
            outcome.received_by = Some(packet.destination);
        }
        let from_node = self.maps.node_slot(packet.source).is_some();
        if from_node && self.rules.nodes_own_marks_nothing() {
            return outcome.into();
        }
        self.mark(&packet, Pod::Destination, &mut outcome.marks);
        if self.maps.route(packet.source).is_some() && self.rules.marks_local_sender() {
            self.mark(&packet, Pod::Source, &mut outcome.marks);
        }
        outcome.into()
    }

    /// What the stack sends for a pod marks its flow; what it sends by an ENI that does not own the source leaves by the
    /// one that does, if that one is ready.
    pub(super) fn eni_egress(&self, frame: Option<&Frame<'_>>) -> Ruling {
        let mut outcome = Outcome::of(Verdict::Pass);
        let packet = self.packet(frame).filter(|_| !self.rules.lets_redirected_pass(self.arrival));
        let packet = packet.filter(|packet| {
            !self.rules.is_of_the_link(packet.source, packet.destination)
                && !self.is_neighbour_discovery(packet)
        });
        let Some(packet) = packet else { return outcome.into() };
        let pod = self.maps.route(packet.source);
        if pod.is_some() && self.rules.sending_marks() {
            self.mark(&packet, Pod::Source, &mut outcome.marks);
        }
        let slot = match pod {
            Some(route) => Some(self.rules.eni_slot(route).into()),
            None => self.maps.node_slot(packet.source),
        };
        let owner = slot.and_then(|slot| self.ready_eni(slot, packet.source));
        match owner.filter(|(owner, _)| !self.rules.stays(owner, self.arrival.ifindex)) {
            None => outcome.into(),
            Some((owner, macs)) => {
                outcome.verdict = Verdict::Out(self.rules.exit_ifindex(owner));
                Ruling { outcome, macs: Some(macs) }
            }
        }
    }

    /// Marks the flow of a packet and its pair of addresses. An error marks nothing.
    fn mark(&self, packet: &Packet<'_>, pod: Pod, marks: &mut Marks) {
        if let Belongs::Of(ends) = packet.belongs(self.rules) {
            marks.add(ends.flow(pod), self.maps.flows);
            if self.rules.marks_pair() {
                marks.add(ends.pair().flow(pod), self.maps.flows);
            }
        }
    }
}
