//! EC2's error codes, and what to do about each
//! (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>).

use crate::cloud::CloudErrorKind::{self, *};

const CODES: &[(&str, CloudErrorKind)] = &[
    ("RequestLimitExceeded", Throttled),
    ("Throttling", Throttled),
    ("ThrottlingException", Throttled),
    ("EC2ThrottledException", Throttled),
    ("InternalError", Unavailable),
    ("InternalFailure", Unavailable),
    ("ServiceUnavailable", Unavailable),
    ("Unavailable", Unavailable),
    ("RequestTimeout", Unavailable),
    // What is on its way somewhere will arrive.
    ("IncorrectState", Unavailable),
    ("IncorrectInstanceState", Unavailable),
    ("NetworkInterfaceLimitExceeded", EniLimit),
    ("AttachmentLimitExceeded", EniLimit),
    ("PrivateIpAddressLimitExceeded", IpLimit),
    ("Ipv6AddressLimitExceeded", IpLimit),
    ("InsufficientFreeAddressesInSubnet", SubnetExhausted),
    ("InsufficientAddressCapacity", SubnetExhausted),
    ("InvalidIPAddress.InUse", AddressInUse),
    ("InvalidNetworkInterfaceID.NotFound", NotFound),
    ("InvalidNetworkInterfaceId.NotFound", NotFound),
    ("InvalidSubnetID.NotFound", NotFound),
    ("InvalidInstanceID.NotFound", NotFound),
    ("InvalidAttachmentID.NotFound", NotFound),
    ("InvalidGroup.NotFound", NotFound),
    ("InvalidSecurityGroupID.NotFound", NotFound),
    ("UnauthorizedOperation", Unauthorized),
    ("AuthFailure", Unauthorized),
    ("Blocked", Unauthorized),
    ("OptInRequired", Unauthorized),
    ("PendingVerification", Unauthorized),
    ("AccessDenied", Unauthorized),
    ("AccessDeniedException", Unauthorized),
    ("InvalidClientTokenId", Unauthorized),
    ("UnrecognizedClientException", Unauthorized),
    ("MissingAuthenticationToken", Unauthorized),
    ("IncompleteSignature", Unauthorized),
    ("SignatureDoesNotMatch", Unauthorized),
    ("RequestExpired", Unauthorized),
    ("ExpiredToken", Unauthorized),
    ("ExpiredTokenException", Unauthorized),
];

/// What to do about an error. One that no table knows is [`Invalid`]: asking again without knowing why would only make it
/// worse. `InvalidParameterValue` has no finer code for an address that somebody has, or that AWS keeps for itself:
/// its words say so.
pub fn kind_of(code: &str, message: &str) -> CloudErrorKind {
    // As CloudTrail writes them, and some answers too.
    let code = code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server.")).unwrap_or(code);
    if let Some((_, kind)) = CODES.iter().find(|(known, _)| *known == code) {
        return *kind;
    }
    let message = message.to_lowercase();
    let says = |word: &str| message.contains(word);
    let of_address = says("address") && !says("network interface");
    match code {
        // AssignPrivateIpAddresses: "[10.0.1.5] assigned, but move is not allowed."; CreateNetworkInterface: "10.0.1.5 is
        // already assigned."
        "InvalidParameterValue" if says("assigned, but move is not allowed") || says("already assigned") => {
            AddressInUse
        }
        "InvalidParameterValue" if of_address && (says("in use") || says("reserved")) => AddressInUse,
        _ => Invalid,
    }
}

/// Whether an attach was refused because something has its place on the machine.
pub fn is_place_taken(code: &str, message: &str) -> bool {
    code == "InvalidParameterValue" && message.to_lowercase().contains("device index")
}

/// The message, and what to do where that is known.
pub fn with_remedy(code: &str, message: String) -> String {
    let remedy = match code {
        "RequestExpired" => "set this machine's clock",
        "SignatureDoesNotMatch" => "check AWS_SECRET_ACCESS_KEY",
        "AuthFailure" | "InvalidClientTokenId" => "check the credentials, and that they are of this region",
        "UnauthorizedOperation" | "AccessDenied" => {
            "allow it to the role; deploy/overlays/aws/policy.json has all that is needed"
        }
        _ => return message,
    };
    format!("{message} ({remedy})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_where_there_is_none_words_are_told_apart() {
        for (code, message, kind) in [
            ("RequestLimitExceeded", "Request limit exceeded.", Throttled),
            (
                "Client.PrivateIpAddressLimitExceeded",
                "Number of private addresses will exceed limit.",
                IpLimit,
            ),
            ("AttachmentLimitExceeded", "Interface count 5 exceeds the limit for t3.medium", EniLimit),
            ("InvalidParameterValue", "Address 10.0.1.5 is in use.", AddressInUse),
            ("InvalidParameterValue", "[10.0.1.5] assigned, but move is not allowed.", AddressInUse),
            ("InvalidParameterValue", "10.0.1.5 is already assigned.", AddressInUse),
            ("InvalidParameterValue", "Address 10.0.1.2 is in subnet's reserved address range", AddressInUse),
            ("InvalidParameterValue", "Network interface 'eni-1' is currently in use.", Invalid),
            ("InvalidParameterValue", "Address does not fall within the subnet's address range", Invalid),
            ("InvalidNetworkInterfaceID.NotFound", "", NotFound),
            ("SomethingNew", "", Invalid),
        ] {
            assert_eq!(kind_of(code, message), kind, "{code}: {message}");
        }
        let taken = "Instance 'i-1' already has an interface attached at device index '1'.";
        assert!(is_place_taken("InvalidParameterValue", taken));
        assert!(!is_place_taken("InvalidParameterValue", "Address 10.0.1.5 is in use."));
    }
}
