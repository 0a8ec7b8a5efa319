//! Secrets and configs. A secret's content goes in and never comes out.

use super::mount::Driver;
use super::swarm::{Meta, base64, only_driver};
use super::wire;
use crate::filters::Filters;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use skep_model::secret::{Config as ModelConfig, ConfigSpec, Secret as ModelSecret, SecretSpec};
use skep_model::{Error, Result};
use std::collections::BTreeMap;

/// The one template language: Go's.
const TEMPLATE_DRIVER: &str = "golang";
pub(crate) const FILTERS: [&str; 4] = ["id", "label", "name", "names"];

/// Body of create and update, of secrets and configs alike. No `Debug`: it may hold a secret.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Body {
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    data: Option<String>,
    driver: Option<Driver>,
    templating: Option<Driver>,
}

/// Name, labels, data and the template driver's name.
type Parts = (String, BTreeMap<String, String>, Vec<u8>, String);

impl Body {
    /// # Errors
    /// Content that is not base64, drivers that skep does not have.
    pub(crate) fn into_secret(self) -> Result<SecretSpec> {
        let (name, labels, data, template_driver) = self.into_parts()?;
        Ok(SecretSpec { name, labels, data, template_driver })
    }

    /// # Errors
    /// Content that is not base64, drivers that skep does not have.
    pub(crate) fn into_config(self) -> Result<ConfigSpec> {
        let (name, labels, data, template_driver) = self.into_parts()?;
        Ok(ConfigSpec { name, labels, data, template_driver })
    }

    fn into_parts(self) -> Result<Parts> {
        only_driver("Driver", self.driver.as_ref(), &[""])?;
        only_driver("Templating", self.templating.as_ref(), &["", TEMPLATE_DRIVER])?;
        let template_driver = self.templating.map(|driver| driver.name).unwrap_or_default();
        let text = self.data.unwrap_or_default();
        let engine = base64::engine::general_purpose::STANDARD;
        // Clients differ in the alphabet; the two agree but for two characters.
        let normal: String = text
            .chars()
            .map(|c| {
                if c == '-' {
                    '+'
                } else if c == '_' {
                    '/'
                } else {
                    c
                }
            })
            .collect();
        let data = engine.decode(normal).map_err(|_| Error::invalid("invalid JSON: Data is not base64"))?;
        Ok((self.name.unwrap_or_default(), self.labels.unwrap_or_default(), data, template_driver))
    }
}

wire!(Id {
    #[serde(rename = "ID")]
    id: String
});

#[derive(Debug, Serialize)]
pub(crate) struct Object {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: Meta,
    #[serde(rename = "Spec")]
    spec: Spec,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    name: String,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    templating: Option<Driver>,
}

fn templating(driver: &str) -> Option<Driver> {
    (!driver.is_empty()).then(|| Driver { name: driver.to_owned(), ..Driver::default() })
}

impl Object {
    pub(crate) fn of_secret(secret: &ModelSecret) -> Self {
        let spec = Spec {
            name: secret.spec.name.clone(),
            labels: secret.spec.labels.clone(),
            data: None,
            templating: templating(&secret.spec.template_driver),
        };
        Self { id: secret.id.to_string(), meta: Meta::of(&secret.meta), spec }
    }

    pub(crate) fn of_config(config: &ModelConfig) -> Self {
        let spec = Spec {
            name: config.spec.name.clone(),
            labels: config.spec.labels.clone(),
            data: Some(base64(&config.spec.data)),
            templating: templating(&config.spec.template_driver),
        };
        Self { id: config.id.to_string(), meta: Meta::of(&config.meta), spec }
    }
}

pub(crate) fn matches(id: &str, name: &str, labels: &BTreeMap<String, String>, filters: &Filters) -> bool {
    filters.prefix("id", id)
        && filters.prefix("name", name)
        && filters.exact("names", name)
        && filters.labels("label", labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(value: serde_json::Value) -> Body {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn content_goes_in_and_a_secrets_never_comes_out() {
        let wire = json!({"Name": "s", "Labels": null, "Data": "aHVudGVyMg=="});
        let spec = body(wire.clone()).into_secret().unwrap();
        assert_eq!(spec.data, b"hunter2");
        let secret = ModelSecret { spec, ..ModelSecret::default() };
        let out = serde_json::to_string(&Object::of_secret(&secret)).unwrap();
        assert!(!out.contains("aHVudGVyMg") && !out.contains("Data"), "{out}");
        let config = ModelConfig { spec: body(wire).into_config().unwrap(), ..ModelConfig::default() };
        assert!(serde_json::to_string(&Object::of_config(&config)).unwrap().contains("aHVudGVyMg=="));
    }

    #[test]
    fn unsupported_parts_are_refused() {
        for bad in [
            json!({"Name": "s", "Data": "***"}),
            json!({"Name": "s", "Driver": {"Name": "vault"}}),
            json!({"Name": "s", "Templating": {"Name": "jinja"}}),
        ] {
            assert!(body(bad.clone()).into_secret().is_err(), "{bad}");
        }
        let template = json!({"Name": "s", "Templating": {"Name": "golang"}});
        assert_eq!(body(template).into_config().unwrap().template_driver, "golang");
    }
}
