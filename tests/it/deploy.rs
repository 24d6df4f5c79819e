//! What is shipped beside the program: the unit, the configuration, alerts and the dashboard, each judged by the tool it is
//! for, and each held to the metrics that exist.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use valkeeper::desired::Source;
use valkeeper::desired::service::{self, ServiceConfig};

use crate::metrics::{after_everything, names};
use crate::tools::{promtool, run};

const UNIT: &str = "deploy/valkeeper.service";
const SAMPLE: &str = "deploy/valkeeper.toml";
/// At most 2.0, in tenths, as systemd-analyze(1) wants it.
const EXPOSURE_MAX: &str = "--threshold=20";

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every metric that there is.
fn metrics() -> BTreeSet<String> {
    names(&after_everything().render().unwrap())
}

/// The words of a text that look like a metric of ours, or of the process.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("valkeeper_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// The metrics that a text names and that do not exist. Histograms are asked by their parts.
fn unknown(text: &str) -> Vec<String> {
    let known = metrics();
    let parts = ["_bucket", "_sum", "_count"];
    let whole = |name: &str| parts.iter().find_map(|part| name.strip_suffix(part)).is_some_and(|whole| known.contains(whole));
    named(text).into_iter().filter(|name| !known.contains(name) && !whole(name)).collect()
}

fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(|value| value.as_str()));
            map.values().for_each(|value| strings(value, key, found));
        }
        Value::Array(list) => list.iter().for_each(|value| strings(value, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&text("deploy/grafana/valkeeper.json")).unwrap()
}

#[test]
fn a_metric_that_does_not_exist_is_found() {
    assert_eq!(unknown("rate(valkeeper_gone_total[5m]) + process_open_fds"), ["valkeeper_gone_total"]);
    assert_eq!(unknown("valkeeper_pass_duration_seconds_bucket"), [""; 0]);
}

#[test]
fn every_alert_asks_for_metrics_that_exist() {
    let alerts = text("deploy/prometheus/alerts.yml");
    assert!(named(&alerts).len() > 8);
    assert_eq!(unknown(&alerts), [""; 0]);
    assert_eq!(unknown(&text("deploy/prometheus/alerts_test.yml")), [""; 0]);
}

#[test]
fn every_alert_is_shown_firing() {
    let alerts = text("deploy/prometheus/alerts.yml");
    let cases = text("deploy/prometheus/alerts_test.yml");
    let names: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10);
    let fires = |name: &str| cases.contains(&format!("alertname=\"{name}\"")) || cases.contains(&format!("alertname: {name}\n"));
    let silent: Vec<_> = names.into_iter().filter(|name| !fires(name)).collect();
    assert_eq!(silent, [""; 0]);
}

#[test]
fn prometheus_takes_the_alerts_and_they_fire_and_stay_silent_as_shown() {
    promtool(&["check", "rules", "deploy/prometheus/alerts.yml"], "");
    promtool(&["test", "rules", "deploy/prometheus/alerts_test.yml"], "");
}

#[test]
fn prometheus_takes_the_scrape_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yml");
    let jobs = text("deploy/prometheus/scrape.yml");
    assert!(jobs.contains("honor_labels: true"));
    std::fs::write(&file, format!("rule_files: [\"{}\"]\nscrape_configs:\n{jobs}", alerts.display())).unwrap();
    promtool(&["check", "config", file.to_str().unwrap()], "");
}

#[test]
fn every_panel_asks_for_metrics_that_exist_of_the_chosen_prometheus() {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    strings(&dashboard, "expr", &mut queries);
    strings(&dashboard, "definition", &mut queries);
    assert!(queries.len() > 15);
    for query in queries {
        assert!(!named(query).is_empty(), "{query}");
        assert_eq!(unknown(query), [""; 0], "{query}");
    }
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(panel["targets"].as_array().unwrap().iter().all(|target| target["datasource"]["uid"] == "${datasource}"));
    }
}

