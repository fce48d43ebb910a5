//! From text to values.

use std::{io, marker::PhantomData, path::Path};

use serde::{
    Deserializer,
    de::{DeserializeOwned, DeserializeSeed},
};
use serde_path_to_error::Track;
use tower_mesh_layers::config::ConfigError;

use super::{error::FileError, eye, locate, words};

/// How a file is written, told by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.yaml`, `.yml`: YAML 1.2.
    Yaml,
    /// `.toml`: TOML 1.1.
    Toml,
    /// `.json`.
    Json,
}

/// The text of a file, to be read as a value.
///
/// ```
/// use std::path::Path;
/// use tower_mesh_discovery::document::Text;
/// use tower_mesh_layers::config::in_range;
///
/// let text = Text::new(Path::new("a.yaml"), "limits:\n  burst: 7000000\n")?;
/// let limits: std::collections::BTreeMap<String, std::collections::BTreeMap<String, u32>> = text.read()?;
///
/// let error = in_range("limits.burst", limits["limits"]["burst"], 1..=1_000_000).unwrap_err();
/// assert_eq!(
///     text.refuse(error).to_string(),
///     "a.yaml:2:10: limits.burst: got `7000000`, expected 1 to 1000000",
/// );
/// # Ok::<(), tower_mesh_discovery::document::FileError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    file: &'a Path,
    text: &'a str,
    format: Format,
}

/// What a parser refused, and where (line and column, from 1).
pub(super) struct Refused {
    pub(super) position: Option<(u64, u64)>,
    message: String,
}

/// Reads a `T` and notes how far into it the reading got.
struct Typed<'t, T>(&'t mut Track, PhantomData<T>);

// ===== impl Format =====

impl Format {
    /// The format that a file's extension names.
    ///
    /// # Errors
    ///
    /// For any other extension.
    pub fn of(file: &Path) -> Result<Self, ConfigError> {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("toml") => Ok(Self::Toml),
            Some("json") => Ok(Self::Json),
            _ => {
                let expected = ".yaml, .yml, .toml or .json";
                Err(ConfigError::new("extension", file.display(), expected))
            }
        }
    }

    /// Runs a deserializer of this format over `text`.
    pub(super) fn read<'de, S: DeserializeSeed<'de>>(
        self,
        text: &'de str,
        seed: S,
    ) -> Result<S::Value, Refused> {
        match self {
            Self::Yaml => {
                serde_saphyr::with_deserializer_from_str(text, |yaml| seed.deserialize(yaml))
                    .map_err(|error| {
                        let error = error.without_snippet();
                        Refused {
                            position: error.location().map(|at| (at.line(), at.column())),
                            message: error.to_string(),
                        }
                    })
            }
            Self::Toml => toml::Deserializer::parse(text)
                .and_then(|toml| seed.deserialize(toml))
                .map_err(|error| Refused {
                    position: error.span().map(|span| position(text, span.start)),
                    message: error.message().to_owned(),
                }),
            Self::Json => {
                let mut json = serde_json::Deserializer::from_str(text);
                let value = seed.deserialize(&mut json);
                value
                    .and_then(|value| json.end().map(|()| value))
                    .map_err(|error| Refused {
                        position: Some((error.line() as u64, error.column() as u64)),
                        message: error.to_string(),
                    })
            }
        }
    }
}

// ===== impl Text =====

impl<'a> Text<'a> {
    /// The text of a file, in the format that its extension names.
    ///
    /// # Errors
    ///
    /// For an extension that names none.
    pub fn new(file: &'a Path, text: &'a str) -> Result<Self, FileError> {
        match Format::of(file) {
            Ok(format) => Ok(Self { file, text, format }),
            Err(error) => Err(FileError::refused(file, None, error)),
        }
    }

    /// Reads the file as it is now, and makes a value of its text. Blocks.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or `make` refuses the text.
    pub fn load<T>(
        file: &Path,
        make: impl FnOnce(Text<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let text = eye::read(file);
        make_of(file, &text, make)
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// The first thing in the text that is no part of a `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, FileError> {
        let mut track = Track::new();
        let typed = Typed(&mut track, PhantomData);
        let value = self.format.read(self.text, typed).map_err(|refused| {
            let path = track.path().to_string();
            let value = || locate::value(self.format, self.text, &path);
            let message = words::plain(&refused.message, value);
            FileError::new(self.file, refused.position, path, message)
        })?;
        self.check_end()?;
        Ok(value)
    }

    /// YAML and TOML do not say where they end: `port: 80` may be the first half of `port: 8080`. So
    /// their last line must be whole. JSON ends with its last bracket.
    fn check_end(&self) -> Result<(), FileError> {
        if self.format == Format::Json || self.text.ends_with('\n') {
            return Ok(());
        }
        let last = self.text.lines().next_back().unwrap_or_default();
        let expected = "a line break after the last line: without it the file may be cut off";
        let error = ConfigError::new("", last, expected);
        Err(FileError::refused(self.file, None, error))
    }

    /// What is wrong with a value that was read from here, with the place where it stands.
    pub fn refuse(&self, error: ConfigError) -> FileError {
        let position = locate::locate(self.format, self.text, error.path());
        FileError::refused(self.file, position, error)
    }
}

/// Makes a value of what was read of a file.
pub(super) fn make_of<T>(
    file: &Path,
    text: &io::Result<String>,
    make: impl FnOnce(Text<'_>) -> Result<T, FileError>,
) -> Result<T, FileError> {
    match text {
        Ok(text) => make(Text::new(file, text)?),
        Err(error) => Err(FileError::unreadable(file, error)),
    }
}

// ===== impl Typed =====

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Typed<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(serde_path_to_error::Deserializer::new(deserializer, self.0))
    }
}

/// Line and column of a byte, from 1.
fn position(text: &str, byte: usize) -> (u64, u64) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line as u64, before[line_start..].chars().count() as u64 + 1)
}
