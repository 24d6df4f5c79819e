//! The schema as JSON Schema (draft-07, which every TOML editor reads).

use serde_json::{Map, Value, json};

use super::schema::{Key, ROOT, Shape, Table, Text};

/// The JSON Schema of the state language.
pub fn json_schema() -> Value {
    let mut schema = table(&ROOT);
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
        object.insert("title".to_owned(), json!("valkeeper state"));
        // A folder's files are one text, so no file must hold the whole of it.
        object.remove("required");
    }
    schema
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> = table.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut schema = json!({
        "type": "object",
        "description": table.about,
        "properties": properties,
        "additionalProperties": false,
    });
    let required: Vec<&str> = table.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let alternatives = |names: &[&str]| names.iter().map(|name| json!({ "required": [name] })).collect::<Vec<_>>();
    let rules = [
        ("required", (!required.is_empty()).then(|| json!(required))),
        ("oneOf", (!table.exactly_one.is_empty()).then(|| json!(alternatives(table.exactly_one)))),
        ("anyOf", (!table.at_least_one.is_empty()).then(|| json!(alternatives(table.at_least_one)))),
        ("dependencies", table.needs.map(|(first, second)| json!({ first: [second] }))),
    ];
    if let Some(object) = schema.as_object_mut() {
        object.extend(rules.into_iter().filter_map(|(name, rule)| Some((name.to_owned(), rule?))));
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = shape(&key.shape);
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), json!(key.about));
        let default = key.default.and_then(|default| serde_json::from_str::<Value>(default).ok());
        object.extend(default.map(|default| ("default".to_owned(), default)));
    }
    schema
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::Text(text) => string(text),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Choice(words) => json!({ "type": "string", "enum": words }),
        Shape::List { of, at_least } => {
            json!({ "type": "array", "items": self::shape(of), "minItems": at_least })
        }
        Shape::OneOrMany(of) => {
            let one = self::shape(of);
            json!({ "anyOf": [one, { "type": "array", "items": one }] })
        }
        Shape::Settings => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[a-z0-9_-]{1,63}$" },
            "additionalProperties": {
                "anyOf": [
                    { "type": ["string", "integer", "boolean"] },
                    { "type": "array", "items": { "type": "string" } },
                ],
            },
        }),
        Shape::Table(inner) => table(inner),
        Shape::Tables(inner) => json!({ "type": "array", "items": table(inner) }),
        Shape::Named(name, inner) => json!({
            "type": "object",
            "propertyNames": string(name),
            "additionalProperties": table(inner),
        }),
    }
}

fn string(text: &Text) -> Value {
    let mut schema = json!({ "type": "string" });
    if let Some(object) = schema.as_object_mut() {
        object.extend(text.pattern.map(|pattern| ("pattern".to_owned(), json!(pattern))));
        if !text.except.is_empty() {
            object.insert("not".to_owned(), json!({ "enum": text.except }));
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_json_values() {
        let schema = json_schema();
        let instance = &schema["properties"]["instances"]["additionalProperties"]["properties"];
        assert_eq!(instance["max_memory_mb"]["default"], json!(64));
        assert_eq!(instance["ensure"]["default"], json!("present"));
        assert_eq!(schema["properties"]["guard"]["properties"]["retain_deleted"]["default"], json!("7d"));
    }

    #[test]
    fn no_table_takes_keys_that_are_not_in_it() {
        let schema = json_schema();
        assert_eq!(schema["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["guard"]["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["nodes"]["additionalProperties"]["dependencies"], json!({ "ssh": ["address"] }));
    }
}
