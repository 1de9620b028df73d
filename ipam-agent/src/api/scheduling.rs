//! How the scheduler is told where pods can have addresses: the names that nodes, pods and namespaces carry.

/// Extended resource: a node has as many as its pods can have addresses, and each pod that needs one asks for 1.
pub const RESOURCE: &str = "eni-ipam.dev/eni-ip";

/// Taint (`NoSchedule`) of a node on which no pod could have an address now.
pub const TAINT: &str = "eni-ipam.dev/eni-ip-unavailable";

/// Condition of a node: `True` when pods there can have addresses. Its reason also says what keeps their number below
/// the node's limits.
///
/// A type of our own rather than `NetworkUnavailable`: that one says that the network of the pods that run is down, the
/// node lifecycle controller makes a taint of it, and clouds' controllers write it too.
pub const CONDITION: &str = "ENIReady";

/// Label of a namespace whose pods the webhook leaves alone when its value is [`WEBHOOK_DISABLED`].
pub const WEBHOOK_LABEL: &str = "eni-ipam.dev/webhook";

/// See [`WEBHOOK_LABEL`].
pub const WEBHOOK_DISABLED: &str = "disabled";

/// Label of a node that never has an agent when its value is [`FOREIGN`]: a virtual one, or one with another network.
/// It is not tainted and has no addresses to give.
pub const NODE_LABEL: &str = "eni-ipam.dev/node";

/// See [`NODE_LABEL`].
pub const FOREIGN: &str = "foreign";

/// Label of a zone, as Kubernetes defines it.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
