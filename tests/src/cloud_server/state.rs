//! What the cloud knows, and how a call changes it: no I/O, no clock.
//!
//! A call that changes something begins here (checks, and the state on the way), gives a [`Change`] that is
//! done later, and ends in [`Vpc::finish`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{CloudConfig, InstanceConfig, SubnetConfig, error::ApiError};

/// Where an ENI stands; attached is `Available` with an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EniState {
    /// Being created.
    Pending,
    /// Settled.
    Available,
    /// On its way to a machine.
    Attaching,
    /// On its way off it.
    Detaching,
    /// Being deleted.
    Deleting,
}

/// Where an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// Being assigned.
    Pending,
    /// On its way to another ENI.
    Migrating,
    /// Being unassigned.
    Deleting,
    /// Settled.
    Available,
}

/// An address of an ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Whether it is the ENI's first, which stays as long as the ENI.
    pub primary: bool,
    /// Where it stands.
    pub state: AddressState,
}

/// An ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eni {
    /// Such as `eni-0000002a`.
    pub id: String,
    /// Shown in a console.
    pub name: String,
    /// Lower case with colons.
    pub mac: String,
    /// Its subnet's id.
    pub subnet: String,
    /// Whether it is its machine's first, which stays as long as the machine.
    pub primary: bool,
    /// Where it stands.
    pub state: EniState,
    /// The machine, and the place there.
    pub attachment: Option<(String, u32)>,
    /// Primary first.
    pub addresses: Vec<Address>,
    /// Tags by key.
    pub tags: BTreeMap<String, String>,
    /// The task that is at it.
    pub task: Option<String>,
    /// How often it was attached.
    pub attached: u32,
    /// Its task never ends; it can be detached and deleted nevertheless.
    pub stuck: bool,
}

/// What a task does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates the ENI.
    Create(String),
    /// Attaches the ENI to the machine.
    Attach(String, String),
    /// Detaches the ENI.
    Detach(String),
    /// Deletes the ENI.
    Delete(String),
    /// Assigns the addresses.
    Assign(String, Vec<IpAddr>),
    /// Unassigns the addresses.
    Unassign(String, Vec<IpAddr>),
    /// Moves the address from one ENI to another.
    Migrate(String, String, IpAddr),
}

/// How a task goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Not ended.
    Running(Change),
    /// Done.
    Success,
    /// Not done, and why.
    Failed(String),
}

/// A new ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its name.
    pub name: String,
    /// Its subnet.
    pub subnet: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its primary address; absent: the cloud chooses.
    pub ip: Option<IpAddr>,
    /// Makes a repeated call find the first one's ENI.
    pub token: Option<String>,
}

/// Everything the cloud knows.
#[derive(Clone, Debug)]
pub struct Vpc {
    pub(super) config: CloudConfig,
    pub(super) enis: BTreeMap<String, Eni>,
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) foreign: BTreeSet<IpAddr>,
    /// Addresses at the beginning of a subnet that nobody can have.
    pub(super) reserved: u32,
    /// Next hop of every subnet for IPv6.
    pub(super) gateway_v6: Ipv6Addr,
    /// Tags of subnets, by subnet.
    pub(super) subnet_tags: BTreeMap<String, BTreeMap<String, String>>,
    tokens: BTreeMap<String, (Create, Eni)>,
    created: u32,
}

type Answer<T> = Result<T, ApiError>;

impl Vpc {
    /// A VPC without ENIs.
    pub fn new(config: CloudConfig) -> Self {
        Self {
            config,
            enis: BTreeMap::new(),
            tasks: BTreeMap::new(),
            foreign: BTreeSet::new(),
            reserved: 2,
            gateway_v6: super::GATEWAY_V6,
            subnet_tags: BTreeMap::new(),
            tokens: BTreeMap::new(),
            created: 0,
        }
    }

    fn subnet(&self, id: &str) -> Answer<&SubnetConfig> {
        let found = self.config.subnets.iter().find(|subnet| subnet.id == id);
        found.ok_or_else(|| ApiError::new("ResourceNotFound", format!("subnet {id} does not exist")))
    }

    pub(super) fn instance(&self, id: &str) -> Answer<&InstanceConfig> {
        let found = self.config.instances.get(id);
        found.ok_or_else(|| ApiError::new("ResourceNotFound", format!("instance {id} does not exist")))
    }

    fn eni(&self, id: &str) -> Answer<&Eni> {
        let found = self.enis.get(id);
        found.ok_or_else(|| {
            ApiError::new("ResourceNotFound", format!("network interface {id} does not exist"))
        })
    }

