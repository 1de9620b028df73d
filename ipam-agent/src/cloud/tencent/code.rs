//! The cloud's error codes, and what to do about each.

use crate::cloud::CloudErrorKind::{self, *};

/// Codes whose meaning depends on the action: (action, code, kind). Looked at before [`CODES`].
const BY_ACTION: &[(&str, &str, CloudErrorKind)] = &[
    ("CreateNetworkInterface", "LimitExceeded", EniLimit),
    ("CreateNetworkInterface", "InvalidParameterValue.LimitExceeded", EniLimit),
    ("AttachNetworkInterface", "LimitExceeded", EniLimit),
    ("AttachNetworkInterface", "InvalidParameterValue.LimitExceeded", EniLimit),
    ("AssignPrivateIpAddresses", "LimitExceeded", IpLimit),
    ("AssignPrivateIpAddresses", "InvalidParameterValue.LimitExceeded", IpLimit),
    ("MigratePrivateIpAddress", "LimitExceeded", IpLimit),
    ("AssignIpv6Addresses", "LimitExceeded", IpLimit),
    // An ENI in use cannot be deleted: the caller must detach it, waiting does not help.
    ("DeleteNetworkInterface", "ResourceInUse", Invalid),
];

/// Codes by name, a name standing for those below it too (`LimitExceeded` for `LimitExceeded.Address`); the
/// longest that fits counts. From the error lists of Tencent's SDK (tencentcloud-sdk-go, vpc/v20170312,
/// `errors.go` and the lists by action in `client.go`) and the common codes
/// (<https://www.tencentcloud.com/document/product/1140/51177>).
const CODES: &[(&str, CloudErrorKind)] = &[
    ("RequestLimitExceeded", Throttled),
    ("LimitExceeded.ActionLimited", Throttled),
    ("InternalError", Unavailable),
    ("InternalServerError", Unavailable),
    ("ResourceUnavailable", Unavailable),
    ("FailedOperation", Unavailable),
    ("OperationDenied.MutexTaskRunning", Unavailable),
    ("UnsupportedOperation.MutexOperationTaskRunning", Unavailable),
    ("UnsupportedOperation.IdempotentProcessing", Unavailable),
    // The ENI is on its way somewhere: it will arrive.
    ("UnsupportedOperation.InvalidState", Unavailable),
    ("UnsupportedOperation.ResourceIsInvalidState", Unavailable),
    ("LimitExceeded.NetworkInterfaceLimitExceeded", EniLimit),
    ("LimitExceeded.Address", IpLimit),
    ("LimitExceeded", Invalid),
    ("ResourceInsufficient", SubnetExhausted),
    ("ResourceInUse", AddressInUse),
    ("ResourceNotFound", NotFound),
    ("UnsupportedOperation.AttachmentNotFound", NotFound),
    ("UnauthorizedOperation.AttachmentNotFound", NotFound),
    ("UnauthorizedOperation.PrimaryIp", Invalid),
    ("UnauthorizedOperation", Unauthorized),
    ("AuthFailure", Unauthorized),
];

/// What to do about an error code. One that no table knows is [`Invalid`]: asking again without knowing why
/// would only make it worse.
pub fn kind_of(action: &str, code: &str) -> CloudErrorKind {
    if let Some((.., kind)) = BY_ACTION.iter().find(|(a, c, _)| *a == action && *c == code) {
        return *kind;
    }
    CODES
        .iter()
        .filter(|(name, _)| {
            code.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .max_by_key(|(name, _)| name.len())
        .map_or(Invalid, |(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_counts() {
        for (action, code, kind) in [
            ("AttachNetworkInterface", "LimitExceeded", EniLimit),
            ("AssignPrivateIpAddresses", "InvalidParameterValue.LimitExceeded", IpLimit),
            ("DescribeNetworkInterfaces", "InvalidParameterValue.LimitExceeded", Invalid),
            ("AssignPrivateIpAddresses", "LimitExceeded.ActionLimited", Throttled),
            ("CreateNetworkInterface", "LimitExceeded.NetworkInterfaceLimitExceeded", EniLimit),
            ("AssignPrivateIpAddresses", "LimitExceeded.Address", IpLimit),
            ("AssignPrivateIpAddresses", "ResourceInUse.Address", AddressInUse),
            ("DeleteNetworkInterface", "ResourceInUse", Invalid),
            ("CreateNetworkInterface", "ResourceInsufficient.Subnet", SubnetExhausted),
            ("MigratePrivateIpAddress", "UnauthorizedOperation.PrimaryIp", Invalid),
            ("MigratePrivateIpAddress", "UnauthorizedOperation.AttachmentNotFound", NotFound),
            ("MigratePrivateIpAddress", "UnauthorizedOperation", Unauthorized),
            ("DescribeSubnets", "AuthFailure.SignatureExpire", Unauthorized),
            ("DescribeSubnets", "RequestLimitExceeded.UinLimitExceeded", Throttled),
            ("DescribeSubnets", "InternalError.ModuleError", Unavailable),
            ("DescribeSubnets", "InternalErrorOfAnotherKind", Invalid),
        ] {
            assert_eq!(kind_of(action, code), kind, "{action} {code}");
        }
    }
}
