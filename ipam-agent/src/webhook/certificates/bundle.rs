//! What the Secret holds: PEM, under the names that tools look for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use rand::TryRngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::rotation::{AUTHORITY_LIFE, Held, SERVING_LIFE, Validity};

/// Key of the Secret: the authorities that callers shall trust, the newest last.
pub const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVING: &str = "tls.crt";
const SERVING_KEY: &str = "tls.key";

/// Authorities, a serving certificate, and the keys of the newest of each. No `Debug`: it has keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    authorities: Vec<CertificateDer<'static>>,
    authority_key: String,
    serving: CertificateDer<'static>,
    serving_key: String,
}

impl Bundle {
    /// An authority, and a certificate of it for these names and addresses.
    ///
    /// # Errors
    /// A name that cannot be in a certificate; or no randomness.
    pub fn begin(hosts: &BTreeSet<String>, now: Timestamp) -> Result<Self> {
        let (authority, authority_key) = new_authority(now)?;
        let (serving, serving_key) = new_serving(&authority, &authority_key, hosts, now)?;
        Ok(Self { authorities: vec![authority], authority_key, serving, serving_key })
    }

    /// Another authority beside the ones there are.
    ///
    /// # Errors
    /// As [`Bundle::begin`].
    pub fn add_authority(mut self, now: Timestamp) -> Result<Self> {
        let (authority, key) = new_authority(now)?;
        self.authorities.push(authority);
        self.authority_key = key;
        Ok(self)
    }

    /// A new certificate of the newest authority.
    ///
    /// # Errors
    /// As [`Bundle::begin`].
    pub fn reissue(mut self, hosts: &BTreeSet<String>, now: Timestamp) -> Result<Self> {
        let newest = self.authorities.last().context("no authority")?;
        (self.serving, self.serving_key) = new_serving(newest, &self.authority_key, hosts, now)?;
        Ok(self)
    }

    /// The newest authority alone.
    #[must_use]
    pub fn forget_old(mut self) -> Self {
        self.authorities.drain(..self.authorities.len().saturating_sub(1));
        self
    }

    /// Reads the data of a Secret; nothing when it has none.
    ///
    /// # Errors
    /// What does not parse, by its key.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Option<Self>> {
        if data.is_empty() {
            return Ok(None);
        }
        let get =
            |key: &str| data.get(key).map(|value| value.0.as_slice()).with_context(|| format!("no {key}"));
        let text = |key| Ok::<_, anyhow::Error>(std::str::from_utf8(get(key)?).context(key)?.to_owned());
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(get(AUTHORITIES)?)
            .collect::<Result<_, _>>()
            .context(AUTHORITIES)?;
        let bundle = Self {
            authorities,
            authority_key: text(AUTHORITY_KEY)?,
            serving: CertificateDer::from_pem_slice(get(SERVING)?).context(SERVING)?,
            serving_key: text(SERVING_KEY)?,
        };
        let newest = bundle.authorities.last().context(AUTHORITIES)?;
        let key = KeyPair::from_pem(&bundle.authority_key).context(AUTHORITY_KEY)?;
        if parse(newest)?.public_key().raw != key.subject_public_key_info() {
            bail!("{AUTHORITY_KEY} is not that of the last certificate in {AUTHORITIES}");
        }
        bundle.tls().context(SERVING)?;
        Ok(Some(bundle))
    }

    /// The data of a Secret.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        [
            (AUTHORITIES, self.trusted()),
            (AUTHORITY_KEY, self.authority_key.clone()),
            (SERVING, pem(&self.serving)),
            (SERVING_KEY, self.serving_key.clone()),
        ]
        .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
        .into()
    }

    /// The authorities that callers shall trust, as a `caBundle` has them before its base64.
    #[must_use]
    pub fn trusted(&self) -> String {
        self.authorities.iter().map(pem).collect()
    }

    /// What to decide on, for a certificate that shall have all these names.
    ///
    /// # Errors
    /// A certificate that does not parse.
    pub fn held(&self, hosts: &BTreeSet<String>) -> Result<Held> {
        let parsed = self.authorities.iter().map(parse).collect::<Result<Vec<_>>>()?;
        let serving = parse(&self.serving)?;
        let issuer = parsed.iter().position(|known| known.subject().as_raw() == serving.issuer().as_raw());
        let complete = hosts.is_subset(&self.hosts()?);
        let validities = parsed.iter().map(validity).collect::<Result<_>>()?;
        let serving = match issuer.filter(|_| complete) {
            Some(issuer) => Some((validity(&serving)?, issuer)),
            None => None,
        };
        Ok(Held { authorities: validities, serving })
    }

    /// The names and addresses that the serving certificate is for.
    ///
    /// # Errors
    /// It does not parse.
    pub fn hosts(&self) -> Result<BTreeSet<String>> {
        let serving = parse(&self.serving)?;
        let names = serving.subject_alternative_name().context("subjectAltName")?;
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(v4), _) => Some(IpAddr::from(v4).to_string()),
                    (_, Ok(v6)) => Some(IpAddr::from(v6).to_string()),
                    _ => None,
                }
            }
            _ => None,
        };
        Ok(names.map(|names| names.value.general_names.iter().filter_map(host).collect()).unwrap_or_default())
    }

    /// The serving certificate and its key.
    ///
    /// # Errors
    /// The two do not belong together.
    pub fn tls(&self) -> Result<Arc<CertifiedKey>> {
        let key = PrivateKeyDer::from_pem_slice(self.serving_key.as_bytes()).context(SERVING_KEY)?;
        let provider = rustls::crypto::ring::default_provider();
        Ok(Arc::new(CertifiedKey::from_der(vec![self.serving.clone()], key, &provider)?))
    }
}

