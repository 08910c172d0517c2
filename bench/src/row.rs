//! One line of the table, one object of the file.

use std::fmt::Write as _;

use serde::Serialize;

use crate::stats::{Ratio, median, quantile, ratio, spread};

/// What was measured, of us and of a peer.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    /// One value a round: ours, theirs.
    pub rounds: Vec<(f64, f64)>,
    /// Every single call of ours, in milliseconds; several a round where several run at once.
    pub calls: Vec<f64>,
}

/// A result. `ratio` is better when it is higher.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `what[/size]`.
    pub case: String,
    /// Of `ours`, `theirs` and `limit`.
    pub unit: &'static str,
    /// The median of ours.
    pub ours: f64,
    /// What it is compared with, with its version; none where only a limit is named.
    pub peer: Option<String>,
    /// The median of the peer's.
    pub theirs: Option<f64>,
    /// `theirs / ours`, or `limit / ours`.
    pub ratio: Option<f64>,
    /// The lower end of its 95 % interval.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
    /// What `ratio` shall reach.
    pub goal: Option<f64>,
    /// What `ours` may be at most.
    pub limit: Option<f64>,
    /// Whether `high` reaches `goal`.
    pub met: Option<bool>,
    /// (max - min) / median of ours.
    pub spread: f64,
    /// The same of the peer's.
    pub theirs_spread: Option<f64>,
    /// The median of single calls of ours, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of them.
    pub p99_ms: Option<f64>,
    /// Rounds.
    pub n: usize,
}

impl Row {
    /// Times of ours beside a peer's; the ratio shall reach `goal`, if there is one.
    pub fn against(case: String, peer: &str, pairs: &Pairs, goal: Option<f64>) -> Self {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.rounds.iter().copied().unzip();
        let ratio = ratio(&pairs.rounds);
        Self {
            peer: Some(peer.to_owned()),
            theirs: Some(median(&theirs)),
            theirs_spread: Some(spread(&theirs)),
            limit: goal.map(|goal| median(&theirs) / goal),
            ..Self::of(case, "ms", &ours).judged(ratio, goal).calls(pairs)
        }
    }

    /// What is better when it is more, beside a peer's; the ratio shall reach `goal`, if there is
    /// one.
    pub fn more(
        case: String,
        unit: &'static str,
        peer: &str,
        pairs: &Pairs,
        goal: Option<f64>,
    ) -> Self {
        let turned = pairs.rounds.iter().map(|&(ours, theirs)| (theirs, ours));
        let turned = ratio(&turned.collect::<Vec<_>>());
        let row = Self::against(case, peer, pairs, goal).judged(turned, goal);
        let limit = row.theirs.zip(goal).map(|(theirs, goal)| theirs * goal);
        Self {
            unit,
            limit,
            p50_ms: None,
            p99_ms: None,
            ..row
        }
    }

    /// What is better when it is less, and no time in milliseconds, beside a peer's.
    pub fn less(
        case: String,
        unit: &'static str,
        peer: &str,
        pairs: &Pairs,
        goal: Option<f64>,
    ) -> Self {
        Self {
            unit,
            p50_ms: None,
            p99_ms: None,
            ..Self::against(case, peer, pairs, goal)
        }
    }

    /// Times without a peer, for the reader.
    pub fn plain(case: String, samples: &[f64]) -> Self {
        let rounds = samples.iter().map(|&sample| (sample, sample)).collect();
        let calls = samples.to_vec();
        Self::of(case, "ms", samples).calls(&Pairs { rounds, calls })
    }

    /// Something else than times without a peer, for the reader.
    pub fn value(case: String, unit: &'static str, samples: &[f64]) -> Self {
        Self::of(case, unit, samples)
    }

    /// Samples none of which may be over a limit.
    pub fn limited(case: String, unit: &'static str, samples: &[f64], limit: f64) -> Self {
        let worst = quantile(samples, 1.0);
        let ratio = Ratio {
            value: limit / worst,
            low: limit / worst,
            high: limit / worst,
        };
        Self {
            ours: worst,
            limit: Some(limit),
            ..Self::of(case, unit, samples).judged(ratio, Some(1.0))
        }
    }

