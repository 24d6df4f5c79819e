//! A real Prometheus scrapes the daemon and evaluates the alerts that are shipped.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, Post, ask, instance, moving};
use crate::support::{free_port, signal};

/// Ends with the test.
struct Prometheus {
    port: u16,
    process: Child,
    log: std::path::PathBuf,
}

impl Prometheus {
    /// With the shipped rules and scrape configuration; only the times are those of a test.
    fn start(folder: &Path, daemon: u16) -> Option<Self> {
        let shipped =
            |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus").join(name)).unwrap();
        let rules = shipped("alerts.yml");
        let quick: String = rules
            .lines()
            .map(|line| if line.trim_start().starts_with("for:") { "        for: 1s\n".to_owned() } else { format!("{line}\n") })
            .collect();
        fs::write(folder.join("alerts.yml"), quick).unwrap();
        let jobs = shipped("scrape.yml").replace("127.0.0.1:9464", &format!("127.0.0.1:{daemon}"));
        let global = "global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }\n";
        let config = format!("{global}rule_files: [\"alerts.yml\"]\nscrape_configs:\n{jobs}");
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let (port, log) = (free_port(), folder.join("log"));
        let mut command = Command::new("prometheus");
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        match command.spawn() {
            Ok(process) => Some(Self { port, process, log }),
            Err(error) => {
                eprintln!("NOT CHECKED: prometheus: {error}: scripts/install-missing brings it");
                None
            }
        }
    }

    fn get(&self, path: &str) -> Option<Value> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        serde_json::from_str(&ask(stream, "GET", path, "", "").1).ok()
    }

    fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}")).unwrap_or_default();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// The alerts that are on, with their state and instance.
    fn alerts(&self) -> Vec<(String, String, String)> {
        let answer = self.get("/api/v1/alerts").unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let labels = |alert: &Value, label: &str| text(&alert["labels"][label]);
        alerts.iter().map(|alert| (labels(alert, "alertname"), text(&alert["state"]), labels(alert, "instance"))).collect()
    }

    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "not {what}: {:?}\n{log}", self.alerts());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn prometheus_scrapes_the_daemon_and_fires_when_an_instance_fails() {
    let post = Post::new(&(instance("good", "hz = 11") + &instance("bad", "hz = 11")));
    let daemon = post.start();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    let folder = tempfile::tempdir().unwrap();
    let Some(prometheus) = Prometheus::start(folder.path(), daemon.port) else { return };
    prometheus.until("scraped", |it| it.query("up{job=\"valkeeper\"} == 1").len() == 1);
    let series = format!("valkeeper_revision_info{{state=\"settled\",revision=\"{revision}\",fleet=\"prod\"}}");
    prometheus.until("settled", |it| it.query(&series).len() == 1);
    assert_eq!(prometheus.query("valkeeper_instance_info{instance=\"good\",status=\"active\"}").len(), 1);
    let rules = prometheus.get("/api/v1/rules").unwrap();
    let broken: Vec<_> =
        rules["data"]["groups"][0]["rules"].as_array().unwrap().iter().filter(|rule| rule["health"] == "err").collect();
    assert!(broken.is_empty(), "{broken:#?}");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(prometheus.alerts(), [], "a fleet that is well fires nothing");

    let log = post.site.path("state/log/bad.log");
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    signal(post.site.pid("bad"), "-9");
    daemon.sync();
    let fires = |it: &Prometheus, name: &str, instance: &str| {
        it.alerts().iter().any(|(alert, state, of)| alert == name && state == "firing" && of == instance)
    };
    prometheus.until("firing", |it| fires(it, "ValkeeperInstanceFailed", "bad"));
    assert!(!fires(&prometheus, "ValkeeperInstanceFailed", "good"));
    fs::remove_dir(&log).unwrap();
    daemon.say(&post.site, &["retry"]).expect(0);
    prometheus.until("silent", |it| !fires(it, "ValkeeperInstanceFailed", "bad"));
    daemon.kill();
    prometheus.until("down", |it| it.alerts().iter().any(|(alert, state, _)| alert == "ValkeeperDown" && state == "firing"));
}

/// After everything that a dashboard shows has happened, no panel is empty: a wrong label would make one, and no tool says so.
#[test]
fn every_panel_of_the_dashboard_has_something_to_show() {
    let post = Post::bare();
    let tables = |shard| instance("one", "hz = 11") + &instance("two", "hz = 11") + &moving::tables(&post, shard, "1h");
    post.commit(&tables("a"));
    let signers = post.git.text("signers");
    let key = crate::repo::signed::ssh_key(&post.git, "anna");
    fs::write(&signers, format!("anna@example.com {key}\n")).unwrap();
    let work = post.git.text("work");
    let source = format!("repo = \"{work}\"\nverify = \"head\"\nallowed_signers = \"{signers}\"\n");
    let daemon = post.start_with(&["--config", &post.configure(&source, "")]);
    let folder = tempfile::tempdir().unwrap();
    let Some(prometheus) = Prometheus::start(folder.path(), daemon.port) else { return };
    prometheus.until("scraped", |it| it.query("up{job=\"valkeeper\"} == 1").len() == 1);
    daemon.settles(crate::repo::signed::sign_with_ssh(&post.git, "anna", None).as_str());
    prometheus.until("settled", |it| it.query("valkeeper_instance_info{instance=\"one\",status=\"active\"}").len() == 1);
    moving::made_slow(&post);
    post.commit(&tables("b"));
    crate::repo::signed::sign_with_ssh(&post.git, "anna", None);
    daemon.until("moved", |status| moving::stage(moving::moving(status)) == Some("leave"));
    prometheus.until("in step", |it| !it.query("valkeeper_replica_lag_bytes").is_empty());
    let mut old = moving::client(&post, "state");
    old.ask_many("REPLICAOF NO ONE\r\nCONFIG SET min-replicas-to-write 0\r\n", 2);
    post.site.operator("one").ask("CONFIG SET hz 50");
    daemon.sync();
    daemon.say(&post.site, &["suspend", "two", "--reason", "x", "--for", "1h"]).expect(0);
    post.site.operator("two").ask("CONFIG SET hz 50");
    post.commit(&instance("one", "hz = 12"));
    daemon.sync();
    let dashboard = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/valkeeper.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| {
        panel["targets"].as_array().into_iter().flatten().map(|target| (panel["title"].clone(), target["expr"].as_str().unwrap()))
    });
    // A fence is held for milliseconds, if nothing hangs, and nothing moves as a snapshot here: `moving.rs` looks at their series.
    for (title, query) in panels.filter(|(title, _)| title != "Fenced" && title != "Keys left to save") {
        let asked = query.replace("$job", "valkeeper").replace("$fleet", "prod|.*").replace("$__rate_interval", "1m");
        // What was to be seen during the move is gone behind it.
        let ever = format!("present_over_time(({asked})[2m:100ms])");
        prometheus.until(&format!("{title}: a series for {asked}"), |it| !it.query(&ever).is_empty());
    }
}
