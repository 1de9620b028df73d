//! A cloud over plain HTTP, as hostile as the originals, with two front doors: Tencent Cloud's VPC API 3.0 and
//! [AWS's EC2](ec2).
//!
//! It checks signatures, quotas and every parameter, finishes what it begins later, limits rates, and moves
//! the [`World`] when ENIs and addresses move. [`Faults`] make it answer wrongly, late or not at all.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::world::World;

mod admin;
pub mod auth;
pub mod ec2;
pub mod error;
mod fault;
mod http;
mod run;
pub mod state;
mod tc3;
mod wire;

pub use fault::{FaultKind, FaultPlan, Faults, When};
use state::{Eni, Vpc};

/// How long a Describe can be made to lag, at most.
const HISTORY: Duration = Duration::from_secs(30);

/// What the cloud starts with.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    /// Such as `ap-lab`; calls for another region are refused.
    pub region: String,
    /// Such as `vpc-lab`.
    pub vpc: String,
    /// Its subnets.
    pub subnets: Vec<SubnetConfig>,
    /// Machines by id.
    pub instances: BTreeMap<String, InstanceConfig>,
    /// Limits.
    pub quotas: Quotas,
    /// How long what is asynchronous takes.
    pub delays: Delays,
    /// SecretId and SecretKey of the one who may call.
    pub secret: (String, String),
}

/// Next hop of every subnet for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xfeee, 0xffff, 0xfeff, 0xffff);

/// A subnet. Its first two addresses and its last can be nobody's, in both families; the first is the gateway for IPv4.
#[derive(Clone, Debug)]
pub struct SubnetConfig {
    /// Such as `subnet-a`.
    pub id: String,
    /// Such as `ap-lab-1`.
    pub zone: String,
    /// Its IPv4 addresses.
    pub cidr: Ipv4Net,
    /// Its IPv6 addresses, if it has any.
    pub cidr_v6: Option<Ipv6Net>,
}

impl SubnetConfig {
    /// The subnet's gateway.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + 1)
    }

    /// Its network of the family of this address.
    fn net(&self, ip: IpAddr) -> Option<IpNet> {
        match ip {
            IpAddr::V4(_) => Some(self.cidr.into()),
            IpAddr::V6(_) => self.cidr_v6.map(IpNet::from),
        }
    }
}

/// A machine.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// Its zone: only ENIs of subnets there can be attached.
    pub zone: String,
    /// ENIs it may have, the primary one included.
    pub max_enis: usize,
    /// Addresses that each of them may have of each family, the primary one included.
    pub max_ips_per_eni: usize,
    /// The ENI it is born with. The world is not told of it: it was there before.
    pub primary: Option<PrimaryEni>,
}

/// The ENI that a machine is born with.
#[derive(Clone, Debug)]
pub struct PrimaryEni {
    /// Its subnet.
    pub subnet: String,
    /// Its primary address.
    pub ip: Ipv4Addr,
    /// Its MAC; absent: the cloud chooses one.
    pub mac: Option<String>,
}

/// Limits.
#[derive(Clone, Debug)]
pub struct Quotas {
    /// ENIs of the VPC, the machines' primary ones not counted.
    pub enis_per_vpc: usize,
    /// Calls of one action in any second; absent: no limit.
    pub calls_per_second: Option<usize>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { enis_per_vpc: 1000, calls_per_second: None }
    }
}

/// How long each kind of task takes. With zero it is done before the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    /// PENDING.
    pub create: Duration,
    /// ATTACHING.
    pub attach: Duration,
    /// DETACHING.
    pub detach: Duration,
    /// DELETING.
    pub delete: Duration,
    /// Assigning and unassigning.
    pub assign: Duration,
    /// MIGRATING.
    pub migrate: Duration,
}

impl Delays {
    /// The same for all.
    #[must_use]
    pub const fn all(delay: Duration) -> Self {
        Self { create: delay, attach: delay, detach: delay, delete: delay, assign: delay, migrate: delay }
    }
}

