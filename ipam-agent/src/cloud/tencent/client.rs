//! One call of the API: limited, signed, sent, decoded.

use governor::Quota;
use jiff::Timestamp;
use reqwest::{StatusCode, Url, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    TencentConfig, code,
    sign::{self, Credentials},
    wire::{Envelope, Head},
};
use crate::cloud::{
    CloudError, ConfigError, Pace,
    pace::Limiter,
    transport::{self, excerpt, no_answer, undecodable},
};

/// The provider's name, for messages.
pub const ORIGIN: &str = "tencent";
const SERVICE: &str = "vpc";
const VERSION: &str = "2017-03-12";
const JSON: &str = "application/json; charset=utf-8";

/// The way to the API.
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// As it stands in the `Host` header, which is signed.
    host: String,
    region: String,
    credentials: Credentials,
    limiter: Limiter,
    pub pace: Pace,
}

impl Client {
    pub fn new(config: &TencentConfig) -> Result<Self, ConfigError> {
        let (endpoint, host) = transport::endpoint(ORIGIN, &config.endpoint, super::ENDPOINT)?;
        let http = transport::client(ORIGIN, config.pace.call)?;
        Ok(Self {
            http,
            host,
            endpoint,
            region: config.region.clone(),
            credentials: config.credentials.clone(),
            limiter: Limiter::new(Quota::per_second(config.pace.qps)),
            pace: config.pace.clone(),
        })
    }

    /// Asks for something that changes nothing, again and again while the error is a passing one.
    pub async fn read<T: DeserializeOwned>(
        &self,
        action: &'static str,
        params: &Value,
    ) -> Result<T, CloudError> {
        self.pace.insist(|| self.call(action, params)).await
    }

    /// Makes one call, once.
    pub async fn call<T: DeserializeOwned>(
        &self,
        action: &'static str,
        params: &Value,
    ) -> Result<T, CloudError> {
        self.limiter.wait(action).await;
        let payload = params.to_string();
        let now = Timestamp::now();
        let signed = [("content-type", JSON), ("host", &self.host), ("x-tc-action", action)];
        let authorization = sign::authorization(&self.credentials, SERVICE, now, &signed, payload.as_bytes());
        let answer = self
            .http
            .post(self.endpoint.clone())
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, JSON)
            .header(header::AUTHORIZATION, authorization)
            .header("X-TC-Action", action)
            .header("X-TC-Version", VERSION)
            .header("X-TC-Region", &self.region)
            .header("X-TC-Timestamp", now.as_second())
            .body(payload)
            .send()
            .await
            .map_err(|e| no_answer(action, &e))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|e| no_answer(action, &e))?;
        decode(action, status, &body)
    }
}

/// What an answer says.
fn decode<T: DeserializeOwned>(
    action: &'static str,
    status: StatusCode,
    body: &[u8],
) -> Result<T, CloudError> {
    let head = match parse::<Head>(body) {
        Ok(head) => head,
        // A gateway's page, not the API's words.
        Err(_) if !status.is_success() => return Err(transport::page(action, status, body)),
        Err(message) => return Err(undecodable(action, message, None)),
    };
    match head.error {
        Some(error) => Err(CloudError {
            kind: code::kind_of(action, &error.code),
            action,
            message: with_remedy(&error.code, error.message),
            code: error.code,
            request_id: head.request_id,
        }),
        None => parse(body).map_err(|message| undecodable(action, message, head.request_id)),
    }
}

/// The content of `Response`, or what is wrong with it and where.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_path_to_error::deserialize::<_, Envelope<T>>(&mut serde_json::Deserializer::from_slice(body))
        .map(|envelope| envelope.response)
        .map_err(|e| format!("{}: {} in {}", e.path(), e.inner(), excerpt(body)))
}

fn with_remedy(code: &str, message: String) -> String {
    let remedy = match code {
        "AuthFailure.SignatureExpire" => "set this machine's clock",
        "AuthFailure.SignatureFailure" => "check TENCENTCLOUD_SECRET_KEY",
        "AuthFailure.SecretIdNotFound" => "check TENCENTCLOUD_SECRET_ID",
        _ => return message,
    };
    format!("{message} ({remedy})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{CloudErrorKind, Described, tencent::wire::Enis};

    fn error(status: u16, body: &str) -> CloudError {
        let status = StatusCode::from_u16(status).unwrap();
        decode::<Enis>("DescribeNetworkInterfaces", status, body.as_bytes()).err().expect("an error")
    }

    #[test]
    fn a_malformed_answer_names_the_field() {
        let body = r#"{"Response":{"TotalCount":1,"RequestId":"r-1","NetworkInterfaceSet":[{
            "NetworkInterfaceId":"eni-1","SubnetId":"s","MacAddress":"zz","State":"AVAILABLE"}]}}"#;
        let error = error(200, body);
        assert_eq!((error.kind, error.code.as_str()), (CloudErrorKind::Unavailable, "Decode"));
        assert!(error.message.contains("NetworkInterfaceSet[0].MacAddress"), "{error}");
        assert!(error.message.contains("\"zz\" is no MAC address"), "{error}");
        assert_eq!(error.request_id.as_deref(), Some("r-1"));
    }

    #[test]
    fn torn_answers_gateway_pages_and_api_errors_are_told_apart() {
        let torn = error(200, r#"{"Response":{"Tot"#);
        assert_eq!((torn.kind, torn.code.as_str()), (CloudErrorKind::Unavailable, "Decode"));
        let page = error(502, "<html>Bad Gateway</html>");
        assert_eq!((page.kind, page.code.as_str()), (CloudErrorKind::Unavailable, "Transport"));
        assert_eq!(error(429, "slow down").kind, CloudErrorKind::Throttled);
        assert_eq!(error(403, "no").kind, CloudErrorKind::Unauthorized);
        let api =
            error(200, r#"{"Response":{"Error":{"Code":"ResourceNotFound","Message":"m"},"RequestId":"r"}}"#);
        assert_eq!(api.to_string(), "DescribeNetworkInterfaces: ResourceNotFound: m (request r)");
    }

    #[test]
    fn null_lists_are_empty_and_state_is_read() {
        let body = br#"{"Response":{"TotalCount":1,"NetworkInterfaceSet":[{"NetworkInterfaceId":"eni-1",
            "SubnetId":"s","MacAddress":"20:90:6F:00:00:01","State":"DETACHING","Primary":false,
            "PrivateIpAddressSet":null,"Attachment":null,"SomethingNew":{}}],"RequestId":"r"}}"#;
        let enis: Enis = decode("DescribeNetworkInterfaces", StatusCode::OK, body).unwrap();
        let eni = Described::from(enis.network_interface_set.into_iter().next().unwrap()).info;
        assert_eq!(eni.mac, "20:90:6f:00:00:01");
        assert_eq!(eni.state, crate::cloud::EniCloudState::Detaching);
        assert!(eni.secondary_ips.is_empty());
    }
}
