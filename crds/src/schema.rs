//! What is made from the types: the CRDs as Kubernetes takes them, and the API reference for people.
//!
//! The files `crds/*.yaml` and `docs/api.md` hold what these functions give; a test says when they differ, and
//! `make generate` writes them anew.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{NodeBootstrap, NodeBootstrapReport};

/// The CRD of `NodeBootstrap`.
pub fn node_bootstrap() -> CustomResourceDefinition {
    tidy(NodeBootstrap::crd())
}

/// The CRD of `NodeBootstrapReport`.
pub fn report() -> CustomResourceDefinition {
    tidy(NodeBootstrapReport::crd())
}

fn tidy(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for schema in crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()) {
        schema.open_api_v3_schema.iter_mut().for_each(tidy_schema);
    }
    crd
}

/// An optional field given as null counts as not given, rather than as a value of its own; and a description is text
/// to be wrapped by who shows it, not by where a line of source ended.
fn tidy_schema(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    // The API server knows no unsigned formats, and warns.
    schema.format.take_if(|format| format.starts_with("uint"));
    if let Some(description) = &mut schema.description {
        *description = one_line(description);
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(tidy_schema);
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        tidy_schema(item);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        tidy_schema(value);
    }
}

/// The API reference as Markdown: one table for each object of each kind.
pub fn reference() -> String {
    let mut text = "# API reference\n\n\
        Made from the types by `make generate`; `kubectl explain nodebootstrap.spec` says the same.\n"
        .to_owned();
    for crd in [node_bootstrap(), report()] {
        let names = &crd.spec.names;
        let _ = write!(
            text,
            "\n## {}\n\n`{}/v1alpha1`, cluster-scoped, short name `{}`.\n",
            names.kind,
            crd.spec.group,
            names.short_names.iter().flatten().next().map_or("", String::as_str)
        );
        let schema = crd.spec.versions.first().and_then(|v| v.schema.as_ref()?.open_api_v3_schema.as_ref());
        for part in ["spec", "status"] {
            if let Some(schema) = schema.and_then(|schema| schema.properties.as_ref()?.get(part)) {
                object(&mut text, part, schema);
            }
        }
    }
    text
}

/// The table of one object, then those of the objects in it.
fn object(text: &mut String, path: &str, schema: &JSONSchemaProps) {
    let _ = write!(text, "\n### {path}\n\n");
    if let Some(description) = &schema.description {
        let _ = write!(text, "{description}\n\n");
    }
    let required = schema.required.clone().unwrap_or_default();
    let properties = schema.properties.clone().unwrap_or_default();
    text.push_str("| field | type | meaning |\n|---|---|---|\n");
    for (name, property) in &properties {
        let must = if required.contains(name) { ", required" } else { "" };
        let meaning = property.description.as_deref().unwrap_or_default();
        let _ =
            writeln!(text, "| `{name}` | {}{must} | {} |", type_of(property), meaning.replace('|', "\\|"));
    }
    let rules: Vec<_> =
        schema.x_kubernetes_validations.iter().flatten().filter_map(|rule| rule.message.as_ref()).collect();
    if !rules.is_empty() {
        text.push_str("\nRefused with:\n\n");
        for message in rules {
            let _ = writeln!(text, "- {message}");
        }
    }
    for (name, property) in &properties {
        match inner(property) {
            Some((item, true)) => object(text, &format!("{path}.{name}[]"), item),
            Some((item, false)) => object(text, &format!("{path}.{name}"), item),
            None => {}
        }
    }
}

/// The object that a property is, or is a list of (`true`).
fn inner(property: &JSONSchemaProps) -> Option<(&JSONSchemaProps, bool)> {
    match &property.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) if item.properties.is_some() => Some((item, true)),
        _ if property.properties.is_some() => Some((property, false)),
        _ => None,
    }
}

fn type_of(property: &JSONSchemaProps) -> String {
    if property.x_kubernetes_int_or_string == Some(true) {
        return "integer or string".to_owned();
    }
    let own = property.type_.as_deref().unwrap_or("any");
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &property.items {
        return format!("list of {}", type_of(item));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &property.additional_properties {
        return format!("map to {}", type_of(value));
    }
    match &property.enum_ {
        Some(values) => {
            let values: Vec<_> =
                values.iter().filter_map(|v| v.0.as_str()).map(|value| format!("`{value}`")).collect();
            format!("one of {}", values.join(", "))
        }
        None => own.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The largest CRD: client-side apply keeps a copy in an annotation, and those take 256 KiB.
    const MAX_CRD: usize = 200 << 10;

    fn yaml<T: serde::Serialize>(value: &T) -> String {
        let value = serde_json::to_value(value).expect("JSON");
        format!(
            "# Made from the types in src/ by `make generate`.\n{}",
            serde_saphyr::to_string(&value).expect("YAML")
        )
    }

    #[test]
    fn generated_files_are_up_to_date() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (file, made) in [
            (here.join("nodebootstraps.yaml"), yaml(&node_bootstrap())),
            (here.join("nodebootstrapreports.yaml"), yaml(&report())),
            (here.join("../docs/api.md"), reference()),
        ] {
            if std::env::var_os("UPDATE_GENERATED").is_some() {
                std::fs::write(&file, &made).expect("written");
            }
            let there = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(there == made, "{} is not what the types say: run `make generate`", file.display());
        }
    }

    #[test]
    fn the_yaml_is_the_object_and_small_enough_for_client_side_apply() {
        for crd in [node_bootstrap(), report()] {
            let json = serde_json::to_value(&crd).expect("JSON");
            let back: serde_json::Value = serde_saphyr::from_str(&yaml(&crd)).expect("YAML");
            assert_eq!(json, back);
            assert!(json.to_string().len() < MAX_CRD);
        }
    }

    #[test]
    fn every_field_that_users_write_is_described() {
        fn walk(path: &str, schema: &JSONSchemaProps) {
            for (name, property) in schema.properties.iter().flatten() {
                assert!(property.description.is_some(), "{path}.{name} has no description");
                if let Some((item, _)) = inner(property) {
                    walk(&format!("{path}.{name}"), item);
                }
            }
        }
        for crd in [node_bootstrap(), report()] {
            let version = crd.spec.versions.into_iter().next().expect("a version");
            let root = version.schema.and_then(|s| s.open_api_v3_schema).expect("a schema");
            let properties = root.properties.expect("properties");
            walk("spec", &properties["spec"]);
            walk("status", &properties["status"]);
        }
    }
}