/// A call that came.
#[derive(Clone, Debug)]
pub struct Call {
    /// The action.
    pub action: String,
    /// The port that it came to: who called, where each caller has one of its own.
    pub port: u16,
    /// When it came.
    pub at: Instant,
    /// Its parameters.
    pub params: Value,
    /// What became of it in the cloud's own records, whatever the caller heard: `OK`, or the error's code.
    pub outcome: String,
}

/// What the cloud knows at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All ENIs, by id.
    pub enis: Vec<Eni>,
    /// What does not hold though it must: an address on two ENIs and the like.
    pub violations: Vec<String>,
}

impl Snapshot {
    /// The ENI with this id.
    #[must_use]
    pub fn eni(&self, id: &str) -> Option<&Eni> {
        self.enis.iter().find(|eni| eni.id == id)
    }

    /// The first address from this one on that no ENI has.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn free_from(&self, first: [u8; 4]) -> Ipv4Addr {
        let mut next = (u32::from(Ipv4Addr::from(first))..).map(Ipv4Addr::from);
        next.find(|ip| self.holder(*ip).is_none()).expect("one is free")
    }

    /// How many ENIs were made for pods.
    #[must_use]
    pub fn pod_enis(&self) -> usize {
        self.enis.iter().filter(|eni| !eni.primary).count()
    }

    /// The ENI that has this address.
    #[must_use]
    pub fn holder(&self, ip: impl Into<IpAddr>) -> Option<&Eni> {
        let ip = ip.into();
        self.enis.iter().find(|eni| eni.addresses.iter().any(|address| address.ip == ip))
    }
}

/// The cloud; clones are the same one.
#[derive(Clone)]
pub struct CloudServer {
    inner: Arc<Inner>,
}

struct Inner {
    world: Arc<dyn World>,
    /// Held while the world moves: one thing at a time.
    moving: tokio::sync::Mutex<()>,
    state: Mutex<Recorded>,
    calls: Mutex<Vec<Call>>,
    faults: Faults,
    roles: ec2::Roles,
}

/// The cloud's knowledge, and what it was.
struct Recorded {
    vpc: Vpc,
    /// The ENIs as they were from that moment on, oldest first.
    history: VecDeque<(Instant, Vec<Eni>)>,
}

impl Recorded {
    /// Changes what is known, and remembers what came of it.
    fn change<T>(&mut self, change: impl FnOnce(&mut Vpc) -> T) -> T {
        let result = change(&mut self.vpc);
        let now = Instant::now();
        self.history.push_back((now, self.vpc.enis.values().cloned().collect()));
        while self.history.get(1).is_some_and(|(from, _)| now.duration_since(*from) > HISTORY) {
            self.history.pop_front();
        }
        result
    }

    /// The ENIs as they were so long ago; before there were any, none.
    fn enis_before(&self, age: Duration) -> Vec<Eni> {
        let now = Instant::now();
        let past = self.history.iter().rev().find(|(from, _)| now.duration_since(*from) >= age);
        past.map_or_else(Vec::new, |(_, enis)| enis.clone())
    }
}

