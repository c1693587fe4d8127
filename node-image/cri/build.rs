//! Compiles the interface definitions in `proto/` without an external compiler.

use std::error::Error;

const PROTOS: [&str; 6] =
    ["cri.proto", "csi.proto", "deviceplugin.proto", "pluginregistration.proto", "events.proto", "health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().build_server(true).compile_fds(descriptors)?;
    Ok(())
}
