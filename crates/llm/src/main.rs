use std::process::ExitCode;

fn main() -> ExitCode {
    nexus_daemon::main::<nexus_llm::Llm>()
}
