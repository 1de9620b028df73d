//! ADD: from a bound address to a wired pod.
//!
//! Each step is undone by [`Node::take_away`] when a later one fails, when the plugin goes away, or, after a crash, by
//! the next start. The journal knows of the attachment before the first device exists, and has it on the disk before
//! the runtime hears of success.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use ipam_cni::{
    error::{CniError, code},
    protocol::{AttachmentKey, PodIdentity, PodInterface, Reply, Request},
};
use ipam_common::PodRoute;
use rustix::{fs, io::Errno};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::{
    netlink::{Link, MacText, NetlinkError, NewVeth, PodHostRoute, parse_mac, sysctl},
    node::{
        bindings::{Binding, PodName},
        connection::Connection,
        context::Node,
        crash::crash_point,
        eni::EniView,
        failure::Failure,
        fence::Entered,
        journal::{BoundAddress, Change, Record, State},
        names,
    },
};

/// How long an ADD waits for an address. Below the minute or two that runtimes give a plugin.
const BINDING_WAIT: Duration = Duration::from_secs(25);
/// Likewise while the API is away: what is not known now will hardly be known in time.
const OFFLINE_WAIT: Duration = Duration::from_secs(5);
/// How long the plugin has for the pod's side.
const PLUGIN_WAIT: Duration = Duration::from_secs(30);
/// Next hop of a pod's default route. On-link, answered by a permanent neighbour entry: nobody has the address.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Likewise for IPv6.
pub const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// An ADD request.
pub struct Add {
    /// The attachment.
    pub key: AttachmentKey,
    /// The pod.
    pub pod: PodIdentity,
    /// `CNI_NETNS`.
    pub netns: String,
}

/// A pod and whether the agent made its Pod object.
struct Owner {
    pod: PodName,
    owned: bool,
}

/// A bound address and the ENI that carries it.
struct Bound {
    binding: Binding,
    eni: EniView,
}

impl Bound {
    fn address(self) -> BoundAddress {
        let Binding { vpc_ip, vpc_ip_uid, ip, epoch, eni_id, .. } = self.binding;
        BoundAddress { vpc_ip, vpc_ip_uid, ip, epoch, eni_id, eni_slot: self.eni.slot }
    }
}

