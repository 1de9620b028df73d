//! Pods: a namespace, and the real CNI plugin that wires it.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ipam_cni::error::CniError;
use serde_json::Value;
use uuid::Uuid;

use super::{netns::Netns, node::LabNode, process::binary, scope::Scope};

/// A pod's sandbox on a node. The pod object, if there is one, is the test's.
#[derive(Debug)]
pub struct LabPod {
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_UID`, when the runtime gives one.
    pub uid: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// The plugin.
    pub plugin: PathBuf,
    ns: Netns,
    node: Arc<Netns>,
    /// Result of the last ADD that succeeded.
    result: Mutex<Option<Value>>,
}

/// What a call of the plugin gave.
#[derive(Debug)]
pub struct CniOutcome {
    /// How the process ended.
    pub status: ExitStatus,
    /// Standard output as it came.
    pub stdout: String,
    /// Standard output as JSON; `Null` when it is empty or something else.
    pub json: Value,
    /// Standard error.
    pub stderr: String,
    /// From before the fork to the end of the process.
    pub time: Duration,
}

impl CniOutcome {
    /// The result, when the call succeeded.
    ///
    /// # Errors
    /// The call failed: what the plugin says.
    pub fn ok(&self) -> anyhow::Result<&Value> {
        if self.status.success() {
            return Ok(&self.json);
        }
        match self.error() {
            Some(e) => bail!("CNI error {}: {e}", e.code),
            None => bail!("{}: {}{}", self.status, self.stdout, self.stderr),
        }
    }

    /// The error that the plugin printed.
    pub fn error(&self) -> Option<CniError> {
        serde_json::from_value(self.json.clone()).ok()
    }
}

impl LabPod {
    pub(super) fn new(node: &LabNode, name: &str) -> anyhow::Result<Self> {
        let scope: &Arc<Scope> = node.scope();
        let id = Uuid::new_v4().simple().to_string();
        // A StatefulSet's pod may be on two nodes at once, and its sandbox be made anew.
        let role = format!("{}-{name}-{}", node.name(), &id[..6]);
        Ok(Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: None,
            container_id: id,
            ifname: "eth0".to_owned(),
            plugin: binary("ipam-cni")?,
            ns: Netns::create(scope, &role)?,
            node: node.ns().clone(),
            result: Mutex::new(None),
        })
    }

    /// The pod's namespace.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Result of the last ADD that succeeded.
    pub fn result(&self) -> Option<Value> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses of the last ADD that succeeded.
    pub fn ips(&self) -> Vec<IpAddr> {
        let result = self.result().unwrap_or_default();
        let ips = result["ips"].as_array().into_iter().flatten();
        ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
    }

    /// The first IPv4 address of the last ADD that succeeded.
    pub fn ip(&self) -> Option<Ipv4Addr> {
        self.ips().into_iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
    }

    /// Likewise the first IPv6 address.
    pub fn ip_v6(&self) -> Option<Ipv6Addr> {
        self.ips().into_iter().find_map(|ip| match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip),
        })
    }

    /// Calls the plugin on the node, as a runtime does. `env` changes the variables of the call; `None` removes one.
    ///
    /// # Errors
    /// The plugin cannot be started.
    pub fn cni(
        &self,
        command: &str,
        env: &[(&str, Option<&str>)],
        stdin: &str,
    ) -> anyhow::Result<CniOutcome> {
        self.call(&self.plugin, command, env, stdin)
    }

    /// Calls any plugin of a chain, as [`Self::cni`] does ours.
    ///
    /// # Errors
    /// As [`Self::cni`].
    pub fn call(
        &self,
        path: &Path,
        command: &str,
        env: &[(&str, Option<&str>)],
        stdin: &str,
    ) -> anyhow::Result<CniOutcome> {
        let mut plugin = self.node.command(path);
        plugin.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", &self.container_id);
        plugin.env("CNI_IFNAME", &self.ifname).env("CNI_NETNS", self.ns.path());
        plugin.env("CNI_ARGS", self.args());
        plugin.env("CNI_PATH", path.parent().context("the plugin's path has no directory")?);
        for (name, value) in env {
            match value {
                Some(value) => plugin.env(name, value),
                None => plugin.env_remove(name),
            };
        }
        plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = plugin.spawn().with_context(|| path.display().to_string())?;
        let written = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(stdin.as_bytes()));
        // A plugin may well fail before it reads all of its input.
        if let Err(e) = written
            && e.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(e).context("writing the network configuration");
        }
        let output = child.wait_with_output()?;
        let time = start.elapsed();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        Ok(CniOutcome { status: output.status, stdout, json, stderr, time })
    }

    /// ADD; remembers the result of success.
    ///
    /// # Errors
    /// As [`Self::cni`].
    pub fn add(&self, conf: &Value) -> anyhow::Result<CniOutcome> {
        let outcome = self.cni("ADD", &[], &conf.to_string())?;
        if outcome.status.success() {
            *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.json.clone());
        }
        Ok(outcome)
    }

    /// CHECK, with the last result.
    ///
    /// # Errors
    /// As [`Self::cni`].
    pub fn check(&self, conf: &Value) -> anyhow::Result<CniOutcome> {
        self.cni("CHECK", &[], &self.with_result(conf))
    }

    /// DEL, with the last result if there was one.
    ///
    /// # Errors
    /// As [`Self::cni`].
    pub fn del(&self, conf: &Value) -> anyhow::Result<CniOutcome> {
        self.cni("DEL", &[], &self.with_result(conf))
    }

    fn with_result(&self, conf: &Value) -> String {
        let mut conf = conf.clone();
        if let Some(result) = self.result() {
            conf["prevResult"] = result;
        }
        conf.to_string()
    }

    fn args(&self) -> String {
        let Self { namespace, name, container_id, .. } = self;
        let uid = self.uid.as_ref().map(|uid| format!(";K8S_POD_UID={uid}")).unwrap_or_default();
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={container_id}{uid}"
        )
    }
}
