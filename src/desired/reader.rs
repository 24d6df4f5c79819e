//! Walks a spanned TOML table along the schema: collects unknown, missing and misshapen keys, never stops at the first.
//!
//! Owns the wording of these problems. What values mean is for the callers.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, nearest, quoted};
use super::schema::{self, Key, Shape, Table};
use super::source::Source;
use super::syntax;
use crate::model::desired::{Located, Origin};

/// A table's path, shown as its header: `[instances.a]`.
#[derive(Clone, Copy)]
pub(super) struct Path<'a>(pub(super) &'a [&'a str]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.join(".").escape_debug())
    }
}

/// Reads one file.
pub(super) struct Reader<'s> {
    file: u32,
    source: &'s Source,
    /// The file has syntax errors, so what is missing may only be unreadable.
    partial: bool,
    pub(super) problems: Vec<Problem>,
}

/// One table that has been held against its schema.
#[derive(Clone, Copy)]
pub(super) struct Fields<'t> {
    table: &'t DeTable<'t>,
}

/// The value of a key.
#[derive(Clone, Copy)]
pub(super) struct Field<'t> {
    pub(super) key: &'static Key,
    /// Of the key and the value together.
    pub(super) whole: Origin,
    pub(super) at: Origin,
    value: &'t DeValue<'t>,
}

/// A table under a name that people chose.
pub(super) struct Entry<'t> {
    pub(super) name: &'t str,
    pub(super) at: Origin,
    pub(super) table: &'t DeTable<'t>,
}

impl<'s> Reader<'s> {
    pub(super) fn new(file: u32, source: &'s Source, partial: bool) -> Self {
        Self { file, source, partial, problems: Vec::new() }
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn origin<T>(&self, value: &Spanned<T>) -> Origin {
        syntax::origin(self.file, &self.source.text, value.span())
    }

    /// Holds a table against its schema; `at` is where to say that something is missing.
    pub(super) fn open<'t>(&mut self, path: Path<'_>, table: &'t DeTable<'t>, schema: &'static Table, at: Origin) -> Fields<'t> {
        self.check_unknown(path, table, schema);
        let fields = Fields { table };
        if !self.partial {
            self.check_presence(path, fields, schema, at);
        }
        fields
    }

    /// The top level of one file. What must be there is a question about all files together, so it is not asked here.
    pub(super) fn open_root<'t>(&mut self, root: &'t DeTable<'t>) -> Fields<'t> {
        self.check_unknown(Path(&[]), root, &schema::ROOT);
        Fields { table: root }
    }

    fn check_unknown(&mut self, path: Path<'_>, table: &DeTable<'_>, schema: &'static Table) {
        for (key, _) in table {
            let name: &str = key.get_ref();
            if !schema.keys.iter().any(|known| known.name == name) {
                let at = self.origin(key);
                self.push(unknown_key(path, name, at, schema));
            }
        }
    }

    fn check_presence(&mut self, path: Path<'_>, fields: Fields<'_>, schema: &'static Table, at: Origin) {
        for key in schema.keys.iter().filter(|key| key.required && !fields.has_or_means(key.name, schema)) {
            let title = format!("{path} has no {:?}", key.name);
            let help = format!("{}: takes {}", key.name, key.shape.expected());
            self.push(Problem::new(title, at, "it belongs here").help(help));
        }
        let mut present = schema.exactly_one.iter().copied().filter(|name| fields.has(name));
        if let (Some(_), Some(second)) = (present.next(), present.next()) {
            let at = fields.table.get_key_value(second).map_or(at, |(key, _)| self.origin(key));
            let title = format!("{path} has both {}", list(schema.exactly_one, "and"));
            self.push(Problem::new(title, at, "one too many").help("keep one of the two"));
        }
        for (names, either) in [(schema.exactly_one, "either "), (schema.at_least_one, "")] {
            if !names.is_empty() && !names.iter().any(|name| fields.has_or_means(name, schema)) {
                let title = format!("{path} has neither {}", list(names, "nor"));
                self.push(Problem::new(title, at, "it belongs here").help(format!("say {either}{}", list(names, "or"))));
            }
        }
        if let Some((first, second)) = schema.needs
            && fields.has(first)
            && !fields.has_or_means(second, schema)
        {
            let expected = schema.keys.iter().find(|key| key.name == second).map(|key| key.shape.expected());
            let title = format!("{path} has {first:?} but no {second:?}");
            let help = format!("{second}: takes {}", expected.unwrap_or_default());
            self.push(Problem::new(title, at, "it belongs here").help(help));
        }
    }

    /// May what is missing only be unreadable?
    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    pub(super) fn get<'t>(&self, fields: Fields<'t>, key: &'static Key) -> Option<Field<'t>> {
        let (name, value) = fields.table.get_key_value(key.name)?;
        Some(self.field(key, name.span(), value))
    }

    /// A key whose name is not ours, such as a setting.
    pub(super) fn field<'t>(
        &self,
        key: &'static Key,
        name: std::ops::Range<usize>,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Field<'t> {
        let at = self.origin(value);
        let name = syntax::origin(self.file, &self.source.text, name);
        // A table under a header of its own begins with that header, in which the key stands: then the key is the place.
        let whole = if value.span().start < name.end as usize { name } else { Origin { start: name.start, ..at } };
        Field { key, whole, at, value: value.get_ref() }
    }

