//! Compiles the interface of key-management plugins in `proto/` without an external compiler.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["kms.proto"], ["proto"])?;
    // Tests stand in for a plugin, hence the server's side. Ordered maps: what is written is always the same.
    tonic_prost_build::configure().build_server(true).btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
