//! What the command line asks for.

use std::path::PathBuf;

use tower_mesh::discovery::{
    document::Text,
    sim::{Law, Scenario},
};

use crate::{Result, scenes};

pub struct Options {
    pub seeds: usize,
    /// The first of them.
    pub from: u64,
    law: Option<Law>,
    file: Option<PathBuf>,
    /// How the names of the scenes begin.
    begins: String,
}

impl Options {
    /// # Errors
    ///
    /// For an option that is not known, and a value that cannot be read.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            seeds: 20,
            from: 1,
            law: None,
            file: None,
            begins: String::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--seeds" => options.seeds = value()?.parse()?,
                "--from" => options.from = value()?.parse()?,
                "--law" => options.law = Some(law(&value()?)?),
                "--scenario" => options.file = Some(value()?.into()),
                flag if flag.starts_with('-') => {
                    let known = "--seeds, --from, --law and --scenario";
                    return Err(format!("there is no {flag}: only {known}").into());
                }
                _ => options.begins = argument,
            }
        }
        if options.seeds == 0 {
            return Err("--seeds: got `0`, expected at least 1".into());
        }
        Ok(options)
    }

    /// # Errors
    ///
    /// When there is no such scene, or the file cannot be used.
    pub fn scenarios(&self) -> Result<Vec<Scenario>> {
        let mut scenarios = match &self.file {
            Some(file) => {
                vec![Text::load(file, |text| text.read::<Scenario>())?]
            }
            None => scenes::all(),
        };
        scenarios.retain(|scenario| scenario.name.starts_with(&self.begins));
        if scenarios.is_empty() {
            return Err(format!("no scene begins with {:?}", self.begins).into());
        }
        if let Some(law) = self.law {
            scenarios.iter_mut().for_each(|scenario| scenario.law = law);
        }
        Ok(scenarios)
    }
}

fn law(name: &str) -> Result<Law> {
    let found = Law::ALL.into_iter().find(|law| law.name() == name);
    let names = Law::ALL.map(Law::name).join(", ");
    found.ok_or_else(|| format!("--law: got `{name}`, expected one of {names}").into())
}
