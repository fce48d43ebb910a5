//! What was expected, in the words of people who write files.
//!
//! Parsers name the types of Rust, and the YAML parser not even what it found: `invalid u32`.

/// The message of a parser, or the same in plain words: with the value as it is written, and what is
/// allowed in its place.
pub(super) fn plain(message: &str, value: impl FnOnce() -> Option<String>) -> String {
    let message = without_position(message);
    if let Some(list_or_map) = shape(message) {
        return format!("expected {list_or_map}");
    }
    let Some((found, expected)) = refused(message) else {
        return message.to_owned();
    };
    match (value(), found) {
        (Some(value), _) => format!("got `{value}`, expected {expected}"),
        (None, Some(found)) => format!("{found}, expected {expected}"),
        (None, None) => format!("expected {expected}"),
    }
}

/// The position goes to the front of the line, where editors look for it.
fn without_position(message: &str) -> &str {
    let is_position = |at: &str| {
        at.chars()
            .all(|c| c.is_ascii_digit() || ", column".contains(c))
    };
    match message.rsplit_once(" at line ") {
        Some((message, at)) if is_position(at) => message,
        _ => message,
    }
}

/// What was found, where the message says so, and what the type of it takes.
fn refused(message: &str) -> Option<(Option<&str>, String)> {
    if let Some(expected) = message.strip_prefix("invalid ").and_then(allowed) {
        return Some((None, expected));
    }
    let (found, kind) = message.rsplit_once(", expected ")?;
    let of_type = found.starts_with("invalid type: ") || found.starts_with("invalid value: ");
    let expected = allowed(kind).filter(|_| of_type)?;
    Some((Some(found), expected))
}

/// What a type takes, as it is written in a file.
fn allowed(kind: &str) -> Option<String> {
    let range = |least: i64, most: i64| format!("a whole number from {least} to {most}");
    Some(match kind {
        "u8" => range(0, u8::MAX.into()),
        "u16" => range(0, u16::MAX.into()),
        "u32" => range(0, u32::MAX.into()),
        "i8" => range(i8::MIN.into(), i8::MAX.into()),
        "i16" => range(i16::MIN.into(), i16::MAX.into()),
        "i32" => range(i32::MIN.into(), i32::MAX.into()),
        // Their limits are those of the machine, and say nothing to anybody.
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" | "floating point" => "a number".to_owned(),
        "boolean" | "a boolean" => "true or false".to_owned(),
        _ => return None,
    })
}

/// The YAML parser's words for what it found to be a list or a map, or not to be one.
fn shape(message: &str) -> Option<&'static str> {
    match message {
        "expected string scalar" => Some("one value, not a list or a map"),
        "expected sequence start" => Some("a list"),
        "expected mapping start" => Some("a map"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;

    use crate::document::Text;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Sample {
        small: u16,
        count: Option<u32>,
        size: usize,
        share: f64,
        on: bool,
        counts: Vec<u32>,
    }

    fn refused(file: &str, text: &str) -> String {
        let text = Text::new(Path::new(file), text).unwrap();
        text.read::<Vec<Sample>>().unwrap_err().to_string()
    }

    #[test]
    fn a_value_of_another_type_is_named_with_what_is_allowed() {
        let count = "expected a whole number from 0 to 4294967295";
        for (field, value, message) in [
            ("count", "50%", format!("count: got `50%`, {count}")),
            ("count", "-1", format!("count: got `-1`, {count}")),
            ("count", "1.5", format!("count: got `1.5`, {count}")),
            (
                "count",
                "5000000000",
                format!("count: got `5000000000`, {count}"),
            ),
            ("count", "true", format!("count: got `true`, {count}")),
            (
                "counts",
                "[5, many]",
                format!("counts[1]: got `many`, {count}"),
            ),
            (
                "small",
                "70000",
                "small: got `70000`, expected a whole number from 0 to 65535".to_owned(),
            ),
            (
                "size",
                "64KiB",
                "size: got `64KiB`, expected a whole number, 0 or more".to_owned(),
            ),
            (
                "share",
                "half",
                "share: got `half`, expected a number".to_owned(),
            ),
            (
                "on",
                "maybe",
                "on: got `maybe`, expected true or false".to_owned(),
            ),
        ] {
            let quoted = match value {
                "[5, many]" => r#"[5, "many"]"#.to_owned(),
                word if word.contains(char::is_alphabetic) && word != "true" || word == "50%" => {
                    format!("{word:?}")
                }
                number => number.to_owned(),
            };
            let error = refused("a.yaml", &format!("- {field}: {value}\n"));
            assert!(error.starts_with("a.yaml:1:"), "{error}");
            assert!(error.ends_with(&format!(": [0].{message}")), "{error}");
            let error = refused("a.json", &format!("[{{\"{field}\":{quoted}}}]"));
            assert!(error.starts_with("a.json:1:"), "{error}");
            assert!(error.ends_with(&format!(": [0].{message}")), "{error}");
        }
    }

    #[test]
    fn a_list_or_a_map_in_the_wrong_place_is_told_so() {
        for (value, message) in [
            (
                "count: [1]",
                "[0].count: expected one value, not a list or a map",
            ),
            ("counts: 5", "[0].counts: expected a list"),
            ("5", "[0]: expected a map"),
        ] {
            let error = refused("a.yaml", &format!("- {value}\n"));
            assert!(error.ends_with(message), "{error}");
        }
        let error = refused("a.json", r#"[{"count":[1]}]"#);
        let message = "invalid type: sequence, expected a whole number from 0 to 4294967295";
        assert!(error.ends_with(message), "{error}");
    }
}
