//! `nodebootstrap-agent`: see `nodebootstrap-agent --help`.

fn main() -> std::process::ExitCode {
    node_agent::cli::main()
}