    pub(super) fn eni_mut(&mut self, id: &str) -> &mut Eni {
        self.enis.get_mut(id).expect("looked up before, and a task keeps it")
    }

    /// An ENI that nothing is happening to.
    fn idle(&self, id: &str) -> Answer<&Eni> {
        let eni = self.eni(id)?;
        if eni.state != EniState::Available && !eni.stuck {
            let message = format!("{id} is {:?}", eni.state);
            return Err(ApiError::new("UnsupportedOperation.InvalidState", message));
        }
        match &eni.task {
            Some(task) => {
                let message = format!("task {task} is running on {id}");
                Err(ApiError::new("UnsupportedOperation.MutexOperationTaskRunning", message))
            }
            None => Ok(eni),
        }
    }

    /// Who has an address: an ENI, something else, nobody.
    fn is_taken(&self, ip: IpAddr) -> bool {
        self.foreign.contains(&ip) || self.enis.values().flat_map(|eni| &eni.addresses).any(|a| a.ip == ip)
    }

    /// The network's addresses that anything can have: all but the reserved ones and the last.
    fn usable(&self, net: IpNet) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, last) = (number(net.network()), number(net.broadcast()));
        (first.saturating_add(self.reserved.into())..last).map(move |number| match net {
            IpNet::V4(_) => u32::try_from(number).expect("of an IPv4 network").to_be_bytes().into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        })
    }

    /// Free IPv4 addresses of a subnet.
    pub fn free(&self, subnet: &SubnetConfig) -> usize {
        self.usable(subnet.cidr.into()).filter(|ip| !self.is_taken(*ip)).count()
    }

    fn check_address(&self, subnet: &SubnetConfig, ip: IpAddr) -> Answer<()> {
        let net = subnet.net(ip).filter(|net| net.contains(&ip));
        let Some(net) = net else {
            let message = format!("{ip} is not in a network of {}", subnet.id);
            return Err(ApiError::new("InvalidParameterValue.Range", message));
        };
        let at = number(ip);
        if at < number(net.network()) + u128::from(self.reserved) || at >= number(net.broadcast()) {
            return Err(ApiError::new("InvalidParameterValue.Reserved", format!("{ip} is reserved")));
        }
        if self.is_taken(ip) {
            return Err(ApiError::new("ResourceInUse.Address", format!("{ip} is in use")));
        }
        Ok(())
    }

    /// Room for so many more addresses on an ENI, of the family of these.
    fn check_room(&self, eni: &Eni, ips: &[IpAddr]) -> Answer<()> {
        let Some((instance, _)) = &eni.attachment else { return Ok(()) };
        let limit = self.instance(instance)?.max_ips_per_eni;
        let of_family = |address: &&Address| ips.iter().any(|ip| ip.is_ipv4() == address.ip.is_ipv4());
        if eni.addresses.iter().filter(of_family).count() + ips.len() > limit {
            let message = format!("{} may have {limit} addresses on {instance}", eni.id);
            return Err(ApiError::new("LimitExceeded.Address", message));
        }
        Ok(())
    }

    fn start(&mut self, task: &str, enis: &[&str], change: Change) -> Change {
        for id in enis {
            self.eni_mut(id).task = Some(task.to_owned());
        }
        self.tasks.insert(task.to_owned(), Task::Running(change.clone()));
        change
    }

    fn new_eni(&mut self, name: &str, subnet: &str, ip: IpAddr) -> Eni {
        self.created += 1;
        let [a, b, c, d] = self.created.to_be_bytes();
        Eni {
            id: format!("eni-{:08x}", self.created),
            name: name.to_owned(),
            // Locally administered, and never given twice.
            mac: format!("02:0e:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            subnet: subnet.to_owned(),
            primary: false,
            state: EniState::Available,
            attachment: None,
            addresses: vec![Address { ip, primary: true, state: AddressState::Available }],
            tags: BTreeMap::new(),
            task: None,
            attached: 0,
            stuck: false,
        }
    }

    /// Adds a machine, with its primary ENI when it is to have one, whose id is returned.
    pub fn add_instance(&mut self, id: &str, instance: InstanceConfig) -> Answer<Option<String>> {
        let primary = instance.primary.clone();
        self.config.instances.insert(id.to_owned(), instance);
        let Some(primary) = primary else { return Ok(None) };
        let subnet = self.subnet(&primary.subnet)?.clone();
        let ip = primary.ip.into();
        self.check_address(&subnet, ip)?;
        let mut eni = self.new_eni(&format!("{id}-primary"), &primary.subnet, ip);
        eni.mac = primary.mac.unwrap_or(eni.mac);
        (eni.primary, eni.attachment) = (true, Some((id.to_owned(), 0)));
        let eni_id = eni.id.clone();
        self.enis.insert(eni_id.clone(), eni);
        Ok(Some(eni_id))
    }

    /// Begins a CreateNetworkInterface: the ENI as answered, and the change unless the token found an old one.
    pub fn create(&mut self, task: &str, create: Create) -> Answer<(Eni, Option<Change>)> {
        if let Some((first, eni)) = create.token.as_ref().and_then(|token| self.tokens.get(token)) {
            if *first != create {
                let message = "this client token came with other parameters before";
                return Err(ApiError::new("UnsupportedOperation.IdempotentParameterMismatch", message));
            }
            return Ok((eni.clone(), None));
        }
        let subnet = self.subnet(&create.subnet)?.clone();
        let secondary = self.enis.values().filter(|eni| !eni.primary).count();
        if secondary >= self.config.quotas.enis_per_vpc {
            let message = format!("the VPC may have {} ENIs", self.config.quotas.enis_per_vpc);
            return Err(ApiError::new("LimitExceeded.NetworkInterfaceLimitExceeded", message));
        }
        let free = self.usable(subnet.cidr.into()).find(|ip| !self.is_taken(*ip)).ok_or_else(|| {
            ApiError::new("ResourceInsufficient.Subnet", format!("{} has no free address", subnet.id))
        })?;
        if let Some(ip) = create.ip {
            self.check_address(&subnet, ip)?;
        }
        let ip = create.ip.unwrap_or(free);
        let mut eni = self.new_eni(&create.name, &create.subnet, ip);
        (eni.state, eni.tags) = (EniState::Pending, create.tags.clone());
        if let Some(token) = create.token.clone() {
            self.tokens.insert(token, (create, eni.clone()));
        }
        let id = eni.id.clone();
        self.enis.insert(id.clone(), eni.clone());
        let change = self.start(task, &[&id], Change::Create(id.clone()));
        Ok((eni, Some(change)))
    }

    /// Begins an AttachNetworkInterface, at this place or the first free one.
    pub fn attach(&mut self, task: &str, id: &str, instance: &str, place: Option<u32>) -> Answer<Change> {
        if self.eni(id)?.attachment.is_some() && self.eni(id)?.state == EniState::Available {
            let message = format!("{id} is attached");
            return Err(ApiError::new("UnsupportedOperation.AttachmentAlreadyExists", message));
        }
        let eni = self.idle(id)?;
        let machine = self.instance(instance)?;
        if self.subnet(&eni.subnet)?.zone != machine.zone {
            let message = format!("{id} is not in {}, the zone of {instance}", machine.zone);
            return Err(ApiError::new("UnsupportedOperation.ZoneMismatch", message));
        }
        let mut places: BTreeSet<u32> = BTreeSet::new();
        for other in self.enis.values() {
            places.extend(other.attachment.iter().filter(|(on, _)| on == instance).map(|(_, place)| *place));
        }
        if places.len() >= machine.max_enis {
            let message = format!("{instance} may have {} ENIs", machine.max_enis);
            return Err(ApiError::new("LimitExceeded", message));
        }
        if eni.addresses.len() > machine.max_ips_per_eni {
            let message = format!("an ENI on {instance} may have {} addresses", machine.max_ips_per_eni);
            return Err(ApiError::new("UnsupportedOperation", message));
        }
        if let Some(place) = place.filter(|place| places.contains(place)) {
            let message =
                format!("Instance '{instance}' already has an interface attached at device index '{place}'.");
            return Err(ApiError::new("UnsupportedOperation.PlaceTaken", message));
        }
        // Place 0 is the primary ENI's.
        let first_free = (1..).find(|place| !places.contains(place)).unwrap_or(u32::MAX);
        let place = place.unwrap_or(first_free);
        let eni = self.eni_mut(id);
        eni.attached += 1;
        (eni.state, eni.attachment) = (EniState::Attaching, Some((instance.to_owned(), place)));
        Ok(self.start(task, &[id], Change::Attach(id.to_owned(), instance.to_owned())))
    }

    /// Begins a DetachNetworkInterface.
    pub fn detach(&mut self, task: &str, id: &str, instance: &str) -> Answer<Change> {
        let eni = self.idle(id)?;
        if eni.primary {
            return Err(ApiError::new("UnsupportedOperation", format!("{id} is the primary ENI")));
        }
        if eni.attachment.as_ref().is_none_or(|(on, _)| on != instance) {
            let message = format!("{id} is not on {instance}");
            return Err(ApiError::new("UnsupportedOperation.InvalidState", message));
        }
        let eni = self.eni_mut(id);
        (eni.state, eni.stuck) = (EniState::Detaching, false);
        Ok(self.start(task, &[id], Change::Detach(id.to_owned())))
    }

    /// Begins a DeleteNetworkInterface.
    pub fn delete(&mut self, task: &str, id: &str) -> Answer<Change> {
        let eni = self.idle(id)?;
        if eni.attachment.is_some() {
            return Err(ApiError::new("ResourceInUse", format!("{id} is attached")));
        }
        let eni = self.eni_mut(id);
        (eni.state, eni.stuck) = (EniState::Deleting, false);
        Ok(self.start(task, &[id], Change::Delete(id.to_owned())))
    }

    /// Begins an AssignIpv6Addresses with a number instead of addresses: the first free ones.
    pub fn assign_any_v6(&mut self, task: &str, id: &str, count: usize) -> Answer<(Change, Vec<IpAddr>)> {
        let subnet = self.subnet(&self.idle(id)?.subnet)?;
        let Some(cidr) = subnet.cidr_v6 else {
            return Err(ApiError::new(
                "UnsupportedOperation.UnassignCidrBlock",
                format!("{} has no IPv6", subnet.id),
            ));
        };
        let ips: Vec<IpAddr> =
            self.usable(cidr.into()).filter(|ip| !self.is_taken(*ip)).take(count).collect();
        if ips.len() < count {
            return Err(ApiError::new(
                "ResourceInsufficient.Subnet",
                format!("{} has no free address", subnet.id),
            ));
        }
        Ok((self.assign(task, id, &ips)?, ips))
    }

    /// Begins an AssignPrivateIpAddresses or AssignIpv6Addresses: all of them, or none.
    pub fn assign(&mut self, task: &str, id: &str, ips: &[IpAddr]) -> Answer<Change> {
        let eni = self.idle(id)?;
        let subnet = self.subnet(&eni.subnet)?;
        check_batch(ips)?;
        if subnet.cidr_v6.is_none() && ips.iter().any(IpAddr::is_ipv6) {
            return Err(ApiError::new(
                "UnsupportedOperation.UnassignCidrBlock",
                format!("{} has no IPv6", subnet.id),
            ));
        }
        ips.iter().try_for_each(|ip| self.check_address(subnet, *ip))?;
        self.check_room(eni, ips)?;
        let pending = |ip: &IpAddr| Address { ip: *ip, primary: false, state: AddressState::Pending };
        self.eni_mut(id).addresses.extend(ips.iter().map(pending));
        Ok(self.start(task, &[id], Change::Assign(id.to_owned(), ips.to_vec())))
    }

    /// Begins an UnassignPrivateIpAddresses or UnassignIpv6Addresses: all of them, or none.
    pub fn unassign(&mut self, task: &str, id: &str, ips: &[IpAddr]) -> Answer<Change> {
        let eni = self.idle(id)?;
        check_batch(ips)?;
        ips.iter().try_for_each(|ip| secondary(eni, *ip))?;
        self.eni_mut(id).set(ips, AddressState::Deleting);
        Ok(self.start(task, &[id], Change::Unassign(id.to_owned(), ips.to_vec())))
    }

    /// Begins a MigratePrivateIpAddress.
    pub fn migrate(&mut self, task: &str, from: &str, to: &str, ip: IpAddr) -> Answer<Change> {
        let (source, target) = (self.idle(from)?, self.idle(to)?);
        if source.subnet != target.subnet {
            let message = format!("{from} and {to} are in different subnets");
            return Err(ApiError::new("UnsupportedOperation", message));
        }
        secondary(source, ip)?;
        self.check_room(target, &[ip])?;
        self.eni_mut(from).set(&[ip], AddressState::Migrating);
        Ok(self.start(task, &[from, to], Change::Migrate(from.to_owned(), to.to_owned(), ip)))
    }

    /// A change that never ends: its ENI stays on its way.
    pub fn get_stuck(&mut self, change: &Change) {
        if let Change::Create(id) | Change::Attach(id, _) = change {
            let eni = self.eni_mut(id);
            (eni.task, eni.stuck) = (None, true);
        }
    }

    /// Ends a task: makes its change, or takes back what its beginning did.
    pub fn finish(&mut self, task: &str, outcome: Result<(), String>) {
        let Some(Task::Running(change)) = self.tasks.get(task).cloned() else { return };
        let done = outcome.is_ok();
        for eni in self.enis.values_mut().filter(|eni| eni.task.as_deref() == Some(task)) {
            eni.task = None;
        }
        match change {
            Change::Create(id) if done => self.eni_mut(&id).state = EniState::Available,
            Change::Delete(id) if done => {
                self.enis.remove(&id);
            }
            Change::Create(id) => {
                self.enis.remove(&id);
            }
            Change::Delete(id) => self.eni_mut(&id).state = EniState::Available,
            Change::Attach(id, _) | Change::Detach(id) => {
                let eni = self.eni_mut(&id);
                let was_attaching = eni.state == EniState::Attaching;
                if was_attaching != done {
                    eni.attachment = None;
                }
                eni.state = EniState::Available;
            }
            Change::Assign(id, ips) if done => self.eni_mut(&id).set(&ips, AddressState::Available),
            Change::Unassign(id, ips) if !done => self.eni_mut(&id).set(&ips, AddressState::Available),
            Change::Assign(id, ips) | Change::Unassign(id, ips) => {
                self.eni_mut(&id).addresses.retain(|address| !ips.contains(&address.ip));
            }
            Change::Migrate(from, to, ip) => {
                self.eni_mut(&from).set(&[ip], AddressState::Available);
                if done {
                    self.eni_mut(&from).addresses.retain(|address| address.ip != ip);
                    let address = Address { ip, primary: false, state: AddressState::Available };
                    self.eni_mut(&to).addresses.push(address);
                }
            }
        }
        let end = outcome.map_or_else(Task::Failed, |()| Task::Success);
        self.tasks.insert(task.to_owned(), end);
    }

    /// What must hold whatever was called: the sentences say what does not.
    pub fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut places = BTreeSet::new();
        for eni in self.enis.values() {
            let subnet = self.subnet(&eni.subnet);
            for address in &eni.addresses {
                if let Some(other) = seen.insert(address.ip, &eni.id) {
                    wrong.push(format!("{} is on {other} and on {}", address.ip, eni.id));
                }
                if self.foreign.contains(&address.ip) {
                    wrong.push(format!("{} of {} is something else's", address.ip, eni.id));
                }
                let net = subnet.as_ref().ok().and_then(|subnet| subnet.net(address.ip));
                if !net.is_some_and(|net| net.contains(&address.ip)) {
                    wrong.push(format!("{} of {} is outside its subnet", address.ip, eni.id));
                }
            }
            if eni.addresses.iter().filter(|address| address.primary).count() != 1 {
                wrong.push(format!("{} has not one primary address", eni.id));
            }
            if let Some(place) = &eni.attachment
                && !places.insert(place)
            {
                wrong.push(format!("{} is where another ENI is: {place:?}", eni.id));
            }
        }
        wrong
    }
}

