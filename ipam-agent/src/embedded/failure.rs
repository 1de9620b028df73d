//! Answers that are not a success: `meta/v1` `Status` objects, worded as kube-apiserver words them, since
//! kube and kubectl look at code and reason, and operators at the message.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use super::registry::Resource;
use super::schema::cause;

/// A request that was refused. Boxed: it is the rare side of every `Result` here.
#[derive(Clone, Debug)]
pub(super) struct Failure(Box<Status>);

impl Failure {
    fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            code: Some(i32::from(code)),
            message: Some(message.into()),
            reason: Some(reason.to_owned()),
            status: Some("Failure".to_owned()),
            ..Status::default()
        }))
    }

    fn about(mut self, resource: &Resource, name: &str, causes: Vec<StatusCause>) -> Self {
        self.0.details = Some(StatusDetails {
            group: Some(resource.group.clone()).filter(|group| !group.is_empty()),
            kind: Some(resource.plural.clone()),
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            causes: Some(causes).filter(|causes| !causes.is_empty()),
            ..StatusDetails::default()
        });
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(
            401,
            "Unauthorized",
            "Unauthorized: the bearer token is missing or wrong; use the kubeconfig that this API wrote",
        )
    }

    /// A path that names nothing here.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", resource.qualified())).about(
            resource,
            name,
            Vec::new(),
        )
    }

    pub fn method_not_allowed(method: &http::Method) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("the server does not allow this method on the requested resource: {method}"),
        )
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", resource.qualified())).about(
            resource,
            name,
            Vec::new(),
        )
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified()),
        )
        .about(resource, name, Vec::new())
    }

    /// The caller's resourceVersion is not the object's.
    pub fn stale(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// A resourceVersion (or continue token) that the event log no longer reaches back to.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} (oldest is {oldest}); list again"),
        )
    }

    /// A resourceVersion that this store has never given out.
    pub fn from_the_future(asked: u64, current: u64) -> Self {
        let mut failure =
            Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"));
        failure.0.details = Some(StatusDetails {
            causes: Some(vec![StatusCause {
                reason: Some("ResourceVersionTooLarge".to_owned()),
                message: Some("Too large resource version".to_owned()),
                ..StatusCause::default()
            }]),
            retry_after_seconds: Some(1),
            ..StatusDetails::default()
        });
        failure
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: the limit is {limit} bytes"),
        )
    }

    pub fn unsupported_media_type(got: &str, accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request is {got:?}; accepted media types include: {accepted}"),
        )
    }

    /// One field has a value that it cannot have.
    pub fn invalid(resource: &Resource, name: &str, field: &str, problem: &str) -> Self {
        let cause = cause(field, "FieldValueInvalid", problem.to_owned());
        Self::invalid_fields(resource, name, vec![cause])
    }

    /// Fields have values that they cannot have.
    pub fn invalid_fields(resource: &Resource, name: &str, causes: Vec<StatusCause>) -> Self {
        let sentence = |cause: &StatusCause| {
            let [field, said] =
                [&cause.field, &cause.message].map(|text| text.as_deref().unwrap_or_default());
            format!("{field}: {said}")
        };
        let said = match causes.as_slice() {
            [one] => sentence(one),
            many => format!("[{}]", many.iter().map(sentence).collect::<Vec<_>>().join(", ")),
        };
        let kind = resource.qualified_kind();
        let mut failure = Self::new(422, "Invalid", format!("{kind} {name:?} is invalid: {said}"))
            .about(resource, name, causes);
        // Here it is the kind, not the plural.
        if let Some(details) = &mut failure.0.details {
            details.kind = Some(resource.kind.clone());
        }
        failure
    }

    /// A parameter of the request has a value that it cannot have. `options` is their type in `meta/v1`.
    pub fn invalid_option(options: &str, field: &str, reason: &str, problem: &str) -> Self {
        let said = format!("{options}.meta.k8s.io \"\" is invalid: {field}: {problem}");
        let mut failure = Self::new(422, "Invalid", said);
        failure.0.details = Some(StatusDetails {
            group: Some("meta.k8s.io".to_owned()),
            kind: Some(options.to_owned()),
            causes: Some(vec![cause(field, reason, problem.to_owned())]),
            ..StatusDetails::default()
        });
        failure
    }

    /// An update of the whole object does not say of which version.
    pub fn no_version(resource: &Resource, name: &str) -> Self {
        let (field, problem) =
            ("metadata.resourceVersion", "Invalid value: 0: must be specified for an update");
        let said = format!("{} {name:?} is invalid: {field}: {problem}", resource.qualified());
        let causes = vec![cause(field, "FieldValueInvalid", problem.to_owned())];
        Self::new(422, "Invalid", said).about(resource, name, causes)
    }

    /// A JSON patch that does not fit the object.
    pub fn unfit_patch() -> Self {
        let mut failure =
            Self::new(422, "Invalid", "the server rejected our request due to an error in our request");
        failure.0.details = Some(StatusDetails::default());
        failure
    }

    /// A precondition of a deletion does not hold.
    pub fn precondition(resource: &Resource, name: &str, what: &str, wanted: &str, actual: &str) -> Self {
        let kind = resource.qualified_kind();
        let hint = match what {
            "UID" => "The object might have been deleted and then recreated",
            _ => "The object might have been modified",
        };
        let said = format!(
            "Operation cannot be fulfilled on {kind} {name:?}: the {what} in the precondition ({wanted}) does not match the \
             {what} in record ({actual}). {hint}"
        );
        let mut failure = Self::new(409, "Conflict", said).about(resource, name, Vec::new());
        if let Some(details) = &mut failure.0.details {
            details.kind = Some(resource.kind.clone());
        }
        failure
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// The store has been closed.
    pub fn closed() -> Self {
        Self::new(503, "ServiceUnavailable", "the API has been closed")
    }

    pub fn code(&self) -> u16 {
        self.0.code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500)
    }

    pub fn is_already_exists(&self) -> bool {
        self.0.reason.as_deref() == Some("AlreadyExists")
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    pub fn status(&self) -> &Status {
        &self.0
    }
}
