//! Every setting of every installed daemon, by name.

use nexus_config::{Described, nearest};

use super::ask::{self, Program};
use crate::failure::{Exit, Failure};

#[derive(Debug)]
pub struct Catalogue {
    pub programs: Vec<Program>,
    /// Daemons that are not installed here; their settings are not known.
    pub missing: Vec<String>,
    /// Shared ones first, then daemon by daemon, each in its own order.
    pub settings: Vec<Described>,
}

impl Catalogue {
    pub async fn load() -> Result<Catalogue, Failure> {
        let (programs, missing) = ask::programs()?;
        let schemas = ask::schemas(&programs).await?;
        let mut settings: Vec<Described> = Vec::new();
        // All daemons have the shared table; it is told once.
        let all = schemas.iter().flat_map(|schema| &schema.settings);
        for setting in all
            .clone()
            .filter(|setting| setting.section == "common")
            .chain(all.filter(|setting| setting.section != "common"))
        {
            if !settings
                .iter()
                .any(|known| known.section == setting.section && known.key == setting.key)
            {
                settings.push(setting.clone());
            }
        }
        Ok(Catalogue {
            programs,
            missing,
            settings,
        })
    }

    /// By `section.key`, by a key that only one section has, or by another spelling of either.
    pub fn find(&self, name: &str) -> Result<&Described, Failure> {
        let (section, key) = match name.split_once('.') {
            Some((section, key)) => (Some(section), key),
            None => (None, name),
        };
        let fits = |setting: &&Described| {
            section.is_none_or(|section| section == setting.section)
                && (setting.key == key || setting.aliases.iter().any(|alias| alias == key))
        };
        let found: Vec<&Described> = self.settings.iter().filter(fits).collect();
        match found.as_slice() {
            [one] => Ok(one),
            [] => Err(self.unknown(name)),
            several => {
                let names: Vec<String> = several.iter().map(|setting| setting.name()).collect();
                Err(Failure::usage(format!("several daemons have a setting named {name}"))
                    .hint(format!("name one of: {}", names.join(", "))))
            }
        }
    }

    fn unknown(&self, name: &str) -> Failure {
        let failure = Failure::new(Exit::NotFound, format!("there is no setting named {name}"));
        let full: Vec<String> = self.settings.iter().map(Described::name).collect();
        let bare = self.settings.iter().map(|setting| setting.key.as_str());
        if let Some(near) = nearest(name, full.iter().map(String::as_str).chain(bare)) {
            return failure.hint(format!("did you mean {near}? see all with: nexus config list"));
        }
        let absent = name.split_once('.').map(|(section, _)| format!("nexus-{section}"));
        match absent.filter(|program| self.missing.contains(program)) {
            Some(program) => failure.hint(format!(
                "{program} is not installed here, so its settings are not known"
            )),
            None => failure.hint("see all with: nexus config list"),
        }
    }

    /// The daemons that read a section.
    pub fn readers(&self, section: &str) -> Vec<Program> {
        let reads = |program: &&Program| section == "common" || program.daemon == section;
        self.programs.iter().filter(reads).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use nexus_config::{Kind, Schema, Setting};

    use super::*;

    fn catalogue() -> Catalogue {
        let path = |key| Setting::new(key, Kind::Path, "", "where");
        let schemas = [
            Schema::new(
                "common",
                vec![Setting::new("max_bytes", Kind::Size, "1B", "most").alias(&["MaxBytes"])],
            ),
            Schema::new("llm", vec![path("socket_path")]),
            Schema::new("agent", vec![path("socket_path")]),
        ];
        Catalogue {
            programs: Vec::new(),
            missing: vec!["nexus-gateway".into()],
            settings: schemas.iter().flat_map(Schema::describe).collect(),
        }
    }

    #[test]
    fn a_setting_is_found_by_every_name_it_has() {
        let catalogue = catalogue();
        for name in ["common.max_bytes", "max_bytes", "MaxBytes", "common.MaxBytes"] {
            assert_eq!(catalogue.find(name).unwrap().name(), "common.max_bytes");
        }
        let two = catalogue.find("socket_path").unwrap_err();
        assert_eq!(two.exit, Exit::Usage);
        assert!(two.hint.unwrap().contains("llm.socket_path, agent.socket_path"));
    }

    #[test]
    fn an_unknown_name_brings_the_nearest_or_says_who_is_missing() {
        let catalogue = catalogue();
        let hint = |name: &str| catalogue.find(name).unwrap_err().hint.unwrap();
        assert!(hint("llm.sockt_path").contains("did you mean llm.socket_path?"));
        assert!(hint("gateway.zzz").contains("nexus-gateway is not installed"));
        assert!(hint("bananas").contains("nexus config list"));
    }
}
