//! TC3-HMAC-SHA256, the signature of Tencent Cloud's API 3.0
//! (<https://cloud.tencent.com/document/api/213/30654>).

use std::fmt;

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// The only algorithm of API 3.0.
const ALGORITHM: &str = "TC3-HMAC-SHA256";

/// An API key pair.
#[derive(Clone)]
pub struct Credentials {
    /// Names the key pair.
    pub secret_id: String,
    /// Signs with it. Never printed.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("secret_id", &self.secret_id)
            .field("secret_key", &"(hidden)")
            .finish()
    }
}

/// The `Authorization` header of a POST to `/`.
///
/// `headers` are the signed ones: names in lower case and in ASCII order, `content-type` and `host` among
/// them.
pub fn authorization(
    credentials: &Credentials,
    service: &str,
    at: Timestamp,
    headers: &[(&str, &str)],
    payload: &[u8],
) -> String {
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let lines = lines.to_lowercase();
    let request = format!("POST\n/\n\n{lines}\n{names}\n{}", hex::encode(Sha256::digest(payload)));

    let date = at.strftime("%Y-%m-%d").to_string();
    let scope = format!("{date}/{service}/tc3_request");
    let text = format!("{ALGORITHM}\n{}\n{scope}\n{}", at.as_second(), hex::encode(Sha256::digest(request)));

    let mut key = format!("TC3{}", credentials.secret_key).into_bytes();
    for part in [date.as_str(), service, "tc3_request"] {
        key = hmac(&key, part);
    }
    let signature = hex::encode(hmac(&key, &text));
    format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        credentials.secret_id
    )
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of Tencent's worked example, as printed there: the escapes are part of the payload.
    const PAYLOAD: &[u8] =
        br#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#;
    const TYPE: (&str, &str) = ("content-type", "application/json; charset=utf-8");
    const HOST: (&str, &str) = ("host", "cvm.tencentcloudapi.com");

    fn sign(id: &str, key: &str, headers: &[(&str, &str)]) -> String {
        let credentials = Credentials { secret_id: id.into(), secret_key: key.into() };
        authorization(&credentials, "cvm", Timestamp::from_second(1_551_113_065).unwrap(), headers, PAYLOAD)
    }

    /// "Signature v3" of the CVM API as published until 2021, and still in the international documents
    /// (<https://www.tencentcloud.com/document/product/267/37447>): two signed headers.
    #[test]
    fn signs_the_first_published_example() {
        let header =
            sign("AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", &[TYPE, HOST]);
        assert_eq!(
            header,
            "TC3-HMAC-SHA256 Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2019-02-25/cvm/tc3_request, \
             SignedHeaders=content-type;host, \
             Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
        );
    }

    /// The same page as published now (<https://cloud.tencent.com/document/api/213/30654>): the action is
    /// signed too, and the key is 32 asterisks.
    #[test]
    fn signs_the_present_published_example() {
        let header = sign(
            "AKID********************************",
            "********************************",
            &[TYPE, HOST, ("x-tc-action", "DescribeInstances")],
        );
        assert!(
            header.ends_with(
                "SignedHeaders=content-type;host;x-tc-action, \
                 Signature=10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f"
            ),
            "{header}"
        );
    }

    #[test]
    fn the_key_is_not_printed() {
        let credentials = Credentials { secret_id: "AKIDx".into(), secret_key: "verysecret".into() };
        assert!(!format!("{credentials:?}").contains("verysecret"));
    }
}
