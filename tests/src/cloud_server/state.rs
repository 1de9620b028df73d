//! What the cloud knows, and how a call changes it: no I/O, no clock.
//!
//! A call that changes something begins here (checks, and the state on the way), gives a [`Change`] that is
//! done later, and ends in [`Vpc::finish`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

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
    pub ip: Ipv4Addr,
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
    Assign(String, Vec<Ipv4Addr>),
    /// Unassigns the addresses.
    Unassign(String, Vec<Ipv4Addr>),
    /// Moves the address from one ENI to another.
    Migrate(String, String, Ipv4Addr),
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
    /// Makes a repeated call find the first one's ENI.
    pub token: Option<String>,
}

/// Everything the cloud knows.
#[derive(Clone, Debug)]
pub struct Vpc {
    pub(super) config: CloudConfig,
    pub(super) enis: BTreeMap<String, Eni>,
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) foreign: BTreeSet<Ipv4Addr>,
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
            tokens: BTreeMap::new(),
            created: 0,
        }
    }

    fn subnet(&self, id: &str) -> Answer<&SubnetConfig> {
        let found = self.config.subnets.iter().find(|subnet| subnet.id == id);
        found.ok_or_else(|| ApiError::new("ResourceNotFound", format!("subnet {id} does not exist")))
    }

    fn instance(&self, id: &str) -> Answer<&InstanceConfig> {
        let found = self.config.instances.get(id);
        found.ok_or_else(|| ApiError::new("ResourceNotFound", format!("instance {id} does not exist")))
    }

    fn eni(&self, id: &str) -> Answer<&Eni> {
        let found = self.enis.get(id);
        found.ok_or_else(|| {
            ApiError::new("ResourceNotFound", format!("network interface {id} does not exist"))
        })
    }

    fn eni_mut(&mut self, id: &str) -> &mut Eni {
        self.enis.get_mut(id).expect("looked up before, and a task keeps it")
    }

    /// An ENI that nothing is happening to.
    fn idle(&self, id: &str) -> Answer<&Eni> {
        let eni = self.eni(id)?;
        if eni.state != EniState::Available {
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
    fn is_taken(&self, ip: Ipv4Addr) -> bool {
        self.foreign.contains(&ip) || self.enis.values().flat_map(|eni| &eni.addresses).any(|a| a.ip == ip)
    }

    /// The subnet's addresses that anything can have: all but the first two and the last.
    fn usable(cidr: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
        let (first, last) = (u32::from(cidr.network()), u32::from(cidr.broadcast()));
        (first.saturating_add(2)..last).map(Ipv4Addr::from)
    }

    /// Free addresses of a subnet.
    pub fn free(&self, subnet: &SubnetConfig) -> usize {
        Self::usable(subnet.cidr).filter(|ip| !self.is_taken(*ip)).count()
    }

    fn check_address(&self, subnet: &SubnetConfig, ip: Ipv4Addr) -> Answer<()> {
        if !subnet.cidr.contains(&ip) {
            let message = format!("{ip} is not in {} of {}", subnet.cidr, subnet.id);
            return Err(ApiError::new("InvalidParameterValue.Range", message));
        }
        if !Self::usable(subnet.cidr).any(|usable| usable == ip) {
            return Err(ApiError::new("InvalidParameterValue.Reserved", format!("{ip} is reserved")));
        }
        if self.is_taken(ip) {
            return Err(ApiError::new("ResourceInUse.Address", format!("{ip} is in use")));
        }
        Ok(())
    }

    /// Room for so many more addresses on an ENI.
    fn check_room(&self, eni: &Eni, more: usize) -> Answer<()> {
        let Some((instance, _)) = &eni.attachment else { return Ok(()) };
        let limit = self.instance(instance)?.max_ips_per_eni;
        if eni.addresses.len() + more > limit {
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

    fn new_eni(&mut self, name: &str, subnet: &str, ip: Ipv4Addr) -> Eni {
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
        }
    }

    /// Adds a machine, with its primary ENI when it is to have one, whose id is returned.
    pub fn add_instance(&mut self, id: &str, instance: InstanceConfig) -> Answer<Option<String>> {
        let primary = instance.primary.clone();
        self.config.instances.insert(id.to_owned(), instance);
        let Some(primary) = primary else { return Ok(None) };
        let subnet = self.subnet(&primary.subnet)?.clone();
        self.check_address(&subnet, primary.ip)?;
        let mut eni = self.new_eni(&format!("{id}-primary"), &primary.subnet, primary.ip);
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
        let ip = Self::usable(subnet.cidr).find(|ip| !self.is_taken(*ip)).ok_or_else(|| {
            ApiError::new("ResourceInsufficient.Subnet", format!("{} has no free address", subnet.id))
        })?;
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

    /// Begins an AttachNetworkInterface.
    pub fn attach(&mut self, task: &str, id: &str, instance: &str) -> Answer<Change> {
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
        // Place 0 is the primary ENI's.
        let place = (1..).find(|place| !places.contains(place)).unwrap_or(u32::MAX);
        let eni = self.eni_mut(id);
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
        self.eni_mut(id).state = EniState::Detaching;
        Ok(self.start(task, &[id], Change::Detach(id.to_owned())))
    }

    /// Begins a DeleteNetworkInterface.
    pub fn delete(&mut self, task: &str, id: &str) -> Answer<Change> {
        let eni = self.idle(id)?;
        if eni.attachment.is_some() {
            return Err(ApiError::new("ResourceInUse", format!("{id} is attached")));
        }
        self.eni_mut(id).state = EniState::Deleting;
        Ok(self.start(task, &[id], Change::Delete(id.to_owned())))
    }

    /// Begins an AssignPrivateIpAddresses: all of them, or none.
    pub fn assign(&mut self, task: &str, id: &str, ips: &[Ipv4Addr]) -> Answer<Change> {
        let eni = self.idle(id)?;
        let subnet = self.subnet(&eni.subnet)?;
        check_batch(ips)?;
        ips.iter().try_for_each(|ip| self.check_address(subnet, *ip))?;
        self.check_room(eni, ips.len())?;
        let pending = |ip: &Ipv4Addr| Address { ip: *ip, primary: false, state: AddressState::Pending };
        self.eni_mut(id).addresses.extend(ips.iter().map(pending));
        Ok(self.start(task, &[id], Change::Assign(id.to_owned(), ips.to_vec())))
    }

    /// Begins an UnassignPrivateIpAddresses: all of them, or none.
    pub fn unassign(&mut self, task: &str, id: &str, ips: &[Ipv4Addr]) -> Answer<Change> {
        let eni = self.idle(id)?;
        check_batch(ips)?;
        ips.iter().try_for_each(|ip| secondary(eni, *ip))?;
        self.eni_mut(id).set(ips, AddressState::Deleting);
        Ok(self.start(task, &[id], Change::Unassign(id.to_owned(), ips.to_vec())))
    }

    /// Begins a MigratePrivateIpAddress.
    pub fn migrate(&mut self, task: &str, from: &str, to: &str, ip: Ipv4Addr) -> Answer<Change> {
        let (source, target) = (self.idle(from)?, self.idle(to)?);
        if source.subnet != target.subnet {
            let message = format!("{from} and {to} are in different subnets");
            return Err(ApiError::new("UnsupportedOperation", message));
        }
        secondary(source, ip)?;
        self.check_room(target, 1)?;
        self.eni_mut(from).set(&[ip], AddressState::Migrating);
        Ok(self.start(task, &[from, to], Change::Migrate(from.to_owned(), to.to_owned(), ip)))
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
        let mut seen: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        let mut places = BTreeSet::new();
        for eni in self.enis.values() {
            let cidr = self.subnet(&eni.subnet).map(|subnet| subnet.cidr);
            for address in &eni.addresses {
                if let Some(other) = seen.insert(address.ip, &eni.id) {
                    wrong.push(format!("{} is on {other} and on {}", address.ip, eni.id));
                }
                if self.foreign.contains(&address.ip) {
                    wrong.push(format!("{} of {} is something else's", address.ip, eni.id));
                }
                if !cidr.as_ref().is_ok_and(|cidr| cidr.contains(&address.ip)) {
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
    /// Its secondary addresses.
    pub fn secondary_ips(&self) -> Vec<Ipv4Addr> {
        self.addresses.iter().filter(|address| !address.primary).map(|address| address.ip).collect()
    }

    fn set(&mut self, ips: &[Ipv4Addr], state: AddressState) {
        self.addresses.iter_mut().filter(|a| ips.contains(&a.ip)).for_each(|a| a.state = state);
    }
}

fn check_batch(ips: &[Ipv4Addr]) -> Answer<()> {
    if ips.is_empty() {
        return Err(ApiError::new("MissingParameter", "PrivateIpAddresses is empty"));
    }
    if ips.len() > 10 {
        return Err(ApiError::new("InvalidParameterValue.LimitExceeded", "10 addresses in one call at most"));
    }
    if ips.iter().collect::<BTreeSet<_>>().len() != ips.len() {
        return Err(ApiError::new("InvalidParameterValue.DuplicatePara", "an address is named twice"));
    }
    Ok(())
}

fn secondary(eni: &Eni, ip: Ipv4Addr) -> Answer<()> {
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
