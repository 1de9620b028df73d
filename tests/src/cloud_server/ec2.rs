//! The cloud's other front door: the EC2 Query API, version 2016-11-15, with signature v4 and XML. Beside it, on the same
//! socket, are what hands out temporary credentials: STS for web identities, and a machine's metadata service.
//!
//! It is as strict as the first door, over the same state. What EC2 does within a call is done before the answer:
//! assigning, unassigning, deleting. What it does later: creating, attaching, detaching, moving an address.

use std::net::{IpAddr, Ipv6Addr};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use serde_json::Value;

use super::{
    CloudServer, FaultKind,
    error::ApiError,
    http::Door,
    state::{Change, Create, Eni, Vpc},
};

pub mod auth;
mod code;
mod form;
mod roles;
mod wire;
mod xml;

pub use roles::Roles;

const VERSION: &str = "2016-11-15";
const ACTIONS: [&str; 11] = [
    "AssignIpv6Addresses",
    "AssignPrivateIpAddresses",
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeInstanceTypes",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "DetachNetworkInterface",
    "UnassignIpv6Addresses",
    "UnassignPrivateIpAddresses",
];
/// Addresses at the beginning of a subnet that are AWS's own.
pub const RESERVED: u32 = 4;
/// Next hop of every subnet for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0x0ec2, 0, 0, 0, 0, 0, 1);

/// The door.
pub struct Ec2;

impl Door for Ec2 {
    /// What is between the tags of an answer's root.
    type Answer = String;

    fn read(head: &Parts, body: &Bytes) -> (String, Value) {
        let mut params = form::params(body);
        let action = params.as_object_mut().and_then(|fields| fields.remove("Action"));
        let action = action.and_then(|action| action.as_str().map(str::to_owned)).unwrap_or_default();
        (if head.uri.path() == "/" { action } else { head.uri.path().to_owned() }, params)
    }

    fn admit(
        server: &CloudServer,
        head: &Parts,
        body: &Bytes,
        action: &str,
        params: &Value,
    ) -> Result<(), ApiError> {
        if roles::is_for(action) {
            return Ok(());
        }
        if head.method != Method::POST || head.uri.path() != "/" {
            return Err(ApiError::new("InvalidRequest", "POST to / only"));
        }
        let region = server.state().vpc.config.region.clone();
        let now = jiff::Timestamp::now();
        auth::verify(head, body, &region, now, |id| server.key(id))?;
        if params["Version"] != VERSION {
            return Err(ApiError::new("NoSuchVersion", format!("Version must be {VERSION}")));
        }
        if !ACTIONS.contains(&action) {
            return Err(ApiError::new("InvalidAction", format!("The action {action} is not valid")));
        }
        if server.inner.roles.denies(action) {
            let message = format!("You are not authorized to perform this operation: ec2:{action}");
            return Err(ApiError::new("UnauthorizedOperation", message));
        }
        Ok(())
    }

    async fn run(
        server: &CloudServer,
        head: &Parts,
        request: &str,
        (action, params): (&str, &Value),
        fault: Option<&FaultKind>,
    ) -> Result<String, ApiError> {
        if roles::is_for(action) {
            return server.role(head, action, params);
        }
        server.ec2(request, action, params, fault).await.map_err(|error| code::of_ec2(action, error))
    }

