//! A cloud, its world, and a provider that speaks to it over loopback.

use std::{
    net::{IpAddr, Ipv4Addr, TcpListener},
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use ipam_agent::cloud::{EniInfo, EniProvider, NewEni, Pace};
use ipam_lab::{
    caller::{Caller, Door},
    cloud_server::{
        CloudConfig, CloudServer, Delays, InstanceConfig, PrimaryEni, Quotas, Serving, SubnetConfig,
    },
    world::{World, WorldEni},
};

/// Each case as a test of its own, at each of the cloud's front doors.
macro_rules! at_both_doors {
    ($($case:ident),* $(,)?) => {
        mod tencent {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(ipam_lab::caller::Door::Tencent).await;
            })*
        }
        mod aws {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(ipam_lab::caller::Door::Aws).await;
            })*
        }
    };
}
pub(crate) use at_both_doors;

/// Writes down what moved, and refuses what it is told to.
#[derive(Default)]
pub struct Recorder {
    moves: Mutex<Vec<String>>,
    pub refuses: Mutex<Option<&'static str>>,
}

impl Recorder {
    fn note(&self, what: String) -> anyhow::Result<()> {
        if let Some(word) = *self.refuses.lock().unwrap()
            && what.starts_with(word)
        {
            anyhow::bail!("the kernel refused: {what}");
        }
        self.moves.lock().unwrap().push(what);
        Ok(())
    }

    /// What moved since the last time this was asked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.moves.lock().unwrap())
    }
}

impl World for Recorder {
    fn attach(&self, instance_id: &str, eni: &WorldEni) -> anyhow::Result<()> {
        let ips = eni.ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        self.note(format!("attach {} to {instance_id} via {} with {ips}", eni.id, eni.gateway))
    }
    fn detach(&self, eni_id: &str) -> anyhow::Result<()> {
        self.note(format!("detach {eni_id}"))
    }
    fn assign(&self, eni_id: &str, ip: IpAddr) -> anyhow::Result<()> {
        self.note(format!("assign {ip} to {eni_id}"))
    }
    fn unassign(&self, eni_id: &str, ip: IpAddr) -> anyhow::Result<()> {
        self.note(format!("unassign {ip} from {eni_id}"))
    }
}

pub struct Rig {
    pub cloud: CloudServer,
    pub world: Arc<Recorder>,
    pub provider: Arc<dyn EniProvider>,
    pub caller: Caller,
    _serving: Serving,
}

/// Subnets a and b in zone 1, z in zone 2; machines ins-a and ins-b in zone 1 with a primary ENI each.
pub fn cloud_config() -> CloudConfig {
    let subnet = |id: &str, zone: &str, cidr: &str| SubnetConfig {
        id: id.into(),
        zone: zone.into(),
        cidr: cidr.parse().unwrap(),
        cidr_v6: None,
    };
    let instance = |last| InstanceConfig {
        zone: "ap-lab-1".into(),
        max_enis: 4,
        max_ips_per_eni: 20,
        primary: Some(PrimaryEni { subnet: "subnet-b".into(), ip: Ipv4Addr::new(10, 0, 2, last), mac: None }),
    };
    CloudConfig {
        region: "ap-lab".into(),
        vpc: "vpc-lab".into(),
        subnets: vec![
            subnet("subnet-a", "ap-lab-1", "10.0.1.0/24"),
            subnet("subnet-b", "ap-lab-1", "10.0.2.0/28"),
            subnet("subnet-z", "ap-lab-2", "10.0.8.0/22"),
        ],
        instances: [("ins-a".into(), instance(10)), ("ins-b".into(), instance(11))].into(),
        quotas: Quotas::default(),
        delays: Delays::default(),
        secret: ("AKIDlab".into(), "lab-secret".into()),
    }
}

pub fn pace() -> Pace {
    Pace {
        call: Duration::from_secs(2),
        poll: Duration::from_millis(5),
        settle: Duration::from_millis(350),
        deadline: Duration::from_secs(30),
        backoff: (Duration::from_millis(5), Duration::from_millis(50)),
        qps: NonZeroU32::new(1000).unwrap(),
    }
}

impl Rig {
    pub fn new(door: Door) -> Self {
        Self::with(door, cloud_config())
    }

    pub fn slow(door: Door, delay: Duration) -> Self {
        Self::with(door, CloudConfig { delays: Delays::all(delay), ..cloud_config() })
    }

    pub fn with(door: Door, config: CloudConfig) -> Self {
        let world = Arc::new(Recorder::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (secret_id, secret_key) = config.secret.clone();
        let caller = Caller {
            door,
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            region: config.region.clone(),
            vpc: config.vpc.clone(),
            subnet_ids: config.subnets.iter().map(|subnet| subnet.id.clone()).collect(),
            subnet_tag: None,
            secret_id,
            secret_key,
            pace: pace(),
        };
        let cloud = CloudServer::new(config, world.clone());
        let serving = door.open(&cloud, listener).unwrap();
        let provider = caller.provider().unwrap();
        Self { cloud, world, provider, caller, _serving: serving }
    }

    /// A second provider, as another process would be.
    pub fn another(&self, change: impl FnOnce(&mut Caller)) -> Arc<dyn EniProvider> {
        let mut caller = self.caller.clone();
        change(&mut caller);
        caller.provider().unwrap()
    }

    pub async fn create(&self, name: &str) -> EniInfo {
        self.provider.create_eni(&new_eni(name)).await.unwrap()
    }

    pub async fn attached(&self, name: &str, instance: &str) -> EniInfo {
        let eni = self.create(name).await;
        self.provider.attach_eni(&eni.id, instance).await.unwrap();
        eni
    }

    /// The ENIs that are no machine's primary one.
    pub fn secondary_enis(&self) -> Vec<ipam_lab::cloud_server::state::Eni> {
        self.cloud.snapshot().enis.into_iter().filter(|eni| !eni.primary).collect()
    }

    /// The secondary IPv4 addresses the cloud knows to be on an ENI.
    pub fn ips_of(&self, eni: &str) -> Vec<Ipv4Addr> {
        self.all_ips_of(eni)
            .into_iter()
            .filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            })
            .collect()
    }

    /// Likewise of both families.
    pub fn all_ips_of(&self, eni: &str) -> Vec<IpAddr> {
        let mut ips = self.cloud.snapshot().eni(eni).unwrap().secondary_ips();
        ips.sort_unstable();
        ips
    }
}

pub fn new_eni(name: &str) -> NewEni {
    NewEni {
        name: name.into(),
        subnet_id: "subnet-a".into(),
        cluster_id: "cluster-1".into(),
        node: "node-1".into(),
        primary_ip: None,
    }
}

/// Address 10.0.1.`last`, for the provider.
pub fn ip(last: u8) -> IpAddr {
    v4(last).into()
}

/// Address 10.0.1.`last`.
pub const fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, last)
}
