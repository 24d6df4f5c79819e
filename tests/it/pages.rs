//! The reference pages say what the code says: every key of the state language, every reason for holding something.

use std::fs;
use std::path::Path;

use valkeeper::desired::schema::{Key, ROOT, Shape, Table};

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The tables below a table, each once.
fn tables(table: &'static Table, found: &mut Vec<&'static Table>) {
    if found.iter().any(|known| std::ptr::eq(*known, table)) {
        return;
    }
    found.push(table);
    table.keys.iter().filter_map(|key| inner(&key.shape)).for_each(|inner| tables(inner, found));
}

fn inner(shape: &Shape) -> Option<&'static Table> {
    match shape {
        Shape::Table(inner) | Shape::Tables(inner) | Shape::Named(_, inner) => Some(inner),
        Shape::OneOrMany(of) | Shape::List { of, .. } => inner(of),
        Shape::Text(_) | Shape::Boolean | Shape::Integer { .. } | Shape::Choice(_) | Shape::Settings => None,
    }
}

fn row(key: &Key) -> String {
    let otherwise = match key.default {
        Some(default) => format!("`{default}`"),
        None if key.required => "it must be there".to_owned(),
        None => String::new(),
    };
    format!("| `{}` | {} | {} | {otherwise} |\n", key.name, key.about, key.shape.expected())
}

fn rows(table: &Table) -> String {
    let rows: String = table.keys.iter().map(|key| row(key)).collect();
    format!("| key | what it says | takes | if left out |\n| --- | --- | --- | --- |\n{rows}")
}

#[test]
fn the_reference_has_every_key_as_the_schema_has_it() {
    let page = page("state-language.md");
    let mut all = Vec::new();
    tables(&ROOT, &mut all);
    assert!(all.len() >= 10);
    let with_keys = all.into_iter().filter(|table| !table.keys.is_empty());
    let missing: Vec<String> = with_keys.map(rows).filter(|rows| !page.contains(rows)).collect();
    assert!(missing.is_empty(), "docs/state-language.md lacks:\n\n{}", missing.join("\n"));
}

/// The words of `HeldReason::kind`, from its source: a match that the compiler keeps whole.
fn held_kinds() -> Vec<String> {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/plan.rs")).unwrap();
    let body = source.split("pub fn kind(&self)").nth(1).unwrap().split("pub fn").next().unwrap();
    body.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn every_reason_for_holding_is_explained() {
    let (page, kinds) = (page("operating.md"), held_kinds());
    assert!(kinds.len() >= 15, "{kinds:?}");
    let missing: Vec<_> = kinds.iter().filter(|kind| !page.contains(&format!("| `{kind}` |"))).collect();
    assert!(missing.is_empty(), "docs/operating.md does not explain {missing:?}");
}
