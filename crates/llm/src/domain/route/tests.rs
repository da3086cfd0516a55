use proptest::prelude::*;

use super::*;

fn known(keyed: &[&str]) -> Known {
    let mut providers: Vec<String> = catalogue::BUILT_IN.map(String::from).to_vec();
    providers.push("rack".into());
    Known {
        providers,
        keyed: keyed.iter().map(ToString::to_string).collect(),
        ..Known::default()
    }
}

fn ask(provider: &str, model: &str, fallbacks: &[&str], known: &Known) -> Result<Vec<String>, Error> {
    let fallbacks: Vec<String> = fallbacks.iter().map(ToString::to_string).collect();
    let targets = route(
        Asked {
            provider,
            model,
            fallbacks: &fallbacks,
        },
        known,
    )?;
    Ok(targets
        .iter()
        .map(|target| format!("{} {}", target.provider, target.model))
        .collect())
}

#[test]
fn names_lead_to_their_provider() {
    let known = known(&[]);
    for (provider, model, want) in [
        (
            "",
            "anthropic/claude-sonnet-4-20250514",
            "anthropic claude-sonnet-4-20250514",
        ),
        ("", "openai/gpt-4o", "openai gpt-4o"),
        ("", "claude-next", "anthropic claude-next"),
        ("", "gpt-4o", "openai gpt-4o"),
        ("", "offline/nexus-offline-1", "offline nexus-offline-1"),
        ("", "ollama/llama3.2:3b", "ollama llama3.2:3b"),
        ("", "rack/meta/llama", "rack meta/llama"),
        ("", "openrouter/auto", "openrouter openrouter/auto"),
        ("", "openrouter/anthropic/claude-x", "openrouter anthropic/claude-x"),
        ("openrouter", "anthropic/claude-x", "openrouter anthropic/claude-x"),
        ("anthropic", "anthropic/claude-x", "anthropic claude-x"),
        ("openai", "", "openai gpt-4o"),
    ] {
        assert_eq!(
            ask(provider, model, &[], &known).expect(model),
            [want],
            "{provider} {model}"
        );
    }
}

#[test]
fn nothing_named_is_the_setting_then_a_key_then_offline() {
    assert_eq!(
        ask("", "", &[], &known(&[])).expect("offline"),
        ["offline nexus-offline-1"]
    );
    assert_eq!(
        ask("", "", &[], &known(&["openai", "openrouter"])).expect("keyed"),
        ["openai gpt-4o"]
    );
    let mut settings = known(&["openai"]);
    settings.default_model = "ollama/llama3".into();
    assert_eq!(ask("", "", &[], &settings).expect("set"), ["ollama llama3"]);
    settings.default_model = "llama3".into();
    settings.default_provider = "rack".into();
    assert_eq!(ask("", "", &[], &settings).expect("set"), ["rack llama3"]);
    assert_eq!(ask("rack", "", &[], &settings).expect("set"), ["rack llama3"]);
}

#[test]
fn what_cannot_be_decided_is_said() {
    let known = known(&["anthropic"]);
    assert!(matches!(ask("", "nobody/x", &[], &known), Err(Error::UnknownProvider { name, .. }) if name == "nobody"));
    assert!(matches!(
        ask("nobody", "", &[], &known),
        Err(Error::UnknownProvider { .. })
    ));
    assert_eq!(
        ask("", "mystery", &[], &known),
        Err(Error::UnknownModel("mystery".into()))
    );
    assert_eq!(
        ask("ollama", "", &[], &known),
        Err(Error::NoModel {
            provider: "ollama".into()
        })
    );
    assert!(matches!(
        ask("anthropic", "openai/gpt-4o", &[], &known),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        ask("", "gpt-4o", &["nobody"], &known),
        Err(Error::UnknownProvider { .. })
    ));
}

#[test]
fn fallbacks_come_in_the_callers_order_and_once() {
    let known = known(&[]);
    let targets = ask(
        "",
        "anthropic/claude-x",
        &["openai", "ollama/llama3", "openai", "offline"],
        &known,
    );
    assert_eq!(
        targets.expect("route"),
        [
            "anthropic claude-x",
            "openai gpt-4o",
            "ollama llama3",
            "offline nexus-offline-1"
        ]
    );
}

proptest! {
    /// Only the caller's words, the settings, a key or the offline model lead to a provider.
    #[test]
    fn no_provider_steps_in_unasked(
        provider in prop_oneof![Just(""), Just("anthropic"), Just("ollama"), Just("rack")],
        model in prop_oneof![Just(""), Just("gpt-4o"), Just("openai/gpt-4o"), Just("x"), Just("rack/x")],
        fallbacks in proptest::collection::vec(prop_oneof![Just("openrouter"), Just("offline")], 0..3),
    ) {
        let fallbacks: Vec<String> = fallbacks.iter().map(ToString::to_string).collect();
        let known = known(&["anthropic", "openai"]);
        if let Ok(targets) = route(Asked { provider, model, fallbacks: &fallbacks }, &known) {
            prop_assert!(!targets.is_empty());
            if !provider.is_empty() {
                prop_assert_eq!(&targets[0].provider, provider);
            }
            for target in &targets[1..] {
                prop_assert!(fallbacks.contains(&target.provider));
            }
        }
    }

    #[test]
    fn any_words_are_answered(provider in ".{0,12}", model in ".{0,20}", fallback in ".{0,12}") {
        let _ = route(Asked { provider: &provider, model: &model, fallbacks: &[fallback] }, &known(&[]));
    }
}