    fn of(case: String, unit: &'static str, samples: &[f64]) -> Self {
        Self {
            case,
            unit,
            ours: median(samples),
            peer: None,
            theirs: None,
            ratio: None,
            low: None,
            high: None,
            goal: None,
            limit: None,
            met: None,
            spread: spread(samples),
            theirs_spread: None,
            p50_ms: None,
            p99_ms: None,
            n: samples.len(),
        }
    }

    fn judged(self, ratio: Ratio, goal: Option<f64>) -> Self {
        Self {
            ratio: Some(ratio.value),
            low: Some(ratio.low),
            high: Some(ratio.high),
            goal,
            met: goal.map(|goal| ratio.high >= goal),
            ..self
        }
    }

    fn calls(self, pairs: &Pairs) -> Self {
        Self {
            p50_ms: Some(quantile(&pairs.calls, 0.5)),
            p99_ms: Some(quantile(&pairs.calls, 0.99)),
            ..self
        }
    }
}

/// The rows for a terminal.
pub fn table(rows: &[Row]) -> String {
    let head = ["case", "ours", "theirs", "limit", "ratio", "95 %", "goal"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines[0].extend(["met", "p99", "spread", "n", "peer"].map(str::to_owned));
    lines.extend(rows.iter().map(cells));
    let columns = lines[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|at| lines.iter().map(|line| line[at].chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for line in &lines {
        let mut written = String::new();
        for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Words to the left, figures to the right. Writing to a string cannot fail.
            let _ = if at == 0 || at + 1 == columns {
                write!(written, "{cell:<width$}  ")
            } else {
                write!(written, "{cell:>width$}  ")
            };
        }
        text.push_str(written.trim_end());
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let value = |value: Option<f64>| match (value, row.unit) {
        (None, _) => String::new(),
        (Some(value), "ms") => format!("{value:.3} ms"),
        (Some(value), unit) => format!("{value:.0} {unit}"),
    };
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let interval = match (row.low, row.high) {
        (Some(low), Some(high)) if row.peer.is_some() => format!("{low:.2} to {high:.2}"),
        _ => String::new(),
    };
    let met = match row.met {
        None => "",
        Some(true) => "yes",
        Some(false) => "NO",
    };
    vec![
        row.case.clone(),
        value(Some(row.ours)),
        value(row.theirs),
        value(row.limit),
        number(row.ratio),
        interval,
        number(row.goal),
        met.to_owned(),
        row.p99_ms.map_or_else(String::new, |ms| format!("{ms:.2}")),
        number(Some(row.spread)),
        row.n.to_string(),
        row.peer.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_when_the_upper_end_reaches_it() {
        let pairs = Pairs {
            rounds: vec![(2.0, 16.0), (2.0, 15.0), (2.0, 14.0)],
            calls: vec![2.0; 3],
        };
        let row = Row::against("add".to_owned(), "peer 1", &pairs, Some(8.0));
        assert_eq!((row.ours, row.theirs), (2.0, Some(15.0)));
        assert_eq!(
            (row.ratio, row.high, row.met),
            (Some(7.5), Some(8.0), Some(true))
        );
        assert_eq!(row.limit, Some(15.0 / 8.0));
        let row = Row::against("add".to_owned(), "peer 1", &pairs, Some(8.1));
        assert_eq!(row.met, Some(false));
    }

    #[test]
    fn a_limit_is_for_the_worst() {
        let row = Row::limited("memory".to_owned(), "KiB", &[90.0, 110.0, 100.0], 100.0);
        assert_eq!((row.ours, row.met), (110.0, Some(false)));
        let text = table(&[row]);
        assert!(text.contains("110 KiB") && text.contains("NO"), "{text}");
    }
}
