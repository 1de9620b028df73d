//! Families of values that are read when a scrape comes, not counted by this process.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Whether a value only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does; the name gets the suffix `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A value with its labels, by name.
pub type Sample<const LABELS: usize> = ([(&'static str, String); LABELS], u64);

/// Writes a family: its help, its type and its samples, of which there may be none.
///
/// # Errors
/// As the encoder's.
pub fn encode<const LABELS: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    kind: Kind,
    (name, help): (&str, &str),
    samples: impl IntoIterator<Item = Sample<LABELS>>,
) -> fmt::Result {
    let metric_type = match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    // The full stop is what a registry adds to the help of the metrics that it has.
    let mut metric = encoder.encode_descriptor(name, &format!("{help}."), None, metric_type)?;
    for (labels, value) in samples {
        let sample = metric.encode_family(&labels)?;
        match kind {
            Kind::Counter => ConstCounter::new(value).encode(sample)?,
            Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(sample)?,
        }
    }
    Ok(())
}
