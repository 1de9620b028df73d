//! What a request is about.

use http::{Method, Uri};

/// What a request is about, in the words of RBAC. The resources are those of this program's typed clients, so they are few.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// The API group; empty for the core.
    pub group: String,
    /// The resource, with its subresource: `vpcips/status`.
    pub resource: String,
}

impl Target {
    /// Reads `/apis/GROUP/VERSION[/namespaces/NAMESPACE]/RESOURCE[/NAME[/SUBRESOURCE]]`, or the same beneath
    /// `/api/VERSION`; `None` for what is about no resource.
    #[must_use]
    pub fn of(method: &Method, uri: &Uri) -> Option<Self> {
        let mut parts = uri.path().trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        let mut parts = parts.skip(1);
        let mut resource = parts.next()?;
        // `namespaces/NAME` with nothing behind it is the Namespace itself.
        let mut name = parts.next();
        if resource == "namespaces"
            && let Some(inner) = parts.next()
        {
            (resource, name) = (inner, parts.next());
        }
        let subresource = parts.next();
        let watch = || uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let verb = match (method, name) {
            (&Method::GET, Some(_)) => "get",
            (&Method::GET, None) if watch() => "watch",
            (&Method::GET, None) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, Some(_)) => "delete",
            (&Method::DELETE, None) => "deletecollection",
            _ => return None,
        };
        let resource = subresource.map_or(resource.to_owned(), |sub| format!("{resource}/{sub}"));
        Some(Self { verb, group: group.to_owned(), resource })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_its_resource_never_by_its_object() {
        for (method, uri, said) in [
            (Method::POST, "/apis/eni-ipam.dev/v1/vpcips", "create vpcips.eni-ipam.dev"),
            (Method::PUT, "/apis/eni-ipam.dev/v1/vpcips/10.0.1.7", "update vpcips.eni-ipam.dev"),
            (
                Method::PUT,
                "/apis/eni-ipam.dev/v1/vpcips/10.0.1.7/status",
                "update vpcips/status.eni-ipam.dev",
            ),
            (
                Method::PATCH,
                "/apis/eni-ipam.dev/v1/namespaces/default/vpcipclaims/web-0/status",
                "patch vpcipclaims/status.eni-ipam.dev",
            ),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events", "create events.events.k8s.io"),
            (Method::DELETE, "/api/v1/namespaces/default/pods/web-0", "delete pods"),
            (Method::GET, "/api/v1/nodes?&limit=500", "list nodes"),
            (Method::GET, "/api/v1/nodes?&watch=true&timeoutSeconds=290", "watch nodes"),
            (Method::GET, "/api/v1/namespaces/default/pods", "list pods"),
            (Method::GET, "/api/v1/namespaces/default", "get namespaces"),
        ] {
            let target = Target::of(&method, &uri.parse().unwrap()).unwrap();
            assert_eq!(target.to_string(), said, "{method} {uri}");
        }
        assert_eq!(Target::of(&Method::GET, &"/version".parse().unwrap()), None);
    }
}
