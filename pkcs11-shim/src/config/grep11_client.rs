//! `grep11client.yaml`, the configuration file of IBM's PKCS #11 library, as far as it applies here: where the HSM
//! is, how to connect, and the API key. What it says of keystores and logs has no counterpart.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use hsm_emulator::units::Result;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::tls::TlsFiles;
use super::{ApiKey, Config, Endpoint, bad};

/// The file; other keys are left alone.
#[derive(Deserialize)]
struct File {
    /// By slot, in IBM's library. Tokens of this HSM are in slots of their own, so one connection is enough.
    tokens: BTreeMap<u64, Token>,
}

#[derive(Deserialize)]
struct Token {
    grep11connection: Connection,
    #[serde(default)]
    users: BTreeMap<u64, User>,
}

#[derive(Deserialize, PartialEq, Eq)]
struct Connection {
    address: String,
    port: Port,
    #[serde(default)]
    tls: TlsKeys,
}

/// A string in IBM's samples.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Text(String),
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(default)]
struct TlsKeys {
    enabled: bool,
    mutual: bool,
    cacert: Option<PathBuf>,
    certfile: Option<PathBuf>,
    keyfile: Option<PathBuf>,
}

impl Default for TlsKeys {
    fn default() -> Self {
        Self { enabled: true, mutual: false, cacert: None, certfile: None, keyfile: None }
    }
}

#[derive(Deserialize)]
struct User {
    iamauth: Option<IamAuth>,
}

#[derive(Deserialize)]
struct IamAuth {
    apikey: Option<Zeroizing<String>>,
}

/// Reads the file. `api_key` wins over the key that the file has: the anonymous user's, else another's.
///
/// # Errors
/// `CKR_FUNCTION_FAILED` with the reason.
pub fn load(path: &Path, api_key: Option<ApiKey>) -> Result<Config> {
    let fault = |text: String| bad(format!("{}: {text}", path.display()));
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|e| fault(format!("cannot be read: {e}")))?);
    // The parser's own words may quote the file, which has a key.
    let file: File = serde_saphyr::from_str(&text).map_err(|_| {
        fault("is no grep11client.yaml: it wants tokens, each with a grep11connection".into())
    })?;
    let mut tokens = file.tokens.into_values();
    let mut token = tokens.next().ok_or_else(|| fault("has no token".into()))?;
    if !tokens.all(|other| other.grep11connection == token.grep11connection) {
        return Err(fault("has tokens with several connections; this library connects to one HSM".into()));
    }
    let Connection { address, port, tls } = token.grep11connection;
    let address = if address.parse::<Ipv6Addr>().is_ok() { format!("[{address}]") } else { address };
    let scheme = if tls.enabled { "https" } else { "http" };
    let endpoint = Endpoint::parse(&format!("{scheme}://{address}:{}", port.text()))?;
    let files = TlsFiles {
        authority: given(tls.cacert),
        certificate: given(tls.certfile).filter(|_| tls.mutual),
        key: given(tls.keyfile).filter(|_| tls.mutual),
    };
    let anonymous = token.users.remove(&ANONYMOUS);
    let keys = anonymous.into_iter().chain(token.users.into_values()).filter_map(|user| user.iamauth?.apikey);
    let key = keys.into_iter().find(|key| !key.is_empty()).map(ApiKey);
    let api_key = api_key.or(key).ok_or_else(|| {
        fault(
            "has no apikey in the iamauth of any user, and neither HSM_API_KEY nor HSM_API_KEY_FILE is set"
                .into(),
        )
    })?;
    Ok(Config::Remote { endpoints: vec![endpoint], api_key, tls: files.read()? })
}

/// The number of the anonymous user, the only one whose key IBM's samples keep in the file.
const ANONYMOUS: u64 = 2;

/// Empty is as good as absent.
fn given(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

impl Port {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in IBM's documentation, with its anchors and merges.
    const SAMPLE: &str = r#"
iamcredentialtemplate: &defaultiamcredential
  enabled: true
  endpoint: "https://iam.cloud.ibm.com"
  apikey:
sessionauthtemplate: &defaultsessionauth
  enabled: false
  tokenspaceIDPassword:
tokens:
  0:
    grep11connection:
      address: "hsm.example"
      port: "9876"
      tls:
        enabled: true
        mutual: false
        cacert:
        certfile:
        keyfile:
    storage:
      remotestore:
        enabled: true
    users:
      0:
        name: "Administrator"
        iamauth: *defaultiamcredential
      2:
        name: "Anonymous"
        tokenspaceID: "ca22be26-b798-4fdf-8c83-3e3492dc0215"
        iamauth:
          <<: *defaultiamcredential
          apikey: "the key"
        sessionauth: *defaultsessionauth
logging:
  loglevel: debug
"#;

    fn load_text(text: &str, api_key: Option<ApiKey>) -> Result<Config> {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), text).expect("written");
        load(file.path(), api_key)
    }

    #[test]
    fn the_sample_says_where_the_hsm_is() {
        let Config::Remote { endpoints, api_key, tls } = load_text(SAMPLE, None).expect("valid") else {
            panic!("not remote")
        };
        assert_eq!(endpoints, [Endpoint::Tls("https://hsm.example:9876".into())]);
        assert_eq!(api_key.expose_secret(), "the key");
        assert_eq!(tls, super::super::tls::Tls::default());
        let own = || Some(ApiKey(Zeroizing::new("own".to_owned())));
        let Config::Remote { api_key, .. } = load_text(SAMPLE, own()).expect("valid") else {
            panic!("not remote")
        };
        assert_eq!(api_key.expose_secret(), "own");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_key() {
        let faults = [
            ("tokens: {}", "has no token"),
            ("tokens: the key", "is no grep11client.yaml"),
            (&SAMPLE.replace("the key", ""), "has no apikey"),
            (
                &SAMPLE.replace("mutual: false", "mutual: true").replace("certfile:", "certfile: /c"),
                "go together",
            ),
            (
                &SAMPLE.replace("enabled: true\n        mutual", "enabled: false\n        mutual"),
                "is not on this machine",
            ),
        ];
        for (text, wanted) in faults {
            let error = load_text(text, None).expect_err("refused").to_string();
            assert!(error.contains(wanted) && !error.contains("the key"), "{error}");
        }
    }
}
