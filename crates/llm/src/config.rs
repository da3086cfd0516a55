//! The `[llm]` settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nexus_config::{Kind, Setting};
use nexus_credential::Reference;
use reqwest::Url;
use serde::Deserialize;

use crate::domain::{breaker, catalogue, failure::Field, price::Price, retry};

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub default_provider: String,
    #[serde(default)]
    pub default_model: String,
    pub anthropic_base_url: String,
    pub openai_base_url: String,
    pub openrouter_base_url: String,
    pub gemini_base_url: String,
    pub ollama_base_url: String,
    pub lmstudio_base_url: String,
    #[serde(default)]
    pub endpoints: BTreeMap<String, String>,
    #[serde(default)]
    pub endpoint_kinds: BTreeMap<String, String>,
    pub openai_api: String,
    #[serde(default)]
    pub gateway_url: String,
    #[serde(default)]
    pub anthropic_key: String,
    #[serde(default)]
    pub openai_key: String,
    #[serde(default)]
    pub openrouter_key: String,
    #[serde(default)]
    pub gemini_key: String,
    #[serde(default)]
    pub endpoint_keys: BTreeMap<String, String>,
    #[serde(default)]
    pub omit_fields: BTreeMap<String, String>,
    pub credential_timeout: Duration,
    pub max_concurrent_requests: usize,
    pub max_waiting_requests: usize,
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    pub idle_timeout: Duration,
    pub request_timeout: Duration,
    pub max_retries: u32,
    pub retry_pause: Duration,
    pub longest_pause: Duration,
    pub longest_retry_after: Duration,
    pub breaker_failures: u32,
    pub breaker_rest: Duration,
    pub max_output_tokens: u32,
    pub daily_token_budget: u64,
    #[serde(default)]
    pub prices: BTreeMap<String, String>,
    pub offline_pace: Duration,
    #[serde(default)]
    pub offline_script: String,
}

pub fn settings() -> Vec<Setting> {
    let text = |key, default, help| Setting::new(key, Kind::Text, default, help).live();
    let time = |key, default, help| Setting::new(key, Kind::Duration, default, help).live();
    let count = |key, max, default, help| Setting::new(key, Kind::Int { min: 0, max }, default, help).live();
    vec![
        text(
            "default_provider",
            "",
            "who answers a request that names neither provider nor model",
        )
        .env(&["LLM_DEFAULT_PROVIDER"]),
        text("default_model", "", "the model of such a request, as provider/model").env(&["LLM_DEFAULT_MODEL"]),
        text(
            "anthropic_base_url",
            "https://api.anthropic.com",
            "where the Anthropic Messages API is",
        )
        .env(&["ANTHROPIC_BASE_URL"]),
        text(
            "openai_base_url",
            "https://api.openai.com/v1",
            "where the OpenAI API is",
        )
        .env(&["OPENAI_BASE_URL"]),
        text(
            "openrouter_base_url",
            "https://openrouter.ai/api/v1",
            "where the OpenRouter API is",
        )
        .env(&["OPENROUTER_BASE_URL"]),
        text(
            "gemini_base_url",
            "https://generativelanguage.googleapis.com",
            "where the Gemini API is",
        )
        .env(&["GEMINI_BASE_URL"]),
        text("ollama_base_url", "http://127.0.0.1:11434/v1", "where Ollama listens").env(&["OLLAMA_BASE_URL"]),
        text(
            "lmstudio_base_url",
            "http://127.0.0.1:1234/v1",
            "where LM Studio listens",
        )
        .env(&["LMSTUDIO_BASE_URL"]),
        Setting::new(
            "endpoints",
            Kind::Map,
            "",
            "further endpoints: name = base url",
        )
        .live(),
        Setting::new(
            "endpoint_kinds",
            Kind::Map,
            "",
            "which API an endpoint speaks: name = openai (OpenAI's chat API, as it comes), openai-responses, anthropic or \
             gemini",
        )
        .live(),
        text(
            "openai_api",
            "chat",
            "which API of OpenAI is asked: chat, or responses, where models that think keep their thoughts between tool calls",
        ),
        text(
            "gateway_url",
            "",
            "where an older gateway to models listens (its POST /v1/stream); it is the provider called gateway then",
        )
        .env(&["BAAAHT_LLM_GATEWAY_URL", "LLM_GATEWAY_URL"]),
        text(
            "anthropic_key",
            "",
            "where the key of Anthropic is, as keyring:..., op://..., file:..., env:... (see docs/CREDENTIALS.md); unset: \
             the environment, nexus models key, or the account anthropic/default",
        ),
        text("openai_key", "", "where the key of OpenAI is, likewise"),
        text("openrouter_key", "", "where the key of OpenRouter is, likewise"),
        text("gemini_key", "", "where the key of Gemini is, likewise"),
        Setting::new(
            "endpoint_keys",
            Kind::Map,
            "",
            "where the keys of ollama, lmstudio and further endpoints are: name = reference",
        )
        .live(),
        Setting::new(
            "omit_fields",
            Kind::Map,
            "",
            "fields that a provider does not take, left out of what it is sent: name = stream_options temperature; max_tokens \
             goes as max_completion_tokens then, and the other way round",
        )
        .live(),
        Setting::new(
            "credential_timeout",
            Kind::Duration,
            "20s",
            "how long a store of credentials may take to give a key",
        ),
        Setting::new(
            "max_concurrent_requests",
            Kind::Int { min: 1, max: 10_000 },
            "16",
            "requests answered at the same time",
        )
        .env(&["LLM_MAX_CONCURRENT_REQUESTS"]),
        count(
            "max_waiting_requests",
            100_000,
            "64",
            "requests that may wait for a place; more are refused",
        ),
        Setting::new(
            "connect_timeout",
            Kind::Duration,
            "10s",
            "how long a connection to a provider may take",
        ),
        time(
            "first_byte_timeout",
            "2m",
            "how long a provider may take before its first byte, or to load a model",
        ),
        time(
            "idle_timeout",
            "1m",
            "the longest silence within an answer; any byte ends it, also a comment or a ping",
        ),
        time("request_timeout", "1h", "the longest a whole request may take").env(&["LLM_TIMEOUT"]),
        count(
            "max_retries",
            10,
            "5",
            "further attempts with the same provider, before its first token only",
        ),
        time("retry_pause", "500ms", "the pause before the first of them; it doubles"),
        time(
            "longest_pause",
            "30s",
            "the longest pause of ours",
        ),
        time(
            "longest_retry_after",
            "2m",
            "the longest pause that a provider may ask for; one that asks for more is not asked again",
        ),
        count(
            "breaker_failures",
            1_000,
            "5",
            "failures in a row after which a provider is left alone; 0 is never",
        ),
        time("breaker_rest", "30s", "for how long"),
        Setting::new(
            "max_output_tokens",
            Kind::Int {
                min: 1,
                max: 10_000_000,
            },
            "4096",
            "length of an answer for which the request says nothing, where a provider insists on a limit",
        )
        .live(),
        count(
            "daily_token_budget",
            i64::MAX,
            "0",
            "tokens a day over all providers but the offline one; 0 means no limit",
        ),
        Setting::new(
            "prices",
            Kind::Map,
            "",
            "what models cost, instead of what we know: provider/model = dollars for a million tokens of input and of output, \
             then, where there is a cache, of reading and writing it",
        )
        .live(),
        time("offline_pace", "0s", "the offline model's pause between two words"),
        text(
            "offline_script",
            "",
            "a file with what the offline model says, tool calls included (docs/MODELS.md)",
        ),
    ]
}

