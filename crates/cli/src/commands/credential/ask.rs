use std::io::{self, IsTerminal, Read};

use nexus_credential::Secret;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};

const LONGEST: usize = 64 * 1024;

/// Typed without echo, or all of standard input: a secret may have several lines.
pub fn secret(of: &str) -> Result<Secret, Failure> {
    let failed = |error: io::Error| Failure::new(Exit::Failed, format!("failed to read the secret: {error}"));
    let text = if io::stdin().is_terminal() {
        Zeroizing::new(rpassword::prompt_password(format!("Secret of {of} (not shown): ")).map_err(failed)?)
    } else {
        let mut text = Zeroizing::new(String::with_capacity(LONGEST + 1));
        let most = u64::try_from(LONGEST + 1).expect("it is a small number");
        io::stdin()
            .lock()
            .take(most)
            .read_to_string(&mut text)
            .map_err(failed)?;
        text
    };
    if text.len() > LONGEST {
        return Err(Failure::usage("that is too long for a secret; nothing changed"));
    }
    Secret::of(&text).ok_or_else(|| Failure::usage("no secret was given; nothing changed"))
}