    /// The value is not of the shape that its key takes.
    pub(super) fn mismatch(&mut self, field: Field<'_>) {
        let shape = &field.key.shape;
        let title = format!("{} takes {}", field.key.name, shape.expected());
        let problem = Problem::new(title, field.at, format!("this is {}", kind(field.value)));
        let quotes = field.value.as_str().is_some_and(|text| match shape {
            Shape::Integer { .. } => text.parse::<i64>().is_ok(),
            Shape::Boolean => matches!(text, "true" | "false"),
            Shape::Text(_) | Shape::Choice(_) | Shape::List { .. } | Shape::OneOrMany(_) => false,
            Shape::Settings | Shape::Table(_) | Shape::Tables(_) | Shape::Named(..) => false,
        });
        self.push(if quotes { problem.help("write it without quotes") } else { problem });
    }

    pub(super) fn text<'t>(&mut self, field: Field<'t>) -> Option<Located<&'t str>> {
        let text = field.value.as_str();
        if text.is_none() {
            self.mismatch(field);
        }
        text.map(|value| Located { value, at: field.at })
    }

    pub(super) fn boolean(&mut self, field: Field<'_>) -> Option<bool> {
        if let DeValue::Boolean(value) = field.value {
            return Some(*value);
        }
        self.mismatch(field);
        None
    }

    /// A whole number in the range that the schema gives.
    pub(super) fn integer(&mut self, field: Field<'_>) -> Option<i64> {
        let Shape::Integer { min, max } = &field.key.shape else { return None };
        let DeValue::Integer(written) = field.value else {
            self.mismatch(field);
            return None;
        };
        match i64::from_str_radix(written.as_str(), written.radix()) {
            Ok(number) if (*min..=*max).contains(&number) => Some(number),
            Ok(_) | Err(_) => {
                let title = format!("{} takes {}", field.key.name, field.key.shape.expected());
                let label =
                    if written.as_str().starts_with('-') || written.as_str() == "0" { "too small" } else { "out of range" };
                self.push(Problem::new(title, field.at, label));
                None
            }
        }
    }

    /// One of the words that the schema gives.
    pub(super) fn choice<'t>(&mut self, field: Field<'t>) -> Option<&'t str> {
        let Shape::Choice(words) = &field.key.shape else { return None };
        let written = self.text(field)?;
        if words.contains(&written.value) {
            return Some(written.value);
        }
        let title = format!("{} takes {}", field.key.name, field.key.shape.expected());
        let problem = Problem::new(title, field.at, if words.len() == 2 { "neither of them" } else { "none of them" });
        self.push(match nearest(written.value, words.iter().copied()) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => problem,
        });
        None
    }

    /// The strings of a list, or the one string.
    pub(super) fn strings<'t>(&mut self, field: Field<'t>) -> Vec<Located<&'t str>> {
        let mut strings = Vec::new();
        for item in self.items(field) {
            match item.value.as_str() {
                Some(value) => strings.push(Located { value, at: item.at }),
                None => self.mismatch(item),
            }
        }
        strings
    }

    /// The entries of a list, or the one value where the schema allows that.
    pub(super) fn items<'t>(&mut self, field: Field<'t>) -> Vec<Field<'t>> {
        let (at_least, single) = match &field.key.shape {
            Shape::List { at_least, .. } => (*at_least, false),
            Shape::OneOrMany(_) => (0, true),
            Shape::Text(_) | Shape::Boolean | Shape::Integer { .. } | Shape::Choice(_) => (0, true),
            Shape::Settings | Shape::Table(_) | Shape::Named(..) => (0, true),
            Shape::Tables(_) => (0, false),
        };
        let Some(items) = field.value.as_array() else {
            if single {
                return vec![field];
            }
            self.mismatch(field);
            return Vec::new();
        };
        if items.len() < at_least {
            let title = format!("{} takes {}", field.key.name, field.key.shape.expected());
            self.push(Problem::new(title, field.at, "this is empty"));
        }
        let item = |value: &'t Spanned<DeValue<'t>>| Field { at: self.origin(value), value: value.get_ref(), ..field };
        items.iter().map(item).collect()
    }

    /// A table, or a problem.
    pub(super) fn table<'t>(&mut self, field: Field<'t>) -> Option<&'t DeTable<'t>> {
        if let DeValue::Table(table) = field.value {
            return Some(table);
        }
        self.mismatch(field);
        None
    }

    /// Tables by name.
    pub(super) fn entries<'t>(&mut self, field: Field<'t>) -> Vec<Entry<'t>> {
        let mut entries = Vec::new();
        for (name, value) in self.table(field).into_iter().flatten() {
            let at = self.origin(name);
            match value.get_ref().as_table() {
                Some(table) => entries.push(Entry { name: name.get_ref(), at, table }),
                None => self.mismatch(Field { at: self.origin(value), value: value.get_ref(), ..field }),
            }
        }
        entries
    }
}