impl Node {
    /// Serves an ADD up to the last answer but one: when this returns, the pod is connected and `Done` may be sent.
    ///
    /// # Errors
    /// Why the pod cannot be connected. Nothing is left behind then.
    pub async fn add(&self, connection: &mut Connection, add: Add) -> Result<(), CniError> {
        let _locked = self.locks.lock(&add.key).await;
        let netns = connection.take_descriptor().ok_or_else(|| {
            CniError::new(code::DECODE, "the plugin sent no network namespace")
                .details("plugin and agent are of builds that do not fit together")
        })?;
        refuse_own_netns(&netns, &add.netns)?;
        self.clear(&add.key).await?;
        let owner = self.owner(&add).await?;
        let (record, _entered) = match self.begin(connection, &add, &owner).await {
            Ok(begun) => begun,
            Err(error) => {
                self.disown(&owner).await;
                return Err(error);
            }
        };
        let result = match self.wire(connection, &record, &netns).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                let error = CniError::from(failure);
                if let Err(failure) = self.take_away(&record).await {
                    warn!(key = ?add.key, %failure, "cannot undo an ADD yet; the repair goes on");
                }
                Err(error)
            }
        };
        if result.is_ok() {
            info!(
                namespace = record.pod_namespace, pod = record.pod_name, ips = ?record.ips().collect::<Vec<_>>(), epoch = record.epoch,
                eni = record.eni_id, link = record.host_ifname, "pod attached"
            );
        }
        result
    }

    /// Makes room for an ADD: an attachment of the same key that was left half-way is finished first.
    async fn clear(&self, key: &AttachmentKey) -> Result<(), CniError> {
        let Some(record) = self.known(key).await.map_err(Failure::from)? else { return Ok(()) };
        if record.state == State::Committed {
            return Err(CniError::new(
                code::INTERFACE_EXISTS,
                format!("interface {} of container {} exists already", key.ifname, key.container_id),
            )
            .details("ADD comes once for each interface; send DEL first"));
        }
        self.take_away(&record).await.map_err(CniError::from)
    }

    /// The pod behind the call: the API's, or in standalone mode one that is made for the container.
    async fn owner(&self, add: &Add) -> Result<Owner, CniError> {
        match (&add.pod.namespace, &add.pod.name, &self.pods) {
            (Some(namespace), Some(name), _) => {
                let pod =
                    PodName { namespace: namespace.clone(), name: name.clone(), uid: add.pod.uid.clone() };
                Ok(Owner { pod, owned: false })
            }
            (None, name, Some(pods)) => {
                let container = name.as_deref().unwrap_or(&add.key.container_id);
                let pod = pods.create(self, container, &add.key).await?;
                Ok(Owner { pod, owned: true })
            }
            _ => Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_ARGS names no pod").details(
                "K8S_POD_NAMESPACE and K8S_POD_NAME are needed; containers of no cluster need `ipam-agent standalone`",
            )),
        }
    }

    async fn disown(&self, owner: &Owner) {
        if let (true, Some(pods)) = (owner.owned, &self.pods)
            && let Err(error) = pods.delete(&owner.pod).await
        {
            warn!(pod = owner.pod.name, %error, "cannot delete the Pod object of a failed ADD; the next start does");
        }
    }

    /// Waits for the address and enters the attachment in the journal.
    async fn begin(
        &self,
        connection: &mut Connection,
        add: &Add,
        owner: &Owner,
    ) -> Result<(Record, Vec<Entered>), CniError> {
        let (mut bound, entered) = tokio::select! {
            found = self.wait_for_binding(&owner.pod) => found?,
            _ = connection.receive() => return Err(plugin_left()),
        };
        let pod_uid = bound.iter().find_map(|bound| bound.binding.pod_uid.clone());
        let mtu = bound.iter().map(|bound| bound.eni.mtu).min().unwrap_or_default();
        let first = bound.remove(0).address();
        let record = Record {
            key: add.key.clone(),
            state: State::Intent,
            sequence: 0,
            pod_namespace: owner.pod.namespace.clone(),
            pod_name: owner.pod.name.clone(),
            pod_uid: pod_uid.or_else(|| owner.pod.uid.clone()),
            owns_pod: owner.owned,
            vpc_ip: first.vpc_ip,
            vpc_ip_uid: first.vpc_ip_uid,
            ip: first.ip,
            epoch: first.epoch,
            eni_id: first.eni_id,
            eni_slot: first.eni_slot,
            more: bound.into_iter().map(Bound::address).collect(),
            host_ifname: names::host_ifname(&add.key),
            host_ifindex: None,
            host_mac: MacText(names::host_mac(&add.key)).to_string(),
            pod_mac: MacText(names::pod_mac(&add.key)).to_string(),
            mtu,
            netns: add.netns.clone(),
            created_at: jiff::Timestamp::now(),
        };
        let change = Change::Begin(Box::new(record.clone()));
        self.journal.change(change).await.map_err(Failure::from)?;
        crash_point("node-add-intent");
        Ok((record, entered))
    }

    /// Waits until the controller has bound its addresses to the pod and their ENI can carry them.
    async fn wait_for_binding(&self, pod: &PodName) -> Result<(Vec<Bound>, Vec<Entered>), CniError> {
        let began = Instant::now();
        let mut bindings = self.bindings.watch();
        let mut enis = self.enis.subscribe();
        let mut journal = self.journal.watch();
        loop {
            let reason = match self.ready_binding(pod) {
                Ok(found) => return Ok(found),
                Err(reason) => reason,
            };
            let patience = if self.contact.is_away() { OFFLINE_WAIT } else { BINDING_WAIT };
            tokio::select! {
                Ok(()) = bindings.changed() => {}
                Ok(()) = enis.changed() => {}
                Ok(()) = journal.changed() => {}
                () = sleep_until(began + patience) => {
                    let explained = timeout(Duration::from_secs(2), self.bindings.explain(pod)).await;
                    let details = match explained.ok().flatten() {
                        Some(claim) => format!("{reason}; {claim}"),
                        None => reason,
                    };
                    let message = format!("pod {}/{} has no address yet", pod.namespace, pod.name);
                    return Err(CniError::new(code::TRY_AGAIN_LATER, message).details(details));
                }
            }
        }
    }

    fn ready_binding(&self, pod: &PodName) -> Result<(Vec<Bound>, Vec<Entered>), String> {
        let bindings = self.bindings.find(pod)?;
        let enis = self.enis.borrow().clone();
        let (mut bound, mut entered) = (Vec::new(), Vec::new());
        for binding in bindings {
            let eni = enis.iter().find(|eni| eni.id == binding.eni_id).ok_or_else(|| {
                format!("ENI {} of its address is not listed for this node", binding.eni_id)
            })?;
            let waits_for = match binding.ip {
                IpAddr::V4(_) => &eni.waits_for,
                IpAddr::V6(_) => &eni.waits_for_v6,
            };
            if let Some(waits_for) = waits_for {
                return Err(format!("ENI {} of its address waits for {waits_for}", eni.id));
            }
            if let Some(other) = self.used_by_another(&binding, pod) {
                return Err(other);
            }
            let released = || format!("epoch {} of VpcIP {} is over", binding.epoch, binding.vpc_ip);
            entered.push(self.fence.enter(&binding.vpc_ip_uid, binding.epoch).ok_or_else(released)?);
            bound.push(Bound { binding, eni: eni.clone() });
        }
        Ok((bound, entered))
    }

    /// Whether another pod of this node has the address. When the API's records were lost it may have been given out
    /// again; and a pod whose binding is over has it until it is disconnected.
    fn used_by_another(&self, binding: &Binding, pod: &PodName) -> Option<String> {
        let book = self.journal.book();
        let owner = book.owner_of(binding.ip)?;
        let same = if owner.pod_name.is_empty() {
            // Found without a journal, and not identified: its epoch tells.
            owner.addresses().iter().any(|own| own.ip == binding.ip && own.epoch == binding.epoch)
        } else {
            owner.pod_namespace == pod.namespace && owner.pod_name == pod.name
        };
        let Record { pod_namespace, pod_name, key, .. } = &**owner;
        (!same).then(|| {
            let container = &key.container_id;
            format!("{} is used by pod {pod_namespace}/{pod_name}, container {container}", binding.ip)
        })
    }

    /// Makes the interface, has the plugin configure the pod's side, and connects it.
    async fn wire(
        &self,
        connection: &mut Connection,
        record: &Record,
        netns: &OwnedFd,
    ) -> Result<(), Failure> {
        let link = self.create_veth(record, netns).await?;
        crash_point("node-add-veth");
        self.attach_programs(&link)?;
        crash_point("node-add-program");
        let interface = Reply::Wire(pod_interface(record));
        connection.send(&interface).await.map_err(|_| plugin_left())?;
        match timeout(PLUGIN_WAIT, connection.receive()).await {
            Ok(Ok(Some(Request::Wired))) => {}
            Ok(Ok(Some(_))) => {
                return Err(CniError::new(code::DECODE, "the plugin did not answer `Wired`").into());
            }
            Ok(Ok(None)) => return Err(plugin_left().into()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                return Err(CniError::new(
                    code::TRY_AGAIN_LATER,
                    "the plugin took too long for the pod's side",
                )
                .into());
            }
        }
        crash_point("node-add-wire");
        let _addresses = self.lock_addresses(record).await;
        self.refuse_overtaken(record)?;
        self.route(record, link.index).await?;
        crash_point("node-add-route");
        let commit = Change::Commit { key: record.key.clone(), host_ifindex: link.index };
        self.journal.change(commit).await?;
        crash_point("node-add-commit");
        Ok(())
    }

    async fn create_veth(&self, record: &Record, netns: &OwnedFd) -> Result<Link, Failure> {
        let veth = NewVeth {
            host_name: &record.host_ifname,
            host_mac: names::host_mac(&record.key),
            pod_netns: netns.as_fd(),
            pod_name: &record.key.ifname,
            pod_mac: names::pod_mac(&record.key),
            mtu: record.mtu,
        };
        let created = self.net.create_veth(&veth).await;
        if created.is_ok() && record.ips().any(|ip| ip.is_ipv6()) {
            sysctl::prepare_v6(&record.host_ifname)?;
        }
        match created {
            // The start removes what no journal knows, so the name that is taken is the pod's.
            Err(error) if error.is(Errno::EXIST) => Err(CniError::new(
                code::INTERFACE_EXISTS,
                format!("interface {} exists already in {}", record.key.ifname, record.netns),
            )
            .details(error.to_string())
            .into()),
            other => Ok(other?),
        }
    }

    /// A later sandbox of the pod may have come while the plugin was at work: the address is then its.
    fn refuse_overtaken(&self, record: &Record) -> Result<(), CniError> {
        let book = self.journal.book();
        let own = book.attachments.get(&record.key).map_or(0, |own| own.sequence);
        let taken_over = |ip| Some((ip, book.owner_of(ip).filter(|owner| owner.sequence > own)?));
        match record.ips().find_map(taken_over) {
            Some((ip, owner)) => Err(CniError::new(
                code::TRY_AGAIN_LATER,
                format!("container {} has taken over {ip}", owner.key.container_id),
            )),
            None => Ok(()),
        }
    }

    /// Leads the addresses of an attachment to its link.
    async fn route(&self, record: &Record, ifindex: u32) -> Result<(), Failure> {
        for address in record.addresses() {
            self.route_address(record, &address, ifindex).await?;
        }
        Ok(())
    }

    /// Leads an address to a link: in the map first, which is what pods and ENIs use, then for the host stack.
    async fn route_address(
        &self,
        record: &Record,
        address: &BoundAddress,
        ifindex: u32,
    ) -> Result<(), Failure> {
        let route = pod_route(record, address, ifindex)?;
        self.dataplane().set_route(address.ip, &route)?;
        Ok(self.route_stack(record, PodHostRoute { ip: address.ip, ifindex }).await?)
    }

    /// Leads what the host stack sends to an address to the pod's link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn route_stack(&self, record: &Record, route: PodHostRoute) -> Result<(), NetlinkError> {
        self.net.set_pod_route(route).await?;
        if let (IpAddr::V6(ip), Some(mac)) = (route.ip, parse_mac(&record.pod_mac)) {
            // The stack would ask the pod, and be answered; but not before the link's own address is through its
            // duplicate address detection.
            self.net.set_permanent_neighbour(route.ifindex, ip, mac).await?;
        }
        Ok(())
    }
}

