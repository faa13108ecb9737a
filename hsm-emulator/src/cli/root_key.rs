//! `hsm-emulator root-key`: the life of root keys.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hsm_proto::kms;
use serde_json::{Value, json};
use tonic::Status;

use super::remote::Remote;
use super::{Error, Pretty, message};

/// What can be done with root keys.
#[derive(Subcommand)]
pub enum RootKey {
    /// Create a root key; with --material-file, import it.
    Create {
        #[command(flatten)]
        remote: Remote,
        /// 2 to 90 characters.
        #[arg(long)]
        name: String,
        /// File with 16, 24 or 32 bytes of key material.
        #[arg(long)]
        material_file: Option<PathBuf>,
    },
    /// List root keys.
    List {
        #[command(flatten)]
        remote: Remote,
        /// Destroyed ones too.
        #[arg(long)]
        all: bool,
    },
    /// Show a root key.
    Show(OneKey),
    /// Add a version; what older versions wrapped stays readable.
    Rotate {
        #[command(flatten)]
        key: OneKey,
        /// New material for an imported key.
        #[arg(long)]
        material_file: Option<PathBuf>,
    },
    /// Suspend: nothing can be wrapped or unwrapped until it is enabled.
    Disable(OneKey),
    /// Take a suspended key back into use.
    Enable(OneKey),
    /// Destroy: what it protected is lost for good.
    Delete(OneKey),
}

/// A root key of a server.
#[derive(Args)]
pub struct OneKey {
    #[command(flatten)]
    remote: Remote,
    /// Id or CRN.
    key: String,
}

/// Runs one.
pub async fn run(action: RootKey) -> Result<(), Error> {
    match action {
        RootKey::Create { remote, name, material_file } => {
            let material = read_material(material_file)?;
            let request = kms::CreateRootKeyRequest { name, material };
            let key = remote.connect().await?.create_root_key(request).await;
            show(&remote, key)
        }
        RootKey::List { remote, all } => list(remote, all).await,
        RootKey::Show(OneKey { remote, key }) => {
            let answer = remote.connect().await?.get_root_key(kms::GetRootKeyRequest { key }).await;
            show(&remote, answer)
        }
        RootKey::Rotate { key: OneKey { remote, key }, material_file } => {
            let material = read_material(material_file)?;
            let answer = remote.connect().await?.rotate(kms::RotateRequest { key, material }).await;
            show(&remote, answer)
        }
        RootKey::Disable(OneKey { remote, key }) => {
            let answer = remote.connect().await?.disable(kms::DisableRequest { key }).await;
            show(&remote, answer)
        }
        RootKey::Enable(OneKey { remote, key }) => {
            let answer = remote.connect().await?.enable(kms::EnableRequest { key }).await;
            show(&remote, answer)
        }
        RootKey::Delete(OneKey { remote, key }) => {
            let answer = remote.connect().await?.delete(kms::DeleteRequest { key }).await;
            show(&remote, answer)
        }
    }
}

async fn list(remote: Remote, all: bool) -> Result<(), Error> {
    let mut client = remote.connect().await?;
    let mut keys = Vec::new();
    loop {
        let request =
            kms::ListRootKeysRequest { limit: 1000, offset: keys.len() as u32, include_destroyed: all };
        let page = client.list_root_keys(request).await.map_err(message)?.into_inner();
        if page.keys.is_empty() {
            break;
        }
        keys.extend(page.keys);
    }
    if remote.json {
        println!("{}", Value::from_iter(keys.iter().map(to_json)).pretty());
        return Ok(());
    }
    let width = keys.iter().map(|key| key.name.chars().count()).max().unwrap_or(0).max("NAME".len());
    println!("{:<36}   {:<width$}   {:<11}   {:<8}   CREATED", "ID", "NAME", "STATE", "VERSIONS");
    for key in &keys {
        let (state, versions) = (state(key), key.versions.len());
        println!("{}   {:<width$}   {state:<11}   {versions:<8}   {}", key.id, key.name, key.created);
    }
    Ok(())
}

fn show(remote: &Remote, answer: Result<tonic::Response<kms::RootKey>, Status>) -> Result<(), Error> {
    let key = answer.map_err(message)?.into_inner();
    if remote.json {
        println!("{}", to_json(&key).pretty());
        return Ok(());
    }
    let lines = [
        ("id", key.id.clone()),
        ("crn", key.crn.clone()),
        ("name", key.name.clone()),
        ("state", state(&key)),
        ("material", format!("{}, {} bits", if key.imported { "imported" } else { "generated" }, key.bits)),
        ("versions", key.versions.len().to_string()),
        ("created", key.created.clone()),
        ("updated", key.updated.clone()),
    ];
    lines.iter().for_each(|(name, value)| println!("{name:<9} {value}"));
    Ok(())
}

fn to_json(key: &kms::RootKey) -> Value {
    let versions: Vec<Value> =
        key.versions.iter().map(|v| json!({ "id": v.id, "created": v.created })).collect();
    json!({
        "id": key.id, "crn": key.crn, "name": key.name, "state": state(key), "imported": key.imported,
        "bits": key.bits, "versions": versions, "created": key.created, "updated": key.updated,
        "rotated": key.rotated, "deleted": key.deleted,
    })
}

fn state(key: &kms::RootKey) -> String {
    key.state().as_str_name().to_lowercase()
}

fn read_material(path: Option<PathBuf>) -> Result<Vec<u8>, Error> {
    path.map_or(Ok(Vec::new()), |path| fs::read(&path).map_err(|e| format!("{}: {e}", path.display()).into()))
}
