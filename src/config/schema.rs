//! The JSON Schema of a configuration file, for editors and for checks before it is rolled out.

use std::borrow::Cow;

use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema,
    transform::RecursiveTransform,
};
use serde_json::Value;

use super::MeshConfig;

/// Where the schema of the newest release is.
const ID: &str =
    "https://raw.githubusercontent.com/tower-mesh/tower-mesh/main/schema/mesh.schema.json";

/// The JSON Schema (draft 2020-12) of a configuration file; `schema/mesh.schema.json` of the repository
/// is what this gives with all features.
///
/// It knows fields, types, patterns and fixed bounds, so an editor can complete and complain.
/// [`Mesh::check`](crate::Mesh::check) knows more: what one field says of another.
///
/// ```
/// let schema = tower_mesh::config::schema();
/// assert_eq!(schema["properties"]["version"]["const"], 1);
/// ```
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(describe))
        .with_transform(RecursiveTransform(drop_noise));
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<MeshConfig>();
    schema.insert("$id".to_owned(), ID.into());
    schema.insert("title".to_owned(), "The configuration of a mesh".into());
    schema.to_value()
}

/// The name of a service.
pub(super) struct Name;

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A name without spaces.",
            "type": "string",
            "maxLength": 255,
            "pattern": r"^\S+$",
        })
    }
}

/// Makes the description of a field out of its documentation.
fn describe(schema: &mut Schema) {
    if let Some(Value::String(docs)) = schema.get("description") {
        match description(docs) {
            text if text.is_empty() => schema.remove("description"),
            text => schema.insert("description".to_owned(), text.into()),
        };
    }
}

/// Leaves out what says nothing: widths of integers, the bounds of constants, and defaults of whole
/// sections, whose fields have their own.
fn drop_noise(schema: &mut Schema) {
    let is_width = |format: &Value| format.as_str().is_some_and(|name| name.starts_with("uint"));
    let is_section = |default: &Value| default.is_object() || default.is_null();
    for (noise, is_there) in [
        ("format", schema.get("format").is_some_and(is_width)),
        ("default", schema.get("default").is_some_and(is_section)),
        ("minimum", schema.get("const").is_some()),
    ] {
        if is_there {
            schema.remove(noise);
        }
    }
}

/// The prose of a doc comment: no example, no table, no links; nor what leads to a page that is not there.
fn description(docs: &str) -> String {
    let prose = docs.split("\n\n").take_while(|paragraph| {
        let ends = ["```", "|", "#"];
        !ends
            .iter()
            .any(|end| paragraph.trim_start().starts_with(end))
    });
    let prose: Vec<&str> = prose.flat_map(str::split_whitespace).collect();
    without_links(&without_pages(&prose.join(" ")))
}

/// Leaves out sentences, and clauses behind a `;`, about the page of a module.
fn without_pages(prose: &str) -> String {
    let mut text = prose.to_owned();
    while let Some(link) = ["](super)", "](self)"]
        .iter()
        .find_map(|link| text.find(link))
    {
        let start = text[..link].rfind(['.', ';']).map_or(0, |end| end + 1);
        let end = text[link..]
            .find('.')
            .map_or(text.len(), |dot| link + dot + 1);
        let before = match text[..start].strip_suffix(';') {
            Some(clause) => format!("{clause}."),
            None => text[..start].to_owned(),
        };
        text = (before + &text[end..]).trim().to_owned();
    }
    text
}

/// `[text](target)` becomes `text`, and so does a name of Rust in brackets.
fn without_links(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some((before, after)) = text.split_once("](") {
        let (before, label) = before.rsplit_once('[').unwrap_or((before, ""));
        let after = after.split_once(')').map_or("", |(_target, after)| after);
        text = format!("{before}{label}{after}");
    }
    text.replace("[`", "`").replace("`]", "`")
}
