//! EC2's codes for what the state refuses, and the HTTP status of each.

use http::StatusCode;

use super::super::error::ApiError;

/// The state speaks the first door's codes: this says them in EC2's. Those that are EC2's already are left alone.
pub fn of_ec2(action: &str, error: ApiError) -> ApiError {
    let ApiError { code, mut message } = error;
    if let ("ResourceInUse.Address", Some(ip)) = (code.as_str(), message.strip_suffix(" is in use")) {
        message = match action {
            "AssignPrivateIpAddresses" => format!("[{ip}] assigned, but move is not allowed."),
            "CreateNetworkInterface" => format!("Address {ip} is already assigned."),
            _ => message,
        };
    }
    let code = match code.as_str() {
        "ResourceNotFound" if message.starts_with("subnet") => "InvalidSubnetID.NotFound",
        "ResourceNotFound" if message.starts_with("instance") => "InvalidInstanceID.NotFound",
        "ResourceNotFound" => "InvalidNetworkInterfaceID.NotFound",
        "UnsupportedOperation.InvalidState" | "UnsupportedOperation.MutexOperationTaskRunning" => {
            "IncorrectState"
        }
        "UnsupportedOperation.IdempotentParameterMismatch" => "IdempotentParameterMismatch",
        "LimitExceeded.NetworkInterfaceLimitExceeded" => "NetworkInterfaceLimitExceeded",
        "ResourceInsufficient.Subnet" => "InsufficientFreeAddressesInSubnet",
        "LimitExceeded" => "AttachmentLimitExceeded",
        "LimitExceeded.Address" => "PrivateIpAddressLimitExceeded",
        "ResourceInUse" | "UnsupportedOperation.AttachmentAlreadyExists" => "InvalidNetworkInterface.InUse",
        "FailedOperation.TaskFailed" => "InternalError",
        "UnsupportedOperation" if action == "DetachNetworkInterface" => "OperationNotPermitted",
        // An address that is taken, reserved or of another subnet: the words tell which.
        "ResourceInUse.Address"
        | "InvalidParameterValue.Range"
        | "InvalidParameterValue.Reserved"
        | "InvalidParameterValue.DuplicatePara"
        | "UnauthorizedOperation.PrimaryIp"
        | "UnauthorizedOperation.AttachmentNotFound"
        | "UnsupportedOperation.ZoneMismatch"
        | "UnsupportedOperation.PlaceTaken"
        | "UnsupportedOperation.UnassignCidrBlock"
        | "UnsupportedOperation" => "InvalidParameterValue",
        other => other,
    };
    ApiError::new(code, if code == "InvalidParameterValue" { words(message) } else { message })
}

/// An address as EC2's messages name it.
fn words(message: String) -> String {
    let is_address = message.split(' ').next().is_some_and(|word| word.parse::<std::net::IpAddr>().is_ok());
    if is_address { format!("Address {message}") } else { message }
}

/// The HTTP status of an error.
pub fn status(code: &str) -> StatusCode {
    match code {
        "InternalError" => StatusCode::INTERNAL_SERVER_ERROR,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "AuthFailure" => StatusCode::UNAUTHORIZED,
        "UnauthorizedOperation" | "SignatureDoesNotMatch" | "MissingAuthenticationToken" | "AccessDenied" => {
            StatusCode::FORBIDDEN
        }
        _ => StatusCode::BAD_REQUEST,
    }
}
