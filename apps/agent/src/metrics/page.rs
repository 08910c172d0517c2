//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write as _};

/// `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by limits.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Names of labels with their values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a metric; its samples follow. `help` is one line.
    pub fn metric(&mut self, name: &'static str, kind: Kind, help: &str) -> Metric<'_> {
        let kind_name = kind.name();
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind_name}");
        Metric { page: self, name }
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// A metric whose samples are being written.
#[derive(Debug)]
pub struct Metric<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Metric<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.line("", labels, value);
        self
    }

    fn line(&mut self, end: &str, labels: Labels<'_>, value: impl Display) {
        let out = &mut self.page.0;
        out.push_str(self.name);
        out.push_str(end);
        for (at, (name, value)) in labels.iter().enumerate() {
            out.push(if at == 0 { '{' } else { ',' });
            let _ = write!(out, "{name}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    other => out.push(other),
                }
            }
            out.push('"');
        }
        if !labels.is_empty() {
            out.push('}');
        }
        let _ = writeln!(out, " {value}");
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let mut sum = 0;
        let limits = histogram.limits.iter().map(ToString::to_string);
        for (limit, count) in limits.chain(["+Inf".to_owned()]).zip(&histogram.counts) {
            sum += count;
            let with_limit: Vec<(&str, &str)> = labels
                .iter()
                .copied()
                .chain([("le", limit.as_str())])
                .collect();
            self.line("_bucket", &with_limit, sum);
        }
        self.line("_sum", labels, histogram.sum);
        self.line("_count", labels, sum);
        self
    }
}

/// Counts of what was measured, by limits.
#[derive(Debug, Clone)]
pub struct Histogram {
    limits: &'static [f64],
    /// One for each limit, and one for what is above all.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Empty, with these limits in rising order.
    pub fn new(limits: &'static [f64]) -> Self {
        Self {
            limits,
            counts: vec![0; limits.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let at = self.limits.partition_point(|limit| *limit < value);
        self.counts[at] += 1;
        self.sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.metric("drops_total", Kind::Counter, "Dropped packets.")
            .sample(&[("reason", "a\"b\\c\nd"), ("hook", "x")], 3)
            .sample(&[], 0.5);
        let mut seconds = Histogram::new(&[0.001, 0.25, 1.0]);
        for value in [0.001, 0.0005, 0.3, 7.0] {
            seconds.observe(value);
        }
        page.metric("took_seconds", Kind::Histogram, "Took.")
            .histogram(&[("ip_family", "IPv4")], &seconds);
        let expected = r#"# HELP drops_total Dropped packets.
# TYPE drops_total counter
drops_total{reason="a\"b\\c\nd",hook="x"} 3
drops_total 0.5
# HELP took_seconds Took.
# TYPE took_seconds histogram
took_seconds_bucket{ip_family="IPv4",le="0.001"} 2
took_seconds_bucket{ip_family="IPv4",le="0.25"} 2
took_seconds_bucket{ip_family="IPv4",le="1"} 3
took_seconds_bucket{ip_family="IPv4",le="+Inf"} 4
took_seconds_sum{ip_family="IPv4"} 7.3015
took_seconds_count{ip_family="IPv4"} 4
"#;
        assert_eq!(page.into_text(), expected);
    }
}
