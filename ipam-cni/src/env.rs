//! The runtime's command, from the environment.

use std::{env, ffi::OsString};

use crate::{
    error::{CniError, code},
    protocol::PodIdentity,
    version::SpecVersion,
};

/// Longest name of an interface in bytes: the kernel's IFNAMSIZ without its NUL.
const IFNAME_MAX: usize = 15;

/// What the runtime wants, with what it must give for it. Everything in it is validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give the pod an interface.
    Add {
        /// Which one.
        attachment: Attachment,
        /// Where.
        netns: NetnsPath,
        /// For whom.
        pod: PodIdentity,
    },
    /// Take it away. Names no namespace: the agent needs none for it.
    Del {
        /// Which one.
        attachment: Attachment,
    },
    /// Is it as it should be?
    Check {
        /// Which one.
        attachment: Attachment,
        /// Where.
        netns: NetnsPath,
    },
    /// Take away what is not in the list of the network configuration.
    Gc,
    /// Can an ADD be served?
    Status,
    /// Which versions of the specification?
    Version,
}

/// `CNI_CONTAINERID` and `CNI_IFNAME`: an attachment within its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// `CNI_NETNS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsPath {
    /// Path of the pod's network namespace.
    pub path: String,
    /// `CNI_NETNS_OVERRIDE`: it may be the one the plugin was started in.
    pub may_be_own: bool,
}

impl Command {
    /// Reads this process's environment.
    pub fn from_process_env() -> Result<Self, CniError> {
        Self::from_env(|name| env::var_os(name))
    }

    /// Reads an environment. Fails with [`code::INVALID_ENVIRONMENT`], naming every variable that is
    /// missing, or the one that is wrong.
    pub fn from_env(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let env = Env { get };
        let verb = env.text("CNI_COMMAND")?;
        env.require(match verb.as_str() {
            "ADD" | "CHECK" => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            "DEL" => &["CNI_CONTAINERID", "CNI_IFNAME"],
            "" => &["CNI_COMMAND"],
            _ => &[],
        })?;
        Ok(match verb.as_str() {
            "ADD" => Self::Add { attachment: env.attachment()?, netns: env.netns()?, pod: env.pod()? },
            "DEL" => Self::Del { attachment: env.attachment()? },
            "CHECK" => Self::Check { attachment: env.attachment()?, netns: env.netns()? },
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => {
                return Err(invalid("CNI_COMMAND", &verb, "one of ADD, DEL, CHECK, GC, STATUS, VERSION"));
            }
        })
    }

    /// As it is written in `CNI_COMMAND`.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Add { .. } => "ADD",
            Self::Del { .. } => "DEL",
            Self::Check { .. } => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The version of the specification that brought the command.
    pub const fn since(&self) -> SpecVersion {
        match self {
            Self::Add { .. } | Self::Del { .. } | Self::Version => SpecVersion::V0_3_1,
            Self::Check { .. } => SpecVersion::V0_4_0,
            Self::Gc | Self::Status => SpecVersion::V1_1_0,
        }
    }
}

struct Env<F> {
    get: F,
}

impl<F: Fn(&str) -> Option<OsString>> Env<F> {
    /// The variable's text; empty when it is not set, which the specification does not distinguish.
    fn text(&self, name: &str) -> Result<String, CniError> {
        (self.get)(name)
            .unwrap_or_default()
            .into_string()
            .map_err(|bytes| invalid(name, &bytes.to_string_lossy(), "UTF-8 text"))
    }

    fn require(&self, names: &[&str]) -> Result<(), CniError> {
        let mut missing = Vec::new();
        for name in names {
            if self.text(name)?.is_empty() {
                missing.push(*name);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            format!("missing in the environment: {}", missing.join(", ")),
        )
        .details("a CNI plugin is started by a container runtime, which sets them"))
    }

    fn attachment(&self) -> Result<Attachment, CniError> {
        let container_id = self.text("CNI_CONTAINERID")?;
        if !is_identifier(&container_id) {
            return Err(invalid("CNI_CONTAINERID", &container_id, IDENTIFIER_RULE));
        }
        let ifname = self.text("CNI_IFNAME")?;
        if !is_ifname(&ifname) {
            return Err(invalid("CNI_IFNAME", &ifname, IFNAME_RULE));
        }
        Ok(Attachment { container_id, ifname })
    }