/// The map's entry of an address of an attachment.
///
/// # Errors
/// When the record was not written by this program.
pub fn pod_route(record: &Record, address: &BoundAddress, ifindex: u32) -> Result<PodRoute, CniError> {
    let invalid =
        |field| CniError::new(code::INTERNAL, format!("journal: {field} of {:?} is invalid", record.key));
    Ok(PodRoute {
        ifindex,
        // A map entry has room for 32 bits; the epoch is there for people to compare.
        epoch: u32::try_from(address.epoch).unwrap_or(u32::MAX),
        eni: u16::try_from(address.eni_slot).map_err(|_| invalid("eni_slot"))?,
        mac: parse_mac(&record.pod_mac).ok_or_else(|| invalid("pod_mac"))?,
        ..PodRoute::EMPTY
    })
}

/// What the plugin is told of an attachment.
#[must_use]
pub fn pod_interface(record: &Record) -> PodInterface {
    PodInterface {
        ifname: record.key.ifname.clone(),
        mac: record.pod_mac.clone(),
        mtu: record.mtu,
        addresses: record.ips().collect(),
        gateways: record
            .ips()
            .map(|ip| match ip {
                IpAddr::V4(_) => POD_GATEWAY.into(),
                IpAddr::V6(_) => POD_GATEWAY_V6.into(),
            })
            .collect(),
        gateway_mac: record.host_mac.clone(),
        host_ifname: record.host_ifname.clone(),
    }
}

