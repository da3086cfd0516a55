//! Selects the provider and model of a request, and the fallbacks if the caller named any.
//!
//! A provider is chosen by the caller, else by the settings, else because it is the first one with a key, else it is
//! the offline model. One that the caller did not name never steps in for one that he did.

use super::{catalogue, error::Error};

/// What the daemon knows about itself when a request comes.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Every provider, in the order of preference.
    pub providers: Vec<String>,
    /// Those with a key in place.
    pub keyed: Vec<String>,
    /// Why the keys in the file cannot be known, if they cannot.
    pub key_trouble: Option<String>,
    pub default_provider: String,
    pub default_model: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub provider: String,
    pub model: String,
    /// The caller said the provider's name, so it is asked even while it rests.
    pub named: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub provider: &'a str,
    pub model: &'a str,
    pub fallbacks: &'a [String],
}

/// The first target and its fallbacks, never empty, each provider and model once.
pub fn route(asked: Asked<'_>, known: &Known) -> Result<Vec<Target>, Error> {
    let first = first(asked.provider.trim(), asked.model.trim(), known)?;
    let mut targets = vec![first];
    for fallback in asked
        .fallbacks
        .iter()
        .map(|name| name.trim())
        .filter(|name| !name.is_empty())
    {
        let target = fall_back(fallback, &targets[0], known)?;
        if !targets
            .iter()
            .any(|one| one.provider == target.provider && one.model == target.model)
        {
            targets.push(target);
        }
    }
    Ok(targets)
}

fn first(provider: &str, model: &str, known: &Known) -> Result<Target, Error> {
    match (provider.is_empty(), model.is_empty()) {
        (false, false) => of_provider(provider, model, known),
        (false, true) => default_of(provider, known, true),
        (true, false) => of_model(model, known),
        (true, true) => nothing_named(known),
    }
}

fn of_provider(provider: &str, model: &str, known: &Known) -> Result<Target, Error> {
    let provider = known.provider(provider)?;
    let prefix = model.split_once('/').map(|(prefix, _)| prefix);
    let foreign = prefix.filter(|prefix| *prefix != provider && known.has(prefix));
    // OpenRouter and local endpoints have models named after their makers.
    if let Some(foreign) = foreign.filter(|_| one_maker(&provider)) {
        return Err(Error::Invalid(format!(
            "model {model:?} belongs to {foreign}, but the request names provider {provider:?}"
        )));
    }
    Ok(Target {
        model: own_name(&provider, model),
        provider,
        named: true,
    })
}

fn of_model(model: &str, known: &Known) -> Result<Target, Error> {
    if let Some((prefix, _)) = model.split_once('/').filter(|(prefix, _)| known.has(prefix)) {
        return Ok(Target {
            provider: prefix.into(),
            model: own_name(prefix, model),
            named: true,
        });
    }
    if let Some(provider) = catalogue::provider_of(model).filter(|provider| known.has(provider)) {
        return Ok(Target {
            provider: provider.into(),
            model: model.into(),
            named: false,
        });
    }
    if !known.default_provider.is_empty() {
        let provider = known.provider(&known.default_provider)?;
        return Ok(Target {
            model: own_name(&provider, model),
            provider,
            named: false,
        });
    }
    match model.split_once('/') {
        Some((prefix, _)) => Err(known.unknown(prefix)),
        None => Err(Error::UnknownModel(model.into())),
    }
}

fn nothing_named(known: &Known) -> Result<Target, Error> {
    if !known.default_model.is_empty() {
        let target = match known.default_provider.as_str() {
            "" => of_model(&known.default_model, known)?,
            provider => of_provider(provider, &known.default_model, known)?,
        };
        return Ok(Target { named: false, ..target });
    }
    if let Some(trouble) = known
        .key_trouble
        .as_ref()
        .filter(|_| known.default_provider.is_empty() && known.keyed.is_empty())
    {
        // The offline model would tell a user to give a key that is there.
        return Err(Error::Keys(trouble.clone()));
    }
    let chosen = match known.default_provider.as_str() {
        "" => known
            .providers
            .iter()
            .find(|name| known.keyed.contains(name) && catalogue::default_model(name).is_some())
            .map_or(catalogue::OFFLINE, String::as_str),
        provider => provider,
    };
    default_of(chosen, known, false)
}

fn default_of(provider: &str, known: &Known, named: bool) -> Result<Target, Error> {
    let provider = known.provider(provider)?;
    let set = match known.default_model.split_once('/') {
        Some((prefix, _)) if prefix == provider => Some(own_name(&provider, &known.default_model)),
        None if known.default_provider == provider && !known.default_model.is_empty() => {
            Some(known.default_model.clone())
        }
        _ => None,
    };
    match set.or_else(|| catalogue::default_model(&provider).map(str::to_owned)) {
        Some(model) => Ok(Target { provider, model, named }),
        None => Err(Error::NoModel { provider }),
    }
}

/// A fallback is `provider` or `provider/model`. A bare provider is asked for the same model if it has it.
fn fall_back(name: &str, first: &Target, known: &Known) -> Result<Target, Error> {
    if known.has(name) {
        if catalogue::find(name, &first.model).is_some() {
            return Ok(Target {
                provider: name.into(),
                model: first.model.clone(),
                named: false,
            });
        }
        return default_of(name, known, false);
    }
    match name.split_once('/') {
        Some((prefix, _)) if known.has(prefix) => Ok(Target {
            provider: prefix.into(),
            model: own_name(prefix, name),
            named: false,
        }),
        Some((prefix, _)) => Err(known.unknown(prefix)),
        None => Err(known.unknown(name)),
    }
}

/// `provider/model` as that provider calls it.
fn own_name(provider: &str, model: &str) -> String {
    match model.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/')) {
        // OpenRouter's own models carry its name.
        Some(rest) if provider == catalogue::OPENROUTER && !rest.contains('/') => model.to_owned(),
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => model.to_owned(),
    }
}

fn one_maker(provider: &str) -> bool {
    matches!(
        provider,
        catalogue::ANTHROPIC | catalogue::OPENAI | catalogue::GEMINI | catalogue::OFFLINE
    )
}

impl Known {
    pub fn has(&self, name: &str) -> bool {
        self.providers.iter().any(|provider| provider == name)
    }

    pub fn unknown(&self, name: &str) -> Error {
        Error::UnknownProvider {
            name: name.into(),
            known: self.providers.join(", "),
        }
    }

    fn provider(&self, name: &str) -> Result<String, Error> {
        if self.has(name) {
            Ok(name.to_owned())
        } else {
            Err(self.unknown(name))
        }
    }
}

#[cfg(test)]
mod tests;
