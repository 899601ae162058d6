//! Generates the client (and the server) from `api.proto` with a compiler in Rust: no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=api.proto");
    let files = protox::compile(["api.proto"], ["."])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .emit_rerun_if_changed(false)
        // Maps in order: what is sent is the same each time, and a test can compare it.
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