/// Cross-field mistakes, all at once.
pub fn check(config: &Config) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, url) in config.urls() {
        if let Err(reason) = base_url(url) {
            wrong.push(format!("base url of {name}: {reason}"));
        }
    }
    for name in config.endpoints.keys() {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            wrong.push(format!("endpoints: name {name:?} is not made of a-z, 0-9, - and _"));
        } else if name == catalogue::GATEWAY {
            wrong.push("endpoints: gateway is built in; its address is llm.gateway_url".into());
        } else if catalogue::BUILT_IN.contains(&name.as_str()) {
            wrong.push(format!(
                "endpoints: {name} is built in; its address is llm.{name}_base_url"
            ));
        }
    }
    for (model, price) in &config.prices {
        if Price::parse(price).is_none() {
            wrong.push(format!(
                "prices.{model}: {price:?} is neither two nor four prices, such as \"3 15\""
            ));
        }
    }
    for (name, kind) in &config.endpoint_kinds {
        if !config.endpoints.contains_key(name) {
            wrong.push(format!("endpoint_kinds: {name} is none of llm.endpoints"));
        }
        if Api::parse(kind).is_none() {
            wrong.push(format!(
                "endpoint_kinds.{name}: {kind:?} is none of openai, openai-responses, anthropic, gemini"
            ));
        }
    }
    if !matches!(config.openai_api.as_str(), "chat" | "responses") {
        wrong.push(format!(
            "openai_api: {:?} is neither chat nor responses",
            config.openai_api
        ));
    }
    for (setting, provider, text) in config.key_settings() {
        // Never the text itself: people paste keys.
        if let Err(error) = text.parse::<Reference>() {
            wrong.push(format!(
                "{setting}: {error}; a key must not be in the settings; store it with: nexus credential add {provider}"
            ));
        }
        if !config.providers().iter().any(|known| known == provider) {
            wrong.push(format!("{setting}: no provider is called {provider}"));
        }
    }
    for (provider, fields) in &config.omit_fields {
        if !config.providers().contains(provider) {
            wrong.push(format!("omit_fields: no provider is called {provider}"));
        }
        for field in words(fields).filter(|field| Field::parse(field).is_none()) {
            let known = Field::ALL.map(Field::name).join(", ");
            wrong.push(format!("omit_fields.{provider}: {field:?} is none of {known}"));
        }
    }
    if !config.default_provider.is_empty() && !config.providers().contains(&config.default_provider) {
        wrong.push(format!(
            "default_provider: {:?} is none of {}",
            config.default_provider,
            config.providers().join(", ")
        ));
    }
    let times = [
        ("connect_timeout", config.connect_timeout),
        ("credential_timeout", config.credential_timeout),
        ("first_byte_timeout", config.first_byte_timeout),
        ("idle_timeout", config.idle_timeout),
        ("request_timeout", config.request_timeout),
    ];
    wrong.extend(
        times
            .iter()
            .filter(|(_, time)| time.is_zero())
            .map(|(name, _)| format!("{name}: cannot be 0")),
    );
    wrong
}

