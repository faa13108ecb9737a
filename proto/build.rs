//! Compiles the `.proto` files with a compiler written in Rust, so that nothing has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "proto/kms.proto",
        "proto/grep11.proto",
        "proto/tokens.proto",
        "proto/tke.proto",
        "proto/failover.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let descriptor_path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptor_path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".grep11").bytes(".hsm.tokens.v1").compile_fds(descriptors)?;
    Ok(())
}
