//! JSON as Go reads it: names of fields match whatever their case. Clients rely on it; the
//! SDK for Python calls the mode of a service `replicated`.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// A value whose objects may spell the fields of a struct in any case. An exact name wins.
/// Keys of maps, such as labels, stay as they are.
pub(crate) struct Folded(pub(crate) Value);

impl<'de> Deserializer<'de> for Folded {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(list) => {
                let mut items = SeqDeserializer::new(list.into_iter().map(Folded));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(map) => {
                let mut entries = MapDeserializer::new(map.into_iter().map(|(key, value)| (key, Folded(value))));
                let value = visitor.visit_map(&mut entries)?;
                entries.end()?;
                Ok(value)
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(map) => Folded(Value::Object(with_field_names(map, fields))).deserialize_any(visitor),
            other => Folded(other).deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Folded {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn with_field_names(map: Map<String, Value>, fields: &[&'static str]) -> Map<String, Value> {
    let mut out = Map::new();
    let (exact, other): (Vec<_>, Vec<_>) = map.into_iter().partition(|(key, _)| fields.contains(&key.as_str()));
    out.extend(exact);
    for (key, value) in other {
        let name = fields.iter().find(|field| field.eq_ignore_ascii_case(&key)).map_or(key, |&field| field.to_owned());
        out.entry(name).or_insert(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Outer {
        mode: Option<Inner>,
        labels: BTreeMap<String, String>,
        list: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Inner {
        replicas: u64,
    }

    fn check(given: Value, expected: Outer) {
        assert_eq!(Outer::deserialize(Folded(given)).unwrap(), expected);
    }

    #[test]
    fn fields_match_in_any_case_and_keys_of_maps_stay() {
        let labels: BTreeMap<_, _> = [("Mode".to_owned(), "x".to_owned()), ("mode".into(), "y".into())].into();
        check(
            json!({"mode": {"REPLICAS": 2}, "labels": {"Mode": "x", "mode": "y"}, "LIST": [{"replicas": 3}]}),
            Outer { mode: Some(Inner { replicas: 2 }), labels, list: vec![Inner { replicas: 3 }] },
        );
        check(json!({"mode": null, "unknown": 1}), Outer::default());
    }

    #[test]
    fn an_exact_name_wins() {
        let expected = || Outer { mode: Some(Inner { replicas: 1 }), ..Outer::default() };
        check(json!({"Mode": {"Replicas": 1}, "mode": {"Replicas": 2}}), expected());
        check(json!({"MODE": {"replicas": 5, "Replicas": 1}}), expected());
    }
}