#[test]
fn prometheus_understands_every_query_of_the_dashboard() {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    strings(&dashboard, "expr", &mut queries);
    let rule = |(at, query): (usize, &&str)| {
        let query = query.replace("$__rate_interval", "5m");
        format!("  - {{ record: \"panel:{at}\", expr: {} }}\n", serde_json::to_string(&query).unwrap())
    };
    let rules: String = queries.iter().enumerate().map(rule).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yml");
    std::fs::write(&file, format!("groups:\n- name: panels\n  rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}

/// What Grafana would refuse, or take and show nothing for: its own schema is not at hand where the tests run.
#[test]
fn every_panel_is_one_that_grafana_can_draw() {
    let dashboard = dashboard();
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    assert_eq!(dashboard["templating"]["list"][0]["query"], "prometheus");
    for panel in dashboard["panels"].as_array().unwrap() {
        let (kind, title) = (panel["type"].as_str().unwrap(), panel["title"].as_str().unwrap());
        assert!(["row", "stat", "table", "timeseries"].contains(&kind) && !title.is_empty(), "{title}: {kind}");
        if kind == "row" {
            continue;
        }
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
        assert!(["s", "short", "bytes"].contains(&unit), "{title}: {unit}");
        let targets = panel["targets"].as_array().unwrap();
        let ids: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert!(!ids.is_empty() && ids.len() == targets.len(), "{title}");
        let table = |target: &Value| target["format"] == "table" && target["instant"] == true;
        assert!(kind != "table" || targets.iter().all(table), "{title}: a table is of one moment");
    }
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
}

#[test]
fn the_page_of_metrics_names_all_of_them_and_no_other() {
    let page = text("docs/metrics.md");
    assert_eq!(unknown(&page), [""; 0]);
    let rows: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    let missing: Vec<_> = metrics().difference(&rows).cloned().collect();
    assert_eq!(missing, [""; 0], "docs/metrics.md has no row for these");
}

/// The names of a row's labels and its type, as the page says and as the scrape shows.
#[test]
fn the_page_of_metrics_says_their_types_and_labels() {
    let scrape = after_everything().render().unwrap();
    let page = text("docs/metrics.md");
    for row in page.lines().filter(|line| line.starts_with("| `valkeeper_") || line.starts_with("| `process_")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        assert!(scrape.contains(&format!("# TYPE {name} {}\n", cells[2])), "{row}");
        let said: BTreeSet<_> = cells[3].split(['`', ' ']).filter(|word| !word.is_empty()).collect();
        let starts = |line: &&str| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name}_bucket{{"));
        let shown: BTreeSet<_> = scrape.lines().find(starts).map(labels).unwrap_or_default();
        assert_eq!(said, shown, "{row}");
    }
}

fn labels(series: &str) -> BTreeSet<&str> {
    let inner = series.split_once('{').unwrap().1.split_once('}').unwrap().0;
    let names = inner.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
    // The bound of a histogram's bucket is no label to people.
    names.filter(|name| *name != "le").collect()
}

#[test]
fn the_service_is_well_protected() {
    let judge = |limit: &str| run("systemd-analyze", &["security", "--offline=true", "--no-pager", limit, UNIT], "");
    let Some(output) = judge(EXPOSURE_MAX) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!judge("--threshold=0").unwrap().status.success(), "it judges nothing");
}

#[test]
fn systemd_knows_every_word_of_the_service() {
    let Some(output) = run("systemd-analyze", &["verify", "--man=no", UNIT], "") else { return };
    let said = String::from_utf8(output.stderr).unwrap();
    // The program is not installed where the tests run.
    let complaints: Vec<_> = said.lines().filter(|line| !line.contains("Command /usr/bin/valkeeper is not executable")).collect();
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn the_service_notifies_reloads_and_leaves_servers_running() {
    let unit = text(UNIT);
    let says = |line: &str| unit.lines().any(|one| one == line);
    for line in [
        "Type=notify",
        "WatchdogSec=60",
        "KillMode=process",
        "OOMPolicy=continue",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "ProtectHome=read-only",
    ] {
        assert!(says(line), "{line}");
    }
}

/// The sample, read as the daemon reads it.
fn configured(text: String) -> ServiceConfig {
    let source = Source { name: SAMPLE.into(), text };
    service::read(&source).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[test]
fn the_daemon_takes_the_sample_configuration() {
    let config = configured(text(SAMPLE));
    assert!(config.repo.is_some() && config.known_hosts.is_some() && config.local_root.is_some());
    assert_eq!((config.poll, config.log_json), (None, Some(true)));
}

#[test]
fn the_daemon_takes_the_sample_also_with_what_is_switched_off() {
    let sample = text(SAMPLE);
    // Exactly one of repo and path can be said.
    let lines = sample.lines().filter(|line| !line.starts_with("#path = "));
    let config = configured(lines.map(|line| switched_on(line).to_owned() + "\n").collect());
    assert!(config.poll.is_some() && config.hook_secret_file.is_some() && config.secrets_root.is_some());
    let lines = sample.lines().filter(|line| !line.starts_with("repo = "));
    assert!(configured(lines.map(|line| switched_on(line).to_owned() + "\n").collect()).path.is_some());
}

/// So that a reader learns all there is from it, and what stands if nothing is said.
#[test]
fn the_sample_names_every_key_and_its_default() {
    let sample: String = text(SAMPLE).lines().map(|line| switched_on(line).to_owned() + "\n").collect();
    let named: toml::Table = sample.parse().unwrap();
    let keys = |(table, inner): (&String, &toml::Value)| -> Vec<String> {
        inner.as_table().unwrap().keys().map(|key| format!("{table}.{key}")).collect()
    };
    let named: BTreeSet<String> = named.iter().flat_map(keys).collect();
    let known: BTreeSet<String> = service::keys().into_iter().map(|(key, _)| key).collect();
    assert_eq!(named, known);
    for (key, default) in service::keys() {
        let name = key.split_once('.').unwrap().1;
        let off = text(SAMPLE).lines().find_map(|line| line.strip_prefix(&format!("#{name} = ")).map(str::to_owned));
        if let (Some(off), Some(default)) = (off, default) {
            assert_eq!(off, default, "{key}");
        }
    }
}

/// A line that begins with "#" and no space is a setting that is off.
fn switched_on(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[')).unwrap_or(line)
}