impl Eni {
    /// The name of its present attachment: each has another.
    #[must_use]
    pub fn attachment_id(&self) -> String {
        format!("eni-attach-{}{:02x}", self.id.trim_start_matches("eni-"), self.attached)
    }

    /// Its secondary addresses of both families.
    pub fn secondary_ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter(|address| !address.primary).map(|address| address.ip).collect()
    }

    fn set(&mut self, ips: &[IpAddr], state: AddressState) {
        self.addresses.iter_mut().filter(|a| ips.contains(&a.ip)).for_each(|a| a.state = state);
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn check_batch(ips: &[IpAddr]) -> Answer<()> {
    if ips.is_empty() {
        return Err(ApiError::new("MissingParameter", "no address is named"));
    }
    if ips.iter().collect::<BTreeSet<_>>().len() != ips.len() {
        return Err(ApiError::new("InvalidParameterValue.DuplicatePara", "an address is named twice"));
    }
    Ok(())
}

fn secondary(eni: &Eni, ip: IpAddr) -> Answer<()> {
    match eni.addresses.iter().find(|address| address.ip == ip) {
        Some(address) if address.primary => Err(ApiError::new(
            "UnauthorizedOperation.PrimaryIp",
            format!("{ip} is the primary address of {}", eni.id),
        )),
        Some(_) => Ok(()),
        None => Err(ApiError::new(
            "UnauthorizedOperation.AttachmentNotFound",
            format!("{ip} is not on {}", eni.id),
        )),
    }
}