fn plugin_left() -> CniError {
    CniError::new(code::IO, "the plugin went away")
}

/// A pod on the host's network has no interface of its own; making one in the node's own namespace would be wrong.
fn refuse_own_netns(netns: &OwnedFd, path: &str) -> Result<(), CniError> {
    let same = || -> rustix::io::Result<bool> {
        let (pod, own) = (fs::fstat(netns)?, fs::stat("/proc/thread-self/ns/net")?);
        Ok((pod.st_dev, pod.st_ino) == (own.st_dev, own.st_ino))
    };
    match same() {
        Ok(false) => Ok(()),
        Ok(true) => Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            format!("CNI_NETNS {path} is the node's own network namespace"),
        )),
        Err(errno) => {
            Err(CniError::new(code::IO, format!("cannot look at CNI_NETNS {path}"))
                .details(errno.to_string()))
        }
    }
}

/// Serves an ADD to its end: `Done` is sent, or the attachment is taken away.
///
/// # Errors
/// As [`Node::add`].
pub async fn serve(node: &Arc<Node>, connection: &mut Connection, add: Add) -> Result<(), CniError> {
    let key = add.key.clone();
    node.add(connection, add).await?;
    if connection.send(&Reply::Done).await.is_err() {
        // The runtime saw a failed ADD and may never send a DEL.
        warn!(?key, "the plugin did not wait for the end of its ADD: undoing it");
        node.delete(&key).await?;
    }
    Ok(())
}
