use std::process::ExitCode;

fn main() -> ExitCode {
    nexus_sandbox::main()
}
