//! Which names and values look like secrets. It decides by their looks only and asks nobody.

/// Variables that are known to hold a secret, and the service each is for.
pub const KNOWN: [(&str, &str); 14] = [
    ("ANTHROPIC_API_KEY", "anthropic"),
    ("OPENAI_API_KEY", "openai"),
    ("OPENROUTER_API_KEY", "openrouter"),
    ("GEMINI_API_KEY", "gemini"),
    ("BRAVE_API_KEY", "brave"),
    ("GITHUB_TOKEN", "github"),
    ("COPILOT_GITHUB_TOKEN", "copilot"),
    ("DISCORD_BOT_TOKEN", "discord"),
    ("TELEGRAM_BOT_TOKEN", "telegram"),
    ("SLACK_BOT_TOKEN", "slack"),
    ("ZAI_API_KEY", "zai"),
    ("MINIMAX_API_KEY", "minimax"),
    ("NEXUS_CLOUD_TOKEN", "nexus-cloud"),
    ("NEXUS_HUB_TOKEN", "nexus-hub"),
];

const WORDS: [&str; 8] = [
    "APIKEY",
    "API_KEY",
    "API-KEY",
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "CREDENTIAL",
    "AUTH",
];
const BEGINNINGS: [&str; 10] = [
    "sk-",
    "xoxb-",
    "xoxa-",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "ghp_",
    "gho_",
    "github_pat_",
    "AIza",
];
const SHORTEST: usize = 8;
/// So many letters and digits without a break are rarely anything else.
const RANDOM: usize = 40;

/// The service a variable belongs to; of an unknown name that looks like a secret's, a guess.
pub fn service_of(variable: &str) -> String {
    if let Some((_, service)) = KNOWN.iter().find(|(name, _)| *name == variable) {
        return (*service).to_owned();
    }
    let lower = variable.to_ascii_lowercase().replace('_', "-");
    let endings = [
        "-api-key",
        "-apikey",
        "-bot-token",
        "-access-token",
        "-token",
        "-secret",
        "-password",
        "-key",
    ];
    let service = endings.iter().find_map(|ending| lower.strip_suffix(ending));
    service.filter(|rest| !rest.is_empty()).unwrap_or(&lower).to_owned()
}

/// Whether this variable is known to hold the secret of a service.
pub fn is_known(variable: &str) -> bool {
    KNOWN.iter().any(|(name, _)| *name == variable)
}

/// Whether a variable of any name looks as if it held a secret.
pub fn looks_secret(variable: &str, value: &str) -> bool {
    let value = value.trim();
    let name = variable.to_ascii_uppercase();
    let path = value.starts_with(['/', '~', '.']) || value.contains("://");
    if value.len() < SHORTEST || path || value.contains(char::is_whitespace) {
        return false;
    }
    let named = WORDS.iter().any(|word| name.contains(word));
    let begins = BEGINNINGS.iter().any(|beginning| value.starts_with(beginning));
    let random = value.len() >= RANDOM && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    named || begins || random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_service() {
        assert_eq!(service_of("ANTHROPIC_API_KEY"), "anthropic");
        assert_eq!(service_of("ACME_ACCESS_TOKEN"), "acme");
        assert_eq!(service_of("TOKEN"), "token");
    }

    #[test]
    fn looks_decide() {
        assert!(looks_secret("ACME_TOKEN", "12345678"));
        assert!(looks_secret("X", "ghp_0123456789"));
        assert!(looks_secret("X", &"a1".repeat(20)));
        assert!(!looks_secret("SSH_AUTH_SOCK", "/run/agent.sock"));
        assert!(!looks_secret("ACME_TOKEN", "short"));
        assert!(!looks_secret("EDITOR", "emacsclient"));
        assert!(!looks_secret("TOKEN_URL", "https://example.com/token"));
    }
}