impl<'t> Field<'t> {
    pub(super) fn value(&self) -> &'t DeValue<'t> {
        self.value
    }
}

impl Fields<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Is the key there, or one that was probably meant to be it? That is told as an unknown key already.
    pub(super) fn has_or_means(&self, name: &str, schema: &'static Table) -> bool {
        let known = |written: &str| schema.keys.iter().any(|key| key.name == written);
        let meant = |written: &str| nearest(written, schema.keys.iter().map(|key| key.name)) == Some(name);
        self.has(name) || self.table.keys().map(|key| &**key.get_ref()).any(|written| !known(written) && meant(written))
    }
}

fn unknown_key(path: Path<'_>, name: &str, at: Origin, schema: &'static Table) -> Problem {
    let place = if path.0.is_empty() { "at the top level".to_owned() } else { format!("in {path}") };
    let problem = Problem::new(format!("unknown key {} {place}", quoted(name)), at, "not a key of this table");
    let names = || schema.keys.iter().map(|key| key.name);
    if let Some(near) = nearest(name, names()) {
        return problem.help(format!("did you mean {near:?}?"));
    }
    let setting = schema.keys.iter().any(|key| std::ptr::eq(*key, &schema::CONFIG));
    match names().collect::<Vec<_>>() {
        known if known.is_empty() => problem.help("this table takes no keys"),
        known if setting => {
            problem.help(format!("a setting of the server stands under config; known keys are {}", known.join(", ")))
        }
        known => problem.help(format!("known keys are {}", known.join(", "))),
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a decimal point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn list(names: &[&str], word: &str) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(&format!(" {word} "))
}
