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
    tonic_prost_build::configure()
        .bytes(".grep11")
        .bytes(".hsm.tokens.v1")
        .skip_debug(WITH_SECRETS)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Messages that hold keys, PINs or what proves a login: `src/secrets.rs` has their `Debug`.
const WITH_SECRETS: [&str; 20] = [
    ".grep11.AttributeValue",
    ".grep11.DecryptSingleResponse",
    ".grep11.EncryptSingleRequest",
    ".grep11.GenerateRandomResponse",
    ".grep11.PBKDF2Parm",
    ".hsm.failover.v1.InviteResponse",
    ".hsm.kms.v1.CreateRootKeyRequest",
    ".hsm.kms.v1.RotateRequest",
    ".hsm.kms.v1.UnwrapResponse",
    ".hsm.kms.v1.WrapRequest",
    ".hsm.kms.v1.WrapResponse",
    ".hsm.tokens.v1.ChangesRequest",
    ".hsm.tokens.v1.DeleteObjectRequest",
    ".hsm.tokens.v1.InitPinRequest",
    ".hsm.tokens.v1.InitTokenRequest",
    ".hsm.tokens.v1.LoginRequest",
    ".hsm.tokens.v1.LoginResponse",
    ".hsm.tokens.v1.PutObjectRequest",
    ".hsm.tokens.v1.SetPinRequest",
    ".hsm.tokens.v1.TrustObjectRequest",
];
