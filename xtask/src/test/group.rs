//! Which group a test program belongs to. New files under a `tests/` folder find theirs by their name.

use crate::binaries::Executable;

/// The package of the lab and the end-to-end tests.
pub const LAB_PACKAGE: &str = "ipam-lab";
/// Its library, which is the target's name of its unit tests.
const LAB_LIBRARY: &str = "ipam_lab";

/// A group of tests, in the order they run: quick and telling ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// Format and lints.
    Lint,
    /// Unit, property and documentation tests.
    Unit,
    /// The eBPF programs, packet by packet.
    Packets,
    /// The embedded Kubernetes API.
    Api,
    /// The CNI plugin.
    Cni,
    /// The cloud client and server.
    Cloud,
    /// The dataplane in the lab. By name: the groups that prove the rest of it, too.
    Dataplane,
    /// Agents that are killed, restarted, upgraded and downgraded, under traffic.
    Restart,
    /// The rest of the lab.
    Lab,
    /// The lab on a real kube-apiserver.
    Cluster,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Lint,
        Self::Unit,
        Self::Packets,
        Self::Api,
        Self::Cni,
        Self::Cloud,
        Self::Dataplane,
        Self::Restart,
        Self::Lab,
        Self::Cluster,
    ];

    /// The name on the command line, which is also the prefix of its test programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Packets => "packets",
            Self::Api => "api",
            Self::Cni => "cni",
            Self::Cloud => "cloud",
            Self::Dataplane => "dataplane",
            Self::Restart => "restart",
            Self::Lab => "lab",
            Self::Cluster => "cluster",
        }
    }

    /// One line about it.
    pub fn about(self) -> &'static str {
        match self {
            Self::Lint => "format and lints of the workspace",
            Self::Unit => "unit, property and documentation tests",
            Self::Packets => "the eBPF programs by BPF_PROG_TEST_RUN: verdict, MACs, target, counters",
            Self::Api => "the embedded Kubernetes API, and a real one if the environment names it",
            Self::Cni => "conformance of the CNI plugin, by running it",
            Self::Cloud => "the cloud client against the cloud server",
            Self::Dataplane => "the dataplane in the lab; asked for by name, with packets and restart",
            Self::Restart => "agents killed, restarted, upgraded, downgraded at 10 000 packets/s: 0 lost",
            Self::Lab => "end to end: nodes, ENIs, pods, crashes, real packets",
            Self::Cluster => {
                "deploy/ and the seed's commands on a real kube-apiserver that the environment names"
            }
        }
    }

    /// Needs root.
    pub fn root(self) -> bool {
        matches!(
            self,
            Self::Packets | Self::Cni | Self::Dataplane | Self::Restart | Self::Lab | Self::Cluster
        )
    }

    /// Whether asking for `asked` asks for this group.
    pub fn is_asked_for_by(self, asked: Self) -> bool {
        self == asked || (asked == Self::Dataplane && matches!(self, Self::Packets | Self::Restart))
    }

    /// The group of a test program: a file under `tests/` whose name is a group's or begins with it (`api`,
    /// `cni_conformance`) is of that group; those that have a [`subject`] are `dataplane`; all else of the lab's package is
    /// `lab`, and the rest is `unit`.
    pub fn of(program: &Executable) -> Self {
        let first = program.target.split(['_', '-']).next().unwrap_or_default();
        let named = [Self::Packets, Self::Api, Self::Cni, Self::Cloud, Self::Restart, Self::Cluster]
            .into_iter()
            .find(|it| it.name() == first);
        match named.filter(|_| program.integration) {
            Some(group) => group,
            None if in_lab(program) && subject(&program.target).is_some() => Self::Dataplane,
            None if in_lab(program) => Self::Lab,
            None => Self::Unit,
        }
    }
}

/// The test programs of the dataplane, in the order in which they run.
const DATAPLANE: [(&str, &str); 5] = [
    ("services", "beside kube-proxy: services, host ports, load balancers, egress, node-local DNS, metadata"),
    ("dual_stack", "IPv6 and dual stack"),
    ("rough_packets", "packets that break others: PMTU, fragments, segments, spoofs"),
    ("drift", "nothing drifts: a node is vandalised and healed"),
    ("seen", "seen: metrics, drops, explain"),
];

/// What the test programs of the dataplane show.
pub fn subject(target: &str) -> Option<&'static str> {
    let others = [
        ("packets", "each program, packet by packet, and a model of them as the second judge"),
        ("restart", "never down: kills, restarts, upgrades, downgrades under traffic"),
    ];
    DATAPLANE.into_iter().chain(others).find_map(|(name, subject)| (name == target).then_some(subject))
}

/// Where a test program stands in its group.
pub fn rank(target: &str) -> usize {
    DATAPLANE.iter().position(|(name, _)| *name == target).unwrap_or(DATAPLANE.len())
}

fn in_lab(program: &Executable) -> bool {
    program.target == LAB_LIBRARY || program.package.ends_with("tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(package: &str, target: &str, integration: bool) -> Group {
        let (target, package) = (target.to_owned(), package.into());
        Group::of(&Executable { target, package, test: true, integration, path: "x".into() })
    }

    #[test]
    fn test_programs_are_grouped_by_name() {
        assert_eq!(group("/w/ipam-agent", "ipam_agent", false), Group::Unit);
        assert_eq!(group("/w/ipam-cni", "cni", false), Group::Unit, "a library is not a group");
        assert_eq!(group("/w/ipam-agent", "packets", true), Group::Packets);
        assert_eq!(group("/w/ipam-agent", "api_conformance", true), Group::Api);
        assert_eq!(group("/w/ipam-cni", "cni_conformance", true), Group::Cni);
        assert_eq!(group("/w/tests", "api_real", true), Group::Api);
        assert_eq!(group("/w/tests", "cloud", true), Group::Cloud);
        assert_eq!(group("/w/tests", "cluster", true), Group::Cluster);
        assert_eq!(group("/w/tests", "restart", true), Group::Restart);
        assert_eq!(group("/w/tests", "ipam_lab", false), Group::Lab);
        assert_eq!(group("/w/tests", "demo", false), Group::Lab);
        assert_eq!(group("/w/tests", "migration", true), Group::Lab);
        assert_eq!(group("/w/tests", "drift", true), Group::Dataplane);
        assert_eq!(group("/w/tests", "restart", true), Group::Restart);
        assert_eq!(group("/w/ipam-common", "apish", true), Group::Unit);
    }

    #[test]
    fn the_dataplane_is_its_packets_and_restarts_too() {
        let asked: Vec<_> =
            Group::ALL.into_iter().filter(|group| group.is_asked_for_by(Group::Dataplane)).collect();
        assert_eq!(asked, [Group::Packets, Group::Dataplane, Group::Restart]);
        assert!(!Group::Dataplane.is_asked_for_by(Group::Packets));
    }
}
