//! A metric family whose series are made anew for each scrape, so that they go when their object goes. Never counts.

use prometheus::proto;

use super::snapshot::Snapshot;

/// The longest label value, in bytes: free text (a reason that a person wrote) must not grow a database without bound.
const LABEL_BYTES_MAX: usize = 256;

/// One metric: its name, what it means, and how its series follow from the snapshot.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub rows: fn(&Snapshot) -> Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
}

/// One series: the values of the family's labels, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub labels: Vec<String>,
    pub value: f64,
}

impl Row {
    pub fn new<const N: usize>(labels: [&str; N], value: f64) -> Self {
        Self { labels: labels.iter().map(|label| cut(label).to_owned()).collect(), value }
    }
}

impl Family {
    /// Nothing where the family has no series now: the text format knows no empty family.
    pub fn of(&self, snapshot: &Snapshot) -> Option<proto::MetricFamily> {
        let metrics: Vec<_> = (self.rows)(snapshot).into_iter().map(|row| self.metric(row)).collect();
        if metrics.is_empty() {
            return None;
        }
        let mut family = proto::MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.kind {
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Counter => proto::MetricType::COUNTER,
        });
        family.set_metric(metrics);
        Some(family)
    }

    fn metric(&self, row: Row) -> proto::Metric {
        let pair = |(name, value): (&&str, String)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        };
        let mut metric = proto::Metric::from_label(self.labels.iter().zip(row.labels).map(pair).collect());
        match self.kind {
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(row.value);
                metric.set_gauge(gauge);
            }
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(row.value);
                metric.set_counter(counter);
            }
        }
        metric
    }
}

/// The beginning of a text that fits into a label, cut between characters.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LABEL_BYTES_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_label_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"a".repeat(300)).len(), LABEL_BYTES_MAX);
        let euros = "€".repeat(100);
        assert_eq!(cut(&euros), "€".repeat(85));
    }
}
