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
    /// The lab.
    Lab,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Lint, Self::Unit, Self::Packets, Self::Api, Self::Cni, Self::Cloud, Self::Lab];

    /// The name on the command line, which is also the prefix of its test programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Packets => "packets",
            Self::Api => "api",
            Self::Cni => "cni",
            Self::Cloud => "cloud",
            Self::Lab => "lab",
        }
    }

    /// One line about it.
    pub fn about(self) -> &'static str {
        match self {
            Self::Lint => "format and lints of the workspace",
            Self::Unit => "unit, property and documentation tests",
            Self::Packets => "the eBPF programs by BPF_PROG_TEST_RUN: verdict, MACs, target, counters",
            Self::Api => "the embedded Kubernetes API",
            Self::Cni => "conformance of the CNI plugin, by running it",
            Self::Cloud => "the cloud client against the cloud server",
            Self::Lab => "end to end: nodes, ENIs, pods, crashes, real packets",
        }
    }

    /// Needs root.
    pub fn root(self) -> bool {
        matches!(self, Self::Packets | Self::Cni | Self::Lab)
    }

    /// The group of a test program: a file under `tests/` whose name is a group's or begins with it (`api`,
    /// `cni_conformance`) is of that group; all else of the lab's package is `lab`, and the rest is `unit`.
    pub fn of(program: &Executable) -> Self {
        let first = program.target.split(['_', '-']).next().unwrap_or_default();
        let named =
            [Self::Packets, Self::Api, Self::Cni, Self::Cloud].into_iter().find(|it| it.name() == first);
        match named.filter(|_| program.integration) {
            Some(group) => group,
            None if in_lab(program) => Self::Lab,
            None => Self::Unit,
        }
    }
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
        assert_eq!(group("/w/tests", "cloud", true), Group::Cloud);
        assert_eq!(group("/w/tests", "ipam_lab", false), Group::Lab);
        assert_eq!(group("/w/tests", "demo", false), Group::Lab);
        assert_eq!(group("/w/tests", "migration", true), Group::Lab);
        assert_eq!(group("/w/ipam-common", "apish", true), Group::Unit);
    }
}