    fn render(request: &str, action: &str, outcome: Result<String, ApiError>) -> Response<Full<Bytes>> {
        let (status, body) = match outcome {
            Ok(text) if roles::is_for(action) => (StatusCode::OK, text),
            Ok(content) => (StatusCode::OK, wire::answer(action, request, &content)),
            Err(error) => (code::status(&error.code), wire::failure(request, &error)),
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("text/xml;charset=UTF-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl CloudServer {
    async fn ec2(
        &self,
        request: &str,
        action: &str,
        params: &Value,
        fault: Option<&FaultKind>,
    ) -> Result<String, ApiError> {
        let half = matches!(fault, Some(FaultKind::PartialBatch));
        let of_addresses = action.contains("IpAddresses") || action.contains("Ipv6Addresses");
        if half && !of_addresses {
            return Err(ApiError::new("InternalError", "nothing was done"));
        }
        match action {
            "DescribeNetworkInterfaces" => {
                let state = self.state();
                let enis = match fault {
                    Some(FaultKind::StaleDescribe(age)) => state.enis_before(*age),
                    _ => state.vpc.enis.values().cloned().collect(),
                };
                wire::describe_enis(&state.vpc, &enis, &form::read(params)?)
            }
            "DescribeSubnets" => wire::describe_subnets(&self.state().vpc, &form::read(params)?),
            "DescribeInstanceTypes" => wire::describe_types(&form::read(params)?),
            "CreateNetworkInterface" => {
                let asked: wire::CreateNetworkInterface = form::read(params)?;
                let create = Create {
                    name: asked.tag("Name").unwrap_or_default(),
                    tags: asked.tags()?,
                    subnet: asked.subnet_id,
                    ip: asked.private_ip_address.map(IpAddr::V4),
                    token: asked.client_token,
                };
                let (eni, change) = self.change(|vpc| vpc.create(request, create))?;
                let answer = wire::eni("networkInterface", &self.state().vpc, &eni);
                if let Some(change) = change {
                    self.begin_or_stick(request, change, fault).await;
                }
                Ok(answer)
            }
            "AttachNetworkInterface" => {
                let asked: wire::AttachNetworkInterface = form::read(params)?;
                let (id, place) = (&asked.network_interface_id, Some(asked.device_index));
                let change = self.change(|vpc| vpc.attach(request, id, &asked.instance_id, place))?;
                let attachment = self.state().vpc.enis.get(id).map(Eni::attachment_id).unwrap_or_default();
                self.begin_or_stick(request, change, fault).await;
                Ok(xml::element("attachmentId", attachment) + &xml::element("networkCardIndex", 0))
            }
            "DetachNetworkInterface" => {
                let asked: wire::DetachNetworkInterface = form::read(params)?;
                let change = self.change(|vpc| detach(vpc, request, &asked.attachment_id))?;
                self.begin(request, change).await;
                Ok(xml::element("return", true))
            }
            "DeleteNetworkInterface" => {
                let asked: wire::OneEni = form::read(params)?;
                let change = self.change(|vpc| vpc.delete(request, &asked.network_interface_id))?;
                self.complete(request, change).await?;
                Ok(xml::element("return", true))
            }
            _ => self.addresses(request, action, params, half).await,
        }
    }

    /// Assigns, unassigns or moves addresses of one family: all, or half of them and an error.
    async fn addresses(
        &self,
        request: &str,
        action: &str,
        params: &Value,
        half: bool,
    ) -> Result<String, ApiError> {
        let (eni, mut ips, reassign): (String, Vec<IpAddr>, bool) = match action {
            "AssignPrivateIpAddresses" | "UnassignPrivateIpAddresses" => {
                let asked: wire::Addresses = form::read(params)?;
                let ips = asked.private_ip_address.into_iter().map(IpAddr::V4).collect();
                (asked.network_interface_id, ips, asked.allow_reassignment)
            }
            _ => {
                let asked: wire::Ipv6Addresses = form::read(params)?;
                let ips = asked.ipv6_addresses.into_iter().map(IpAddr::V6).collect();
                (asked.network_interface_id, ips, false)
            }
        };
        let all = wire::addresses(action, &eni, &ips);
        if half {
            ips.truncate(ips.len() / 2);
        }
        if !ips.is_empty() || !half {
            let assign = action.starts_with("Assign");
            let change = self.change(|vpc| match (assign, reassign) {
                (true, true) => reassigned(vpc, request, &eni, &ips),
                (true, false) => vpc.assign(request, &eni, &ips),
                (false, _) => vpc.unassign(request, &eni, &ips),
            })?;
            match change {
                // Moving is said to go on after the answer.
                Change::Migrate(..) => self.begin(request, change).await,
                change => self.complete(request, change).await?,
            }
        }
        if half { Err(ApiError::new("InternalError", "half of it was done")) } else { Ok(all) }
    }
}

fn detach(vpc: &mut Vpc, task: &str, attachment: &str) -> Result<Change, ApiError> {
    let found = vpc.enis.values().find(|eni| eni.attachment.is_some() && eni.attachment_id() == attachment);
    let Some((id, (machine, _))) = found.and_then(|eni| Some((eni.id.clone(), eni.attachment.clone()?)))
    else {
        let message = format!("The attachment '{attachment}' does not exist");
        return Err(ApiError::new("InvalidAttachmentID.NotFound", message));
    };
    vpc.detach(task, &id, &machine)
}

/// An assignment that may take an address from another ENI of the subnet. Of several addresses none may be elsewhere:
/// nobody asks for that here.
fn reassigned(vpc: &mut Vpc, task: &str, to: &str, ips: &[IpAddr]) -> Result<Change, ApiError> {
    let holder = |ip: &IpAddr| {
        let mut enis = vpc.enis.values();
        enis.find(|eni| eni.id != to && eni.addresses.iter().any(|a| a.ip == *ip)).map(|eni| eni.id.clone())
    };
    match ips {
        [ip] if vpc.enis.get(to).is_some_and(|eni| eni.secondary_ips().contains(ip)) => {
            Err(ApiError::new("InvalidParameterValue", format!("Address {ip} is already assigned to {to}")))
        }
        [ip] => match holder(ip) {
            Some(from) => vpc.migrate(task, &from, to, *ip),
            None => vpc.assign(task, to, ips),
        },
        _ => vpc.assign(task, to, ips),
    }
}
