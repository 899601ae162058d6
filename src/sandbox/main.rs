//! The process of one Wasm container. Started by the agent, with three descriptors and no argument.

fn main() {
    copepod_sandbox::run()
}
