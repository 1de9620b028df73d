//! Who signs: one source of credentials, the one that the environment names.

use std::collections::HashMap;

use bytes::Bytes;
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, RequestSigner,
};
use reqsign_core::{Context, Error, FileRead, HttpSend, ProvideCredential, Signer, StaticEnv};

const SERVICE: &str = "ec2";
/// Takes the place of STS, as in AWS's own SDKs.
const STS_ENDPOINT: &str = "AWS_ENDPOINT_URL_STS";

/// A signer of EC2's requests. One source only: a role that cannot be assumed must not end in another's rights.
pub fn signer(
    region: &str,
    environment: &HashMap<String, String>,
    http: reqwest::Client,
) -> Signer<Credential> {
    let sts = environment.get(STS_ENDPOINT).filter(|url| !url.is_empty()).cloned();
    let context = Context::new()
        .with_env(StaticEnv { home_dir: None, envs: environment.clone() })
        .with_file_read(Files)
        .with_http_send(Http { client: http, sts });
    let has = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    if has("AWS_ACCESS_KEY_ID") {
        with(context, region, EnvCredentialProvider::new())
    } else if has("AWS_WEB_IDENTITY_TOKEN_FILE") {
        let mut provider = AssumeRoleWithWebIdentityCredentialProvider::new()
            .with_region(region.to_owned())
            .with_regional_sts_endpoint();
        if !has("AWS_ROLE_SESSION_NAME") {
            provider = provider.with_role_session_name("eni-ipam".into());
        }
        with(context, region, provider)
    } else if has("AWS_CONTAINER_CREDENTIALS_FULL_URI") || has("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        with(context, region, ECSCredentialProvider::new())
    } else {
        with(context, region, IMDSv2CredentialProvider::new())
    }
}

fn with(
    context: Context,
    region: &str,
    source: impl ProvideCredential<Credential = Credential>,
) -> Signer<Credential> {
    Signer::new(context, source, RequestSigner::new(SERVICE, region))
}

#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        tokio::fs::read(path).await.map_err(|error| Error::config_invalid(format!("{path}: {error}")))
    }
}

#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    sts: Option<String>,
}

impl HttpSend for Http {
    async fn http_send(
        &self,
        mut request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = |error: &dyn std::fmt::Display| Error::unexpected(error.to_string()).set_retryable(true);
        if let Some(sts) = &self.sts
            && request.uri().host().is_some_and(|host| host.starts_with("sts."))
        {
            *request.uri_mut() = sts
                .parse()
                .map_err(|error| Error::config_invalid(format!("{STS_ENDPOINT} = {sts:?}: {error}")))?;
        }
        let request = reqwest::Request::try_from(request).map_err(|error| failed(&error))?;
        let answer = self.client.execute(request).await.map_err(|error| failed(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut response = http::Response::new(answer.bytes().await.map_err(|error| failed(&error))?);
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        Ok(response)
    }
}