fn new_authority(now: Timestamp) -> Result<(CertificateDer<'static>, String)> {
    let mut serial = [0; 8];
    rand::rngs::OsRng.try_fill_bytes(&mut serial).context("the system gives no random bytes")?;
    let mut params = CertificateParams::default();
    valid(&mut params, now, AUTHORITY_LIFE);
    // By this name a certificate finds its authority among several.
    params.distinguished_name.push(DnType::CommonName, format!("eni-ipam-webhook {}", hex::encode(serial)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.der().clone(), key.serialize_pem()))
}

fn new_serving(
    authority: &CertificateDer<'_>,
    authority_key: &str,
    hosts: &BTreeSet<String>,
    now: Timestamp,
) -> Result<(CertificateDer<'static>, String)> {
    let issuer =
        Issuer::from_ca_cert_der(authority, KeyPair::from_pem(authority_key).context(AUTHORITY_KEY)?)?;
    let hosts: Vec<String> = hosts.iter().cloned().collect();
    let mut params = CertificateParams::new(hosts.clone())
        .with_context(|| format!("no certificate can be made for {hosts:?}"))?;
    valid(&mut params, now, SERVING_LIFE);
    params.distinguished_name.push(DnType::CommonName, "eni-ipam-webhook");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &issuer)?.der().clone(), key.serialize_pem()))
}

fn valid(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let Validity { from, until } = Validity::starting(now, life);
    let at = |time: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
    };
    (params.not_before, params.not_after) = (at(from), at(until));
}

fn validity(certificate: &X509Certificate<'_>) -> Result<Validity> {
    let validity = certificate.validity();
    Ok(Validity {
        from: Timestamp::from_second(validity.not_before.timestamp())?,
        until: Timestamp::from_second(validity.not_after.timestamp())?,
    })
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| anyhow::anyhow!("certificate: {error}"))?;
    Ok(certificate)
}

fn pem(der: &CertificateDer<'_>) -> String {
    let line_ending = pem::LineEnding::LF;
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der.to_vec()),
        pem::EncodeConfig::new().set_line_ending(line_ending),
    )
}
