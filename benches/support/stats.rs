//! Quantiles of small samples.

/// The value below which the share `q` of the sample lies; `None` for an empty sample.
pub(crate) fn quantile(sample: &[f64], q: f64) -> Option<f64> {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * q).round() as usize])
}

pub(crate) fn median(sample: &[f64]) -> Option<f64> {
    quantile(sample, 0.5)
}