/// Without a `/` at the end. What is wrong is told without repeating the address: it could hold a password.
pub fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("is neither http nor https".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password; keys go into the key file".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or fragment".into());
    }
    Ok(url)
}

/// The API that a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Anthropic,
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    Gemini,
    /// The HTTP side of an older gateway.
    Gateway,
}

impl Api {
    /// Of an endpoint, as the settings name it.
    fn parse(kind: &str) -> Option<Self> {
        match kind {
            "openai" => Some(Self::Chat),
            "openai-responses" => Some(Self::Responses),
            "anthropic" => Some(Self::Anthropic),
            "gemini" => Some(Self::Gemini),
            _ => None,
        }
    }
}

impl Config {
    /// All providers by name; the order is the order of preference.
    pub fn providers(&self) -> Vec<String> {
        let built_in = catalogue::BUILT_IN.iter().map(ToString::to_string);
        let gateway = (!self.gateway_url.is_empty()).then(|| catalogue::GATEWAY.to_owned());
        built_in.chain(gateway).chain(self.endpoints.keys().cloned()).collect()
    }

    /// In whose words a provider is asked.
    pub fn api(&self, name: &str) -> Api {
        match name {
            catalogue::ANTHROPIC => Api::Anthropic,
            catalogue::GEMINI => Api::Gemini,
            catalogue::GATEWAY => Api::Gateway,
            catalogue::OPENAI if self.openai_api == "responses" => Api::Responses,
            name => self
                .endpoint_kinds
                .get(name)
                .and_then(|kind| Api::parse(kind))
                .unwrap_or(Api::Chat),
        }
    }

    pub fn urls(&self) -> Vec<(&str, &str)> {
        let built_in = [
            (catalogue::ANTHROPIC, &self.anthropic_base_url),
            (catalogue::OPENAI, &self.openai_base_url),
            (catalogue::OPENROUTER, &self.openrouter_base_url),
            (catalogue::GEMINI, &self.gemini_base_url),
            (catalogue::OLLAMA, &self.ollama_base_url),
            (catalogue::LMSTUDIO, &self.lmstudio_base_url),
        ];
        let built_in = built_in.into_iter().map(|(name, url)| (name, url.as_str()));
        let gateway = (!self.gateway_url.is_empty()).then_some((catalogue::GATEWAY, self.gateway_url.as_str()));
        built_in
            .chain(gateway)
            .chain(self.endpoints.iter().map(|(name, url)| (name.as_str(), url.as_str())))
            .collect()
    }

    /// What the settings say of keys: the setting, the provider, the reference.
    fn key_settings(&self) -> Vec<(String, &str, &str)> {
        let own = [
            (catalogue::ANTHROPIC, &self.anthropic_key),
            (catalogue::OPENAI, &self.openai_key),
            (catalogue::OPENROUTER, &self.openrouter_key),
            (catalogue::GEMINI, &self.gemini_key),
        ];
        let own = own
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (format!("{name}_key"), name, text.as_str()));
        let others = self
            .endpoint_keys
            .iter()
            .map(|(name, text)| (format!("endpoint_keys.{name}"), name.as_str(), text.as_str()));
        own.chain(others).collect()
    }

    /// Every provider that takes a key, and where the settings say that it is.
    pub fn keys(&self) -> BTreeMap<String, Option<Reference>> {
        let mut keys: BTreeMap<String, Option<Reference>> = self
            .providers()
            .into_iter()
            .filter(|name| !matches!(name.as_str(), catalogue::OFFLINE | catalogue::GATEWAY))
            .map(|name| (name, None))
            .collect();
        for (_, provider, text) in self.key_settings() {
            keys.insert(provider.to_owned(), text.parse().ok());
        }
        keys
    }

    /// Fields that a provider is not sent.
    pub fn omitted(&self, provider: &str) -> BTreeSet<Field> {
        let fields = self.omit_fields.get(provider).map_or("", String::as_str);
        words(fields).filter_map(Field::parse).collect()
    }

    pub fn retry(&self) -> retry::Policy {
        retry::Policy {
            retries: self.max_retries,
            base: self.retry_pause,
            longest: self.longest_pause,
            longest_asked: self.longest_retry_after,
        }
    }

    pub fn breaker(&self) -> breaker::Policy {
        breaker::Policy {
            failures: self.breaker_failures,
            rest: self.breaker_rest,
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',']).filter(|word| !word.is_empty())
}
