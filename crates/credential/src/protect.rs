//! For a process that holds secrets: what the system may write down of its memory, and who may look into it.

use nix::sys::resource::{Resource, setrlimit};

/// No core dump, and no other process of the same user may attach or read its memory. Children begin as usual:
/// the first is inherited, the second is not.
pub fn process() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| format!("failed to switch core dumps off: {error}"))?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false).map_err(|error| format!("failed to shut this process off: {error}"))?;
    Ok(())
}
