//! The network configuration, from standard input.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    env::{IDENTIFIER_RULE, IFNAME_RULE, is_identifier, is_ifname},
    error::{CniError, code},
    protocol::{AttachmentKey, DEFAULT_SOCKET},
    result::{CniResult, Dns},
    version::SpecVersion,
};

/// How long the agent may take unless told otherwise, in seconds: below the two minutes after which kubelet
/// gives a runtime's request up (`--runtime-request-timeout`).
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 60;
const TIMEOUT_SECONDS_MAX: u64 = 600;
/// Longest path of a unix socket in bytes: `sun_path` without its NUL.
const SOCKET_PATH_MAX: usize = 107;

const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";
/// The same under the name that an early text of specification 1.1 gave it.
const VALID_ATTACHMENTS_EARLY: &str = "cni.dev/attachments";

/// Standard input as JSON, before its meaning is looked at.
#[derive(Clone, Debug, Default)]
pub struct Document(Map<String, Value>);

impl Document {
    /// Decodes standard input. Fails with [`code::DECODE`].
    pub fn decode(stdin: &[u8]) -> Result<Self, CniError> {
        if stdin.trim_ascii().is_empty() {
            return Err(CniError::new(code::DECODE, "no network configuration on standard input"));
        }
        serde_json::from_slice(stdin).map(Self).map_err(|error| {
            CniError::new(code::DECODE, "the network configuration on standard input is not a JSON object")
                .details(error.to_string())
        })
    }

    /// `cniVersion` when it looks like a version, supported or not: what an answer echoes.
    pub fn declared_version(&self) -> Option<&str> {
        let text = self.0.get("cniVersion")?.as_str()?;
        let numeric =
            |part: &str| !part.is_empty() && part.len() < 10 && part.bytes().all(|b| b.is_ascii_digit());
        (text.split('.').count() == 3 && text.split('.').all(numeric)).then_some(text)
    }
}

/// A network configuration that can be worked with.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: SpecVersion,
    /// `name`: the network.
    pub name: String,
    /// `socket`: where the agent listens.
    pub socket: PathBuf,
    /// `timeoutSeconds`: how long the agent may take for a call.
    pub timeout: Duration,
    /// `dns`: goes into the result as it is.
    pub dns: Dns,
    document: Map<String, Value>,
}

impl NetConf {
    /// Checks the fields that every command needs. Others are left alone.
    ///
    /// Fails with [`code::INCOMPATIBLE_VERSION`] or [`code::INVALID_CONFIG`], naming field, value and remedy.
    pub fn new(document: Document) -> Result<Self, CniError> {
        let map = document.0;
        let version: String = field(&map, "cniVersion", "a string such as \"1.0.0\"")?.unwrap_or_default();
        let version = SpecVersion::parse(&version)?;
        let name: String =
            field(&map, "name", "a string")?.ok_or_else(|| invalid("name", &Value::Null, IDENTIFIER_RULE))?;
        if !is_identifier(&name) {
            return Err(invalid("name", &name.into(), IDENTIFIER_RULE));
        }
        let socket: String = field(&map, "socket", SOCKET_RULE)?.unwrap_or_else(|| DEFAULT_SOCKET.into());
        if !Path::new(&socket).is_absolute() || socket.len() > SOCKET_PATH_MAX || socket.contains('\0') {
            return Err(invalid("socket", &socket.into(), SOCKET_RULE));
        }
        let seconds: u64 = field(&map, "timeoutSeconds", TIMEOUT_RULE)?.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        if !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds) {
            return Err(invalid("timeoutSeconds", &seconds.into(), TIMEOUT_RULE));
        }
        let dns =
            field(&map, "dns", "an object with nameservers, domain, search and options")?.unwrap_or_default();
        let socket = PathBuf::from(socket);
        Ok(Self { version, name, socket, timeout: Duration::from_secs(seconds), dns, document: map })
    }

    /// `prevResult`: what the plugins before this one made, or for CHECK the result of the ADD.
    pub fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        field(&self.document, "prevResult", "a CNI result")
    }

    /// `cni.dev/valid-attachments`. An absent or null list is an error and not an empty one: a list that is
    /// lost on the way must not take every pod's network away.
    pub fn valid_attachments(&self) -> Result<Vec<AttachmentKey>, CniError> {
        #[derive(serde::Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        const RULE: &str = "a list of objects with containerID and ifname";
        let name = [VALID_ATTACHMENTS, VALID_ATTACHMENTS_EARLY]
            .into_iter()
            .find(|name| self.document.contains_key(*name))
            .unwrap_or(VALID_ATTACHMENTS);
        let list: Vec<Valid> =
            field(&self.document, name, RULE)?.ok_or_else(|| invalid(name, &Value::Null, RULE))?;
        list.into_iter()
            .enumerate()
            .map(|(i, Valid { container_id, ifname })| {
                if !is_identifier(&container_id) {
                    let name = format!("{name}[{i}].containerID");
                    return Err(invalid(&name, &container_id.into(), IDENTIFIER_RULE));
                }
                if !is_ifname(&ifname) {
                    return Err(invalid(&format!("{name}[{i}].ifname"), &ifname.into(), IFNAME_RULE));
                }
                Ok(AttachmentKey { network: self.name.clone(), container_id, ifname })
            })
            .collect()
    }
}

