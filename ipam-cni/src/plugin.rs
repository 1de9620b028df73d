//! One CNI call, from the runtime's question to its answer.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::{
    agent_client::Agent,
    check::check,
    env::{Attachment, Command, NetnsPath},
    error::{CniError, code},
    netconf::{Document, NetConf},
    pod_netns::PodNetns,
    protocol::{AttachmentKey, PROTOCOL_VERSION, PodIdentity, Request},
    version::SpecVersion,
};

/// The plugin's `type` in a network configuration, and its file's name.
pub const PLUGIN_TYPE: &str = "ipam-cni";

/// Lies in every build of the plugin, so that an installer knows a file of that name to be one.
#[used]
pub static BUILD_MARKER: &[u8] = b"eni-ipam.dev/ipam-cni plugin\0";

/// Answers the call that this process was started for: result or error on standard output, and for people
/// one line per failure on standard error.
pub fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let input = io::stdin();
    // Whoever tries the plugin by hand gets an answer and not silence.
    let read = if input.is_terminal() { Ok(0) } else { input.lock().read_to_end(&mut stdin) };
    let (answer, failed) = match read {
        Ok(_) => answer(|name| env::var_os(name), &stdin),
        Err(error) => {
            let error = CniError::new(code::IO, "cannot read standard input").details(error.to_string());
            (error_json(&error, SpecVersion::LATEST.as_str()), Some(error))
        }
    };
    if let Some(error) = &failed {
        // Nothing is left to be done when not even this can be written.
        let _ = writeln!(io::stderr(), "{PLUGIN_TYPE}: {error} (code {})", error.code);
    }
    let mut stdout = io::stdout().lock();
    let written =
        if answer.is_null() { Ok(()) } else { writeln!(stdout, "{answer}").and_then(|()| stdout.flush()) };
    if failed.is_some() || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The answer for standard output, null for none, and the error when that is what it says.
pub fn answer(env: impl Fn(&str) -> Option<OsString>, stdin: &[u8]) -> (Value, Option<CniError>) {
    let document = Document::decode(stdin);
    let version = document.as_ref().ok().and_then(Document::declared_version).map(str::to_owned);
    let version = version.as_deref().unwrap_or(SpecVersion::LATEST.as_str());
    let outcome = Command::from_env(env).and_then(|command| match command {
        Command::Version => Ok(json!({"cniVersion": version, "supportedVersions": SpecVersion::supported()})),
        command => {
            let conf = NetConf::new(document?)?;
            if conf.version < command.since() {
                let msg = format!("cniVersion {} knows no {}", conf.version, command.verb());
                let details = format!("{} came with {}", command.verb(), command.since());
                return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg).details(details));
            }
            run(command, &conf)
        }
    });
    match outcome {
        Ok(answer) => (answer, None),
        Err(error) => (error_json(&error, version), Some(error)),
    }
}

fn error_json(error: &CniError, version: &str) -> Value {
    let mut answer = json!({"cniVersion": version, "code": error.code, "msg": error.msg});
    if !error.details.is_empty() {
        answer["details"] = json!(error.details);
    }
    answer
}

fn run(command: Command, conf: &NetConf) -> Result<Value, CniError> {
    let protocol = PROTOCOL_VERSION;
    match command {
        Command::Add { attachment, netns, pod } => return add(conf, attachment, &netns, pod),
        Command::Check { attachment, netns } => check_pod(conf, attachment, &netns)?,
        Command::Del { attachment } => ask(conf, &Request::Del { protocol, key: key(conf, attachment) })?,
        Command::Status => ask(conf, &Request::Status { protocol })?,
        Command::Gc => {
            let valid = conf.valid_attachments()?;
            ask(conf, &Request::Gc { protocol, network: conf.name.clone(), valid })?;
        }
        Command::Version => {}
    }
    Ok(Value::Null)
}

fn add(
    conf: &NetConf,
    attachment: Attachment,
    netns: &NetnsPath,
    pod: PodIdentity,
) -> Result<Value, CniError> {
    let mut result = conf.prev_result()?.unwrap_or_default();
    if result.dns == Default::default() {
        result.dns = conf.dns.clone();
    }
    let mut inside = PodNetns::enter(netns)?;
    let key = key(conf, attachment);
    if inside.has_interface(&key.ifname)? {
        let msg = format!("the container has an interface {} already", key.ifname);
        return Err(CniError::new(code::INTERFACE_EXISTS, msg).details(format!(
            "in {}; nothing was changed: DEL it first, or choose another CNI_IFNAME",
            netns.path
        )));
    }
    let mut agent = Agent::connect(&conf.socket, conf.timeout, code::TRY_AGAIN_LATER)?;
    let ifname = key.ifname.clone();
    let request = Request::Add { protocol: PROTOCOL_VERSION, key, pod, netns: netns.path.clone() };
    agent.send(&request, Some(inside.fd()))?;
    let wire = agent.expect_wire()?;
    if wire.ifname != ifname {
        let msg = format!("the node agent made the interface {:?} and not {ifname:?}", wire.ifname);
        return Err(CniError::new(code::INTERNAL, msg));
    }
    inside.configure(&wire)?;
    agent.send(&Request::Wired, None)?;
    agent.expect_done()?;
    result.append(&wire, &netns.path);
    Ok(result.to_json(conf.version))
}

fn check_pod(conf: &NetConf, attachment: Attachment, netns: &NetnsPath) -> Result<(), CniError> {
    let result = conf.prev_result()?.ok_or_else(|| {
        CniError::new(code::INVALID_CONFIG, "prevResult is missing in the network configuration")
            .details("CHECK needs the result of the ADD that it checks")
    })?;
    let key = key(conf, attachment);
    let ifname = key.ifname.clone();
    let request = Request::Check { protocol: PROTOCOL_VERSION, key };
    let mut agent = Agent::ask(&conf.socket, conf.timeout, code::TRY_AGAIN_LATER, &request)?;
    let expected = agent.expect_wire()?;
    // Not "unknown container", which would tell the runtime that there is nothing to DEL: the agent knows it.
    let mut inside = PodNetns::enter(netns).map_err(|error| match error.code {
        code::UNKNOWN_CONTAINER => CniError { code: code::CHECK_FAILED, ..error },
        _ => error,
    })?;
    check(&expected, inside.observe(&ifname)?.as_ref(), &result, &netns.path)
}

/// A request that the agent answers with done or not.
fn ask(conf: &NetConf, request: &Request) -> Result<(), CniError> {
    let unavailable =
        if matches!(request, Request::Status { .. }) { code::NOT_AVAILABLE } else { code::TRY_AGAIN_LATER };
    Agent::ask(&conf.socket, conf.timeout, unavailable, request)?.expect_done()
}

fn key(conf: &NetConf, attachment: Attachment) -> AttachmentKey {
    let Attachment { container_id, ifname } = attachment;
    AttachmentKey { network: conf.name.clone(), container_id, ifname }
}