    fn netns(&self) -> Result<NetnsPath, CniError> {
        let path = self.text("CNI_NETNS")?;
        let may_be_own = match self.text("CNI_NETNS_OVERRIDE")?.to_ascii_lowercase().as_str() {
            "1" | "true" => true,
            "" | "0" | "false" => false,
            other => return Err(invalid("CNI_NETNS_OVERRIDE", other, "1, true, 0 or false")),
        };
        Ok(NetnsPath { path, may_be_own })
    }

    /// `CNI_ARGS`, of which other keys than ours are left alone: they are other plugins'.
    fn pod(&self) -> Result<PodIdentity, CniError> {
        let args = self.text("CNI_ARGS")?;
        let mut pod = PodIdentity { namespace: None, name: None, uid: None };
        for pair in args.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid("CNI_ARGS", &args, "KEY=VALUE pairs separated by semicolons"))?;
            let field = match key {
                "K8S_POD_NAMESPACE" => &mut pod.namespace,
                "K8S_POD_NAME" => &mut pod.name,
                "K8S_POD_UID" => &mut pod.uid,
                _ => continue,
            };
            *field = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        Ok(pod)
    }
}

/// What [`is_identifier`] asks for, for people.
pub const IDENTIFIER_RULE: &str = "a letter or digit, then letters, digits and any of _ . -";
/// What [`is_ifname`] asks for, for people.
pub const IFNAME_RULE: &str =
    "1 to 15 bytes, neither . nor .., without slash, colon, white space or control characters";

/// Whether the specification allows it as container ID or name of a network.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Whether the kernel allows it as the name of an interface (its `dev_valid_name`), with control
/// characters refused as well: the name goes into messages.
pub fn is_ifname(text: &str) -> bool {
    (1..=IFNAME_MAX).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
}

fn invalid(name: &str, value: &str, rule: &str) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, format!("{name} is {value:?}"))
        .details(format!("it must be {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Command, CniError> {
        Command::from_env(|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn names_every_missing_variable() {
        let error = read(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "")]).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        assert_eq!(error.msg, "missing in the environment: CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME");
        assert!(read(&[]).unwrap_err().msg.contains("CNI_COMMAND"));
    }

    #[test]
    fn del_needs_no_namespace() {
        let command =
            read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")]).unwrap();
        assert_eq!(command.verb(), "DEL");
    }

    #[test]
    fn pod_identity_comes_from_the_arguments() {
        let base =
            [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/n")];
        let pod = |args| {
            let mut vars = base.to_vec();
            vars.push(("CNI_ARGS", args));
            read(&vars).map(|c| match c {
                Command::Add { pod, .. } => pod,
                other => panic!("{other:?}"),
            })
        };
        let full = pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=web-0;K8S_POD_UID=u;X=1=2").unwrap();
        assert_eq!(full.namespace.as_deref(), Some("a"));
        assert_eq!(full.name.as_deref(), Some("web-0"));
        assert_eq!(full.uid.as_deref(), Some("u"));
        assert_eq!(pod("IgnoreUnknown=1;K8S_POD_NAME=web-0").unwrap().namespace, None);
        assert_eq!(pod("K8S_POD_UID=").unwrap().uid, None);
        assert!(pod("no pair").unwrap_err().msg.starts_with("CNI_ARGS"));
    }

    #[test]
    fn names_of_interfaces() {
        for good in ["eth0", "a", "fifteen-bytes-x", "net1.100", "ünï"] {
            assert!(is_ifname(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx", "a\nb", "a\0"] {
            assert!(!is_ifname(bad), "{bad:?}");
        }
    }

    #[test]
    fn identifiers() {
        for good in ["a", "0", "abc_DEF.1-2"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", ".a", "..", "../x", "-a", "a/b", "a b", "é"] {
            assert!(!is_identifier(bad), "{bad:?}");
        }
    }
}