const SOCKET_RULE: &str = "an absolute path of at most 107 bytes";
const TIMEOUT_RULE: &str = "a whole number of seconds from 1 to 600";

/// The field, or nothing when it is absent or null.
fn field<T: DeserializeOwned>(
    map: &Map<String, Value>,
    name: &str,
    rule: &str,
) -> Result<Option<T>, CniError> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|error| {
            let mut wrong = invalid(name, value, rule);
            wrong.details.push_str(&format!(" ({error})"));
            wrong
        }),
    }
}

fn invalid(name: &str, value: &Value, rule: &str) -> CniError {
    let mut shown = value.to_string();
    if let Some((cut, _)) = shown.char_indices().nth(200) {
        shown.truncate(cut);
        shown.push('…');
    }
    let msg = if value.is_null() {
        format!("{name} is missing in the network configuration")
    } else {
        format!("{name} in the network configuration is {shown}")
    };
    CniError::new(code::INVALID_CONFIG, msg).details(format!("it must be {rule}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn conf(value: Value) -> Result<NetConf, CniError> {
        NetConf::new(Document::decode(value.to_string().as_bytes())?)
    }

    #[test]
    fn defaults() {
        let conf = conf(json!({"cniVersion": "1.0.0", "name": "n", "unknown": {"a": [1]}})).unwrap();
        assert_eq!(conf.socket, Path::new(DEFAULT_SOCKET));
        assert_eq!(conf.timeout, Duration::from_secs(DEFAULT_TIMEOUT_SECONDS));
        assert!(conf.prev_result().unwrap().is_none());
    }

    #[test]
    fn wrong_fields_are_named_with_value_and_rule() {
        for (name, value) in [
            ("name", json!("../n")),
            ("name", json!(7)),
            ("socket", json!("relative")),
            ("socket", json!(["x"])),
            ("socket", json!("/".repeat(108))),
            ("timeoutSeconds", json!("60")),
            ("timeoutSeconds", json!(0)),
            ("timeoutSeconds", json!(601)),
            ("timeoutSeconds", json!(-1)),
            ("dns", json!([])),
        ] {
            let mut map = json!({"cniVersion": "1.0.0", "name": "n"});
            map[name] = value.clone();
            let error = conf(map).unwrap_err();
            assert_eq!(error.code, code::INVALID_CONFIG, "{error}");
            assert!(error.msg.starts_with(name), "{error}");
            assert!(error.details.starts_with("it must be "), "{error}");
        }
    }

    #[test]
    fn a_lost_list_of_attachments_is_not_an_empty_one() {
        let valid = |list: Value| {
            conf(json!({"cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": list}))
                .unwrap()
                .valid_attachments()
        };
        assert_eq!(valid(json!(null)).unwrap_err().code, code::INVALID_CONFIG);
        assert!(valid(json!([])).unwrap().is_empty());
        let one = valid(json!([{"containerID": "c", "ifname": "eth0"}])).unwrap();
        assert_eq!((one[0].network.as_str(), one[0].container_id.as_str()), ("n", "c"));
        let bad =
            valid(json!([{"containerID": "c", "ifname": "eth0"}, {"containerID": "../c", "ifname": "e"}]));
        assert!(bad.unwrap_err().msg.contains("[1].containerID"));
        let absent = conf(json!({"cniVersion": "1.1.0", "name": "n"})).unwrap();
        assert!(absent.valid_attachments().is_err());
    }

    #[test]
    fn only_versions_are_echoed() {
        let declared = |text: Value| {
            let document = Document::decode(json!({"cniVersion": text}).to_string().as_bytes()).unwrap();
            document.declared_version().map(str::to_owned)
        };
        assert_eq!(declared(json!("9.9.9")).as_deref(), Some("9.9.9"));
        for odd in [json!("1.0"), json!("1..0"), json!(1), json!("a.b.c"), json!("1.0.0\n")] {
            assert_eq!(declared(odd.clone()), None, "{odd}");
        }
    }
}
