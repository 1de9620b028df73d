//! Scraping `/metrics` as Prometheus does, and judging what comes: the rules of OpenMetrics 1.0 and of
//! <https://prometheus.io/docs/practices/naming/> that `promtool check metrics` looks for too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::lab::netns::Netns;

/// Metrics of one name.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// What it says of itself.
    pub help: String,
    /// Values by full name and labels.
    pub samples: Vec<Sample>,
}

/// A value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// With its suffix.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// Everything of one scrape, by the name of the family.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The families.
    pub families: BTreeMap<String, Family>,
}

/// Labels that a pod's metrics may have; all other labels have few values.
const POD_LABELS: [&str; 2] = ["namespace", "pod"];
/// How many values a label other than a pod's may have.
const FEW: usize = 40;

impl Scrape {
    /// Scrapes from inside a namespace.
    ///
    /// # Errors
    /// Nobody answers there, or not as a Prometheus endpoint.
    pub fn from(ns: &Netns, address: SocketAddr) -> anyhow::Result<Self> {
        let (code, head, body) = get(ns.connect(address, Duration::from_secs(5))?, "/metrics")?;
        ensure!(code == 200, "{head}");
        ensure!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        Self::parse(&body)
    }

    /// Reads the text of a scrape.
    ///
    /// # Errors
    /// What is not OpenMetrics.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut scrape = Self::default();
        let body = text.strip_suffix("# EOF\n").context("the text does not end with # EOF")?;
        for line in body.lines() {
            scrape.line(line).with_context(|| line.to_owned())?;
        }
        Ok(scrape)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        if let Some(rest) = line.strip_prefix("# ") {
            let (keyword, rest) = rest.split_once(' ').context("a comment of no meaning")?;
            let (name, text) = rest.split_once(' ').context("no name")?;
            let family = self.families.entry(name.to_owned()).or_default();
            let field = match keyword {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                other => bail!("unknown keyword {other}"),
            };
            ensure!(field.is_empty(), "{keyword} comes twice");
            text.clone_into(field);
            return Ok(());
        }
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').context("no end of the labels")?),
            None => (series, ""),
        };
        let labels = labels.split_terminator("\",").map(|label| {
            let (name, value) = label.split_once("=\"").context("a label without a value")?;
            Ok((name.to_owned(), value.trim_end_matches('"').to_owned()))
        });
        let labels = labels.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        let family = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let family = if self.families.contains_key(family) { family } else { name };
        let sample = Sample { name: name.to_owned(), labels, value: value.parse()? };
        self.families.get_mut(family).context("no HELP and TYPE before it")?.samples.push(sample);
        Ok(())
    }

    /// The value with these labels, among others.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        let wanted = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        let found: Vec<_> = samples.filter(wanted).collect();
        let [sample] = found[..] else { bail!("{name} {labels:?}: {} samples", found.len()) };
        Ok(sample.value)
    }

    /// What is against the rules; empty when all is well.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, family) in &self.families {
            let mut complain = |text: &str| complaints.push(format!("{name}: {text}"));
            if family.help.len() < 10 || !family.help.ends_with('.') {
                complain("no help text that is a sentence");
            }
            if !name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
                || !name.starts_with("eni_ipam_")
            {
                complain("no name in snake case with the prefix of this program");
            }
            for unit in ["milliseconds", "_ms", "kilobytes", "_kb", "percent", "minutes"] {
                if name.contains(unit) {
                    complain("no base unit");
                }
            }
            let suffixes: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[],
            };
            if suffixes.is_empty() {
                complain("no type");
            }
            if ["_total", "_bucket", "_sum", "_count", "_info"].iter().any(|suffix| name.ends_with(suffix)) {
                complain("a name with a reserved suffix");
            }
            let mut seen = BTreeSet::new();
            for sample in &family.samples {
                if !suffixes.iter().any(|suffix| sample.name == format!("{name}{suffix}")) {
                    complain(&format!("sample {} does not fit the type {}", sample.name, family.kind));
                }
                if !seen.insert((&sample.name, &sample.labels)) {
                    complain(&format!("two samples {} {:?}", sample.name, sample.labels));
                }
            }
            let labels: BTreeSet<_> = family.samples.iter().flat_map(|sample| sample.labels.keys()).collect();
            for label in labels.into_iter().filter(|label| !POD_LABELS.contains(&label.as_str())) {
                let values: BTreeSet<_> =
                    family.samples.iter().filter_map(|sample| sample.labels.get(label)).collect();
                if values.len() > FEW {
                    complain(&format!("label {label} has {} values", values.len()));
                }
            }
        }
        complaints
    }
}

/// Asks as a kubelet or a Prometheus does: the status code, the head and the body.
///
/// # Errors
/// There is no HTTP answer.
pub fn get(mut stream: TcpStream, path: &str) -> anyhow::Result<(u16, String, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split(' ').nth(1).context("no status code")?.parse()?;
    Ok((code, head.to_owned(), body.to_owned()))
}

/// What follows the name of a family in that of a sample.
const SUFFIXES: [&str; 5] = ["_total", "_bucket", "_sum", "_count", "_info"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_exposition_is_noticed() {
        let good = "# HELP eni_ipam_x Things that were done.\n# TYPE eni_ipam_x counter\n\
                    eni_ipam_x_total{kind=\"a\",pod=\"b\"} 3\n# EOF\n";
        let scrape = Scrape::parse(good).unwrap();
        assert_eq!(scrape.complaints(), Vec::<String>::new());
        assert_eq!(scrape.value("eni_ipam_x_total", &[("pod", "b")]).unwrap(), 3.);
        for (from, to) in [
            ("Things that were done.", "x."),
            ("x counter", "x gauge"),
            ("eni_ipam_x", "eni_ipam_x_ms"),
            ("eni_ipam_x", "other_x"),
        ] {
            let scrape = Scrape::parse(&good.replace(from, to)).unwrap();
            assert_ne!(scrape.complaints(), Vec::<String>::new(), "{from} → {to}");
        }
        assert!(Scrape::parse(&good.replace("# TYPE eni_ipam_x counter\n# EOF", "")).is_ok());
        assert!(Scrape::parse("eni_ipam_y 1\n# EOF\n").is_err(), "no HELP and TYPE");
    }
}
