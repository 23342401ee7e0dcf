//! A JSON schema as a list of places and what stands there, so that two can be compared.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Who makes a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// pomd or pomctl: what was there always must stay there always.
    Answer,
    /// Others: nothing may be wanted of them that was not wanted before.
    Request,
}

/// The places of a document, as `tunnels[].reason.code`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// The types that a place has.
    types: BTreeMap<String, BTreeSet<String>>,
    /// The words of a closed list.
    words: BTreeSet<(String, String)>,
    /// Places that are there whenever what holds them is.
    always: BTreeSet<String>,
}

impl Shape {
    /// Reads a schema.
    pub(super) fn of(schema: &Value) -> Self {
        let mut res = Self::default();
        let none = Map::new();
        let definitions = schema["$defs"].as_object().unwrap_or(&none);
        res.read(schema, definitions, "");
        res
    }

    fn read(&mut self, schema: &Value, definitions: &Map<String, Value>, place: &str) {
        let named = schema["$ref"].as_str();
        let named = named.and_then(|it| definitions.get(it.strip_prefix("#/$defs/")?));
        if let Some(named) = named {
            self.read(named, definitions, place);
        }
        for alternatives in ["anyOf", "oneOf", "allOf"] {
            for one in schema[alternatives].as_array().into_iter().flatten() {
                self.read(one, definitions, place);
            }
        }
        let format = schema["format"].as_str();
        let format = format.map_or_else(String::new, |it| format!(" ({it})"));
        let types = match &schema["type"] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect::<Vec<_>>(),
        };
        for one in types {
            let format = if one == "null" { "" } else { &format };
            let typed = self.types.entry(place.to_owned()).or_default();
            typed.insert(format!("{one}{format}"));
        }
        let words = schema["enum"].as_array().into_iter().flatten();
        for word in words.chain(schema.get("const")) {
            self.words.insert((place.to_owned(), word.to_string()));
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            self.read(inner, definitions, &format!("{place}.{name}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            self.always.insert(format!("{place}.{name}"));
        }
        if schema["items"].is_object() {
            self.read(&schema["items"], definitions, &format!("{place}[]"));
        }
        let pairs = schema["prefixItems"].as_array().into_iter().flatten();
        for (at, inner) in pairs.enumerate() {
            self.read(inner, definitions, &format!("{place}[{at}]"));
        }
        if schema["additionalProperties"].is_object() {
            let inner = &schema["additionalProperties"];
            self.read(inner, definitions, &format!("{place}.*"));
        }
    }

    /// Returns places of a document that the schema does not know.
    pub(super) fn unknown_in(&self, document: &Value) -> Vec<String> {
        let places = places(document, "");
        places
            .into_iter()
            .filter(|it| !self.types.contains_key(it))
            .collect()
    }

    /// Returns places of the outermost objects that must be there and are not.
    pub(super) fn missing_in(&self, document: &Value) -> Vec<String> {
        let places = places(document, "");
        let holder = |it: &str| it.rsplit_once('.').map(|it| it.0.to_owned());
        let wanted = self.always.iter().filter(|it| {
            let holder = holder(it).unwrap_or_default();
            document
                .pointer(&holder.replace('.', "/"))
                .is_some_and(Value::is_object)
        });
        wanted.filter(|it| !places.contains(*it)).cloned().collect()
    }
}

fn places(document: &Value, place: &str) -> BTreeSet<String> {
    let mut res = BTreeSet::from([place.to_owned()]);
    match document {
        Value::Object(fields) => {
            for (name, inner) in fields {
                res.extend(places(inner, &format!("{place}.{name}")));
            }
        }
        Value::Array(items) => {
            for inner in items {
                res.extend(places(inner, &format!("{place}[]")));
            }
        }
        _ => {}
    }
    res
}

/// Returns what others may rely on in `old`, and find no more, or otherwise, in `new`.
pub(super) fn broken(old: &Shape, new: &Shape, side: Side) -> Vec<String> {
    let mut res = Vec::new();
    for (place, types) in &old.types {
        match new.types.get(place) {
            None => res.push(format!("{place} (gone)")),
            Some(now) if now != types => {
                res.push(format!("{place} (was {types:?}, is {now:?})"));
            }
            Some(_) => {}
        }
    }
    for (place, word) in old.words.difference(&new.words) {
        res.push(format!("{place} = {word} (gone)"));
    }
    match side {
        Side::Answer => {
            let seldom = old.always.difference(&new.always);
            let seldom = seldom.filter(|it| new.types.contains_key(*it));
            res.extend(seldom.map(|it| format!("{it} (no longer always there)")));
        }
        Side::Request => {
            // A file that is not there yet asks for nothing.
            let wanted = new.always.difference(&old.always);
            let wanted = wanted.filter(|_| old.types.contains_key(""));
            res.extend(wanted.map(|it| format!("{it} (was not wanted)")));
        }
    }
    res
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "required": ["name", "inner"],
            "properties": {
                "name": { "type": "string" },
                "at": { "type": ["string", "null"], "format": "date-time" },
                "inner": { "$ref": "#/$defs/Inner" },
                "state": { "oneOf": [{ "type": "string", "const": "up" }, { "type": "string", "enum": ["down"] }] },
            },
            "$defs": { "Inner": {
                "type": "array",
                "items": { "type": "object", "properties": { "count": { "type": "integer", "format": "uint64" } } },
            } },
        })
    }

    fn breaks(side: Side, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let (old, mut new) = (schema(), schema());
        change(&mut new);
        assert_ne!(old, new);
        broken(&Shape::of(&old), &Shape::of(&new), side)
    }

    #[test]
    fn what_only_grew_breaks_nothing() {
        let grown = breaks(Side::Answer, |it| {
            it["properties"]["more"] = json!({ "type": "string" });
            it["required"] = json!(["name", "inner", "more"]);
            it["$defs"]["Inner"]["items"]["properties"]["more"] = json!({ "type": "boolean" });
            it["properties"]["state"]["oneOf"][1]["enum"] = json!(["down", "busy"]);
            it["description"] = json!("Said otherwise.");
        });
        assert_eq!(grown, Vec::<String>::new());
        let first = Shape::of(&Value::Null);
        for side in [Side::Answer, Side::Request] {
            assert_eq!(
                broken(&first, &Shape::of(&schema()), side),
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn what_is_gone_or_of_another_type_is_named() {
        let gone = |change: fn(&mut Value)| breaks(Side::Answer, change).join("; ");
        let without = gone(|it| {
            it["properties"].as_object_mut().unwrap().remove("at");
        });
        assert_eq!(without, ".at (gone)");
        let deep = gone(|it| it["$defs"]["Inner"]["items"]["properties"] = json!({}));
        assert_eq!(deep, ".inner[].count (gone)");
        let retyped = gone(|it| it["properties"]["name"]["type"] = json!("integer"));
        assert!(retyped.starts_with(".name (was"), "{retyped}");
        let nullable = gone(|it| it["properties"]["name"]["type"] = json!(["string", "null"]));
        assert!(nullable.starts_with(".name (was"), "{nullable}");
        let narrower = gone(|it| {
            it["$defs"]["Inner"]["items"]["properties"]["count"]["format"] = json!("int8");
        });
        assert!(narrower.starts_with(".inner[].count (was"), "{narrower}");
        let word = gone(|it| it["properties"]["state"]["oneOf"][0]["const"] = json!("on"));
        assert_eq!(word, ".state = \"up\" (gone)");
        let seldom = gone(|it| it["required"] = json!(["name"]));
        assert_eq!(seldom, ".inner (no longer always there)");
        let wanted = breaks(Side::Request, |it| {
            it["required"] = json!(["name", "inner", "at"])
        });
        assert_eq!(wanted, [".at (was not wanted)"]);
    }
}
