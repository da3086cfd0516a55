//! How far a run may go before the command that follows it ends it.

use nexus_proto::common::v1::TokenUsage;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub steps: Option<i32>,
    pub tokens: Option<i64>,
}

impl Limits {
    /// The limit that is passed, in words.
    pub fn passed(&self, step: i32, usage: Option<&TokenUsage>) -> Option<String> {
        if let Some(most) = self.steps
            && step > most
        {
            return Some(format!("the limit of {most} steps (--max-steps) is reached"));
        }
        let used = usage.map_or(0, total);
        match self.tokens {
            Some(most) if used > most => Some(format!("{used} tokens are more than the budget of {most} (--budget)")),
            _ => None,
        }
    }
}

/// Providers do not all say the sum.
pub fn total(usage: &TokenUsage) -> i64 {
    let sum = i64::from(usage.input_tokens) + i64::from(usage.output_tokens);
    sum.max(usage.total_tokens.into())
}

/// A number of tokens, as `50000`, `50k` or `1.5M`.
pub fn tokens(text: &str) -> Result<i64, String> {
    let wrong = || "write a number of tokens, such as 50000, 50k or 1.5M".to_owned();
    let (number, unit) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => match text.strip_suffix(['m', 'M']) {
            Some(number) => (number, 1e6),
            None => (text, 1.0),
        },
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let tokens = number * unit;
    if !(1.0..=1e15).contains(&tokens) {
        return Err(wrong());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is within the range that was just looked at"
    )]
    Ok(tokens as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_is_passed_is_named() {
        let limits = Limits {
            steps: Some(3),
            tokens: Some(1_000),
        };
        let used = |input_tokens, output_tokens| TokenUsage {
            input_tokens,
            output_tokens,
            total_tokens: 0,
        };
        assert_eq!(limits.passed(3, Some(&used(900, 100))), None);
        assert!(limits.passed(4, None).unwrap().contains("--max-steps"));
        assert!(limits.passed(1, Some(&used(900, 101))).unwrap().contains("1001"));
        assert_eq!(Limits::default().passed(1_000, Some(&used(i32::MAX, i32::MAX))), None);
    }

    #[test]
    fn numbers_of_tokens_have_units() {
        assert_eq!(tokens("50000"), Ok(50_000));
        assert_eq!(tokens("50k"), Ok(50_000));
        assert_eq!(tokens("1.5M"), Ok(1_500_000));
        for wrong in ["", "k", "-1", "0", "1e99", "ten", "inf", "nan"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }
}