/// A server that runs until this is dropped. Tasks that have begun still end.
#[must_use = "the server stops when this is dropped"]
pub struct Serving {
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl CloudServer {
    /// A cloud of this world.
    ///
    /// # Panics
    /// A machine's primary ENI cannot be: its subnet does not exist, its address is taken.
    #[must_use]
    pub fn new(mut config: CloudConfig, world: Arc<dyn World>) -> Self {
        let instances = std::mem::take(&mut config.instances);
        let server = Self {
            inner: Arc::new(Inner {
                world,
                moving: tokio::sync::Mutex::new(()),
                state: Mutex::new(Recorded { vpc: Vpc::new(config), history: VecDeque::new() }),
                calls: Mutex::default(),
                faults: Faults::default(),
                roles: ec2::Roles::default(),
            }),
        };
        for (id, instance) in instances {
            server.add_instance(&id, instance);
        }
        server
    }

    /// Serves Tencent Cloud's API on a socket, which may have been made in any network namespace. To be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// The socket is not fit for it.
    pub fn serve(&self, listener: TcpListener) -> std::io::Result<Serving> {
        self.open::<tc3::Tc3>(listener)
    }

    /// Likewise serves the EC2 API. From then on subnets have the reserved addresses and the IPv6 next hop of
    /// AWS's.
    ///
    /// # Errors
    /// The socket is not fit for it.
    pub fn serve_ec2(&self, listener: TcpListener) -> std::io::Result<Serving> {
        self.change(|vpc| (vpc.reserved, vpc.gateway_v6) = (ec2::RESERVED, ec2::GATEWAY_V6));
        self.open::<ec2::Ec2>(listener)
    }

    fn open<D: http::Door>(&self, listener: TcpListener) -> std::io::Result<Serving> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(Serving { accepting: tokio::spawn(http::accept::<D>(self.clone(), listener)) })
    }

    /// Adds a machine. The id of its primary ENI, if it has one.
    ///
    /// # Panics
    /// Its primary ENI cannot be.
    pub fn add_instance(&self, id: &str, instance: InstanceConfig) -> Option<String> {
        match self.change(|vpc| vpc.add_instance(id, instance)) {
            Ok(eni) => eni,
            Err(error) => panic!("instance {id}: {}", error.message),
        }
    }

    /// Takes a machine away, as its owner would. Its primary ENI goes with it, the others are detached.
    ///
    /// # Errors
    /// The world could not.
    pub async fn remove_instance(&self, id: &str) -> anyhow::Result<()> {
        let on_it = |eni: &&Eni| eni.attachment.as_ref().is_some_and(|(on, _)| on == id);
        let enis: Vec<_> = self.snapshot().enis.iter().filter(on_it).cloned().collect();
        for eni in enis {
            if eni.primary {
                self.change(|vpc| vpc.enis.remove(&eni.id));
            } else {
                self.detach_out_of_band(&eni.id).await?;
            }
        }
        self.change(|vpc| vpc.config.instances.remove(id));
        Ok(())
    }

    /// Takes an ENI off its machine behind everybody's back.
    ///
    /// # Errors
    /// The world could not.
    pub async fn detach_out_of_band(&self, eni_id: &str) -> anyhow::Result<()> {
        let _moving = self.inner.moving.lock().await;
        let (world, id) = (self.inner.world.clone(), eni_id.to_owned());
        tokio::task::spawn_blocking(move || world.detach(&id)).await??;
        self.change(|vpc| vpc.enis.get_mut(eni_id).map(|eni| eni.attachment = None));
        Ok(())
    }

    /// Something else in the subnet takes this address.
    pub fn take_address(&self, ip: impl Into<IpAddr>) {
        let ip = ip.into();
        self.change(|vpc| vpc.foreign.insert(ip));
    }

    /// It lets go of it.
    pub fn free_address(&self, ip: impl Into<IpAddr>) {
        let ip = ip.into();
        self.change(|vpc| vpc.foreign.remove(&ip));
    }

    /// The faults to befall calls.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.inner.faults.clone()
    }

    /// The calls that came, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many calls of this action came.
    #[must_use]
    pub fn count(&self, action: &str) -> usize {
        self.calls().iter().filter(|call| call.action == action).count()
    }

    /// What the cloud knows now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        Snapshot { enis: state.vpc.enis.values().cloned().collect(), violations: state.vpc.violations() }
    }

    /// Addresses of the world that are something else's.
    #[must_use]
    pub fn foreign(&self) -> BTreeSet<IpAddr> {
        self.state().vpc.foreign.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vpc) -> T) -> T {
        self.state().change(change)
    }
}
