//! The models we know without asking anyone. Providers add to it what they list themselves; a model that is not here is
//! still asked for under the name the caller gave.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The provider's own name for it, without a prefix.
    pub id: String,
    pub name: String,
    pub provider: String,
    /// In tokens; `None` where the provider does not say.
    pub context_window: Option<u32>,
    pub max_output: Option<u32>,
    pub tools: bool,
    pub vision: bool,
    pub thinking: bool,
}

pub const OFFLINE: &str = "offline";
pub const OFFLINE_MODEL: &str = "nexus-offline-1";
/// What the offline model is called too where it has a script.
pub const SCRIPT_MODEL: &str = "script";
pub const ANTHROPIC: &str = "anthropic";
pub const OPENAI: &str = "openai";
pub const OPENROUTER: &str = "openrouter";
pub const GEMINI: &str = "gemini";
/// An older gateway to models, where its address is set.
pub const GATEWAY: &str = "gateway";
pub const OLLAMA: &str = "ollama";
pub const LMSTUDIO: &str = "lmstudio";

/// Providers that are always there, in the order in which one is chosen when nothing was named.
pub const BUILT_IN: [&str; 7] = [ANTHROPIC, OPENAI, OPENROUTER, GEMINI, OLLAMA, LMSTUDIO, OFFLINE];

struct Known {
    provider: &'static str,
    id: &'static str,
    name: &'static str,
    context_window: u32,
    max_output: u32,
    vision: bool,
    thinking: bool,
}

const fn known(
    provider: &'static str,
    id: &'static str,
    name: &'static str,
    context_window: u32,
    max_output: u32,
) -> Known {
    Known {
        provider,
        id,
        name,
        context_window,
        max_output,
        vision: true,
        thinking: false,
    }
}

const fn thinking(model: Known) -> Known {
    Known {
        thinking: true,
        ..model
    }
}

const TABLE: &[Known] = &[
    thinking(known(
        ANTHROPIC,
        "claude-opus-5-5",
        "Claude Opus 5.5",
        1_000_000,
        128_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-sonnet-5-5",
        "Claude Sonnet 5.5",
        1_000_000,
        128_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-haiku-5-5",
        "Claude Haiku 5.5",
        1_000_000,
        128_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-fable-5-1",
        "Claude Fable 5.1",
        1_000_000,
        128_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-opus-4-5-20251101",
        "Claude Opus 4.5",
        200_000,
        64_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-sonnet-4-5-20250929",
        "Claude Sonnet 4.5",
        200_000,
        64_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-haiku-4-5-20251001",
        "Claude Haiku 4.5",
        200_000,
        64_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-opus-4-1-20250805",
        "Claude Opus 4.1",
        200_000,
        32_000,
    )),
    thinking(known(
        ANTHROPIC,
        "claude-sonnet-4-20250514",
        "Claude Sonnet 4",
        200_000,
        64_000,
    )),
    known(
        ANTHROPIC,
        "claude-3-5-sonnet-20241022",
        "Claude 3.5 Sonnet",
        200_000,
        8_192,
    ),
    known(
        ANTHROPIC,
        "claude-3-5-haiku-20241022",
        "Claude 3.5 Haiku",
        200_000,
        8_192,
    ),
    known(OPENAI, "gpt-4o", "GPT-4o", 128_000, 16_384),
    known(OPENAI, "gpt-4o-mini", "GPT-4o mini", 128_000, 16_384),
    known(OPENAI, "gpt-4.1", "GPT-4.1", 1_047_576, 32_768),
    known(OPENAI, "gpt-4.1-mini", "GPT-4.1 mini", 1_047_576, 32_768),
    thinking(known(OPENAI, "gpt-5", "GPT-5", 400_000, 128_000)),
    thinking(known(OPENAI, "gpt-5-mini", "GPT-5 mini", 400_000, 128_000)),
    thinking(known(OPENAI, "o3", "o3", 200_000, 100_000)),
    thinking(known(OPENAI, "o4-mini", "o4-mini", 200_000, 100_000)),
    thinking(known(GEMINI, "gemini-3-pro-preview", "Gemini 3 Pro", 1_048_576, 65_536)),
    thinking(known(GEMINI, "gemini-2.5-pro", "Gemini 2.5 Pro", 1_048_576, 65_536)),
    thinking(known(GEMINI, "gemini-2.5-flash", "Gemini 2.5 Flash", 1_048_576, 65_536)),
    Known {
        provider: OFFLINE,
        id: OFFLINE_MODEL,
        name: "Nexus offline (no language model)",
        context_window: 1_000_000,
        max_output: 100_000,
        vision: false,
        thinking: false,
    },
];

pub fn models(provider: &str) -> Vec<Model> {
    TABLE
        .iter()
        .filter(|known| known.provider == provider)
        .map(model)
        .collect()
}

pub fn find(provider: &str, id: &str) -> Option<Model> {
    TABLE
        .iter()
        .find(|known| known.provider == provider && known.id == id)
        .map(model)
}

fn model(known: &Known) -> Model {
    Model {
        id: known.id.into(),
        name: known.name.into(),
        provider: known.provider.into(),
        context_window: Some(known.context_window),
        max_output: Some(known.max_output),
        tools: known.provider != OFFLINE,
        vision: known.vision,
        thinking: known.thinking,
    }
}

/// The provider that a model named without one belongs to.
pub fn provider_of(id: &str) -> Option<&'static str> {
    if let Some(known) = TABLE.iter().find(|known| known.id == id) {
        return Some(known.provider);
    }
    const FAMILIES: [(&str, &str); 7] = [
        ("claude", ANTHROPIC),
        ("gpt-", OPENAI),
        ("chatgpt-", OPENAI),
        ("o1", OPENAI),
        ("o3", OPENAI),
        ("o4", OPENAI),
        ("gemini-", GEMINI),
    ];
    FAMILIES
        .iter()
        .find(|(prefix, _)| id.starts_with(prefix))
        .map(|(_, provider)| *provider)
}

/// What a provider is asked for when nobody named a model. Endpoints that serve whatever was loaded have none.
pub fn default_model(provider: &str) -> Option<&'static str> {
    match provider {
        ANTHROPIC => Some("claude-sonnet-4-20250514"),
        OPENAI => Some("gpt-4o"),
        OPENROUTER => Some("openrouter/auto"),
        GEMINI => Some("gemini-2.5-flash"),
        OFFLINE => Some(OFFLINE_MODEL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_with_a_list_is_in_it() {
        for provider in [ANTHROPIC, OPENAI, GEMINI, OFFLINE] {
            let default = default_model(provider).expect("has one");
            assert!(find(provider, default).is_some(), "{provider}/{default}");
            assert_eq!(provider_of(default), Some(provider));
        }
    }

    #[test]
    fn the_models_existing_clients_ask_for_are_known() {
        for (provider, id) in [
            (ANTHROPIC, "claude-sonnet-4-20250514"),
            (ANTHROPIC, "claude-3-5-sonnet-20241022"),
            (OPENAI, "gpt-4o"),
        ] {
            assert!(find(provider, id).is_some());
        }
    }
}
