//! Where the HSM is: in this process or elsewhere.
//!
//! | environment | TOML key | meaning |
//! |---|---|---|
//! | `HSM_PKCS11_CONFIG` | | path of a TOML file with the keys below |
//! | | `backend` | `"embedded"` or `"remote"` |
//! | `HSM_PKCS11_STATE` | `state` | state directory of the embedded HSM |
//! | `HSM_GRPC_ENDPOINT` | `endpoints` | the regions of a remote HSM, home first (comma-separated in the environment); a lost one is left for the next, and come back to |
//! | `HSM_API_KEY` | | API key for the remote HSM |
//! | `HSM_API_KEY_FILE` | `api_key_file` | a file with it |
//! | `HSM_CA_FILE` | `ca_file` | for `https://` endpoints: the authority of their certificates, in PEM; without, those that the system trusts |
//! | `HSM_CLIENT_CERTIFICATE_FILE` | `client_certificate_file` | the application's certificate, in PEM, for an HSM that wants one |
//! | `HSM_CLIENT_KEY_FILE` | `client_key_file` | its private key |
//! | `HSM_PKCS11_TRACE` | | `stderr`, or a file: a line for each call ([`crate::trace`]) |
//! | `EP11CLIENT_CFG` | | path of a `grep11client.yaml`, if nothing above says where the HSM is ([`grep11_client`]) |
//!
//! The environment wins over the file. Nothing set: embedded, under the user's data directory.
//!
//! The library takes SoftHSM's place if it is loaded by the name `libsofthsm2.so`, or if `SOFTHSM2_CONF` is set and none of
//! `HSM_PKCS11_CONFIG`, `HSM_PKCS11_STATE`, `HSM_GRPC_ENDPOINT` is. Then it looks as SoftHSM does, and unless one of
//! these three says where the HSM is, SoftHSM's configuration file does ([`crate::softhsm_conf`]).

pub mod grep11_client;
pub mod tls;

use std::env;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cryptoki_sys::CKR_FUNCTION_FAILED;
use hsm_emulator::units::{Error, Result};
use serde::Deserialize;
use zeroize::Zeroizing;

use self::tls::{Tls, TlsFiles};
use crate::appearance::{Appearance, Identity};
use crate::softhsm_conf::{self, LogLevel, SoftHsmConf};

/// All that the library is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the HSM is.
    pub hsm: Config,
    /// What the application gets to see.
    pub appearance: Appearance,
    /// From where on events go to the system's log; `None`: none does.
    pub log_level: Option<LogLevel>,
}

/// Which backend, with all it needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Config {
    /// In this process.
    Embedded {
        /// State directory.
        state: PathBuf,
    },
    /// Over gRPC.
    Remote {
        /// Tried in this order.
        endpoints: Vec<Endpoint>,
        /// Proof of who calls.
        api_key: ApiKey,
        /// For those that are reached by TLS.
        tls: Tls,
    },
}

/// Where a remote HSM listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port`, on this machine.
    Tcp(String),
    /// `https://host:port`.
    Tls(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// The bearer token of gRPC calls.
#[derive(PartialEq, Eq)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// The key itself.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey")
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    backend: Option<BackendName>,
    state: Option<PathBuf>,
    endpoints: Option<Vec<String>>,
    api_key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    client_certificate_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum BackendName {
    Embedded,
    Remote,
}

impl Settings {
    /// Reads the environment and the files it names. `loaded_as`: the file that the library was loaded from.
    ///
    /// # Errors
    /// `CKR_FUNCTION_FAILED` with the reason; `CKR_GENERAL_ERROR` if it is about SoftHSM's configuration.
    pub fn load(loaded_as: Option<&Path>) -> Result<Self> {
        let variable = |name: &str| {
            env::var_os(name).and_then(|value| value.into_string().ok()).filter(|v| !v.is_empty())
        };
        Self::resolve(loaded_as, variable)
    }

    fn resolve(loaded_as: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let says_where = |name: &&str| variable(name).is_some();
        let located = OWN_VARIABLES.iter().any(says_where) || says_where(&EP11CLIENT_CFG);
        let named = loaded_as.is_some_and(is_softhsm_name);
        if !named && (located || variable(softhsm_conf::VARIABLE).is_none()) {
            let hsm = Config::resolve(variable)?;
            return Ok(Self { hsm, appearance: Appearance::OWN, log_level: None });
        }
        let note = |text| {
            let _ = writeln!(std::io::stderr(), "hsm_pkcs11: SoftHSM's configuration: {text}");
        };
        let conf = SoftHsmConf::find(&variable, note)?;
        let hsm = match &conf {
            Some(conf) if !located => Config::Embedded { state: conf.state()? },
            _ => Config::resolve(variable)?,
        };
        let conf = conf.unwrap_or_default();
        Ok(Self { hsm, appearance: conf.appearance, log_level: Some(conf.log_level) })
    }

    /// Does the library stand in for SoftHSM?
    pub fn is_softhsm(&self) -> bool {
        self.appearance.identity == Identity::SoftHsm
    }
}

/// Is this the name of SoftHSM's library?
pub fn is_softhsm_name(library: &Path) -> bool {
    library.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libsofthsm2.so"))
}

impl Config {
    fn resolve(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let file = match variable("HSM_PKCS11_CONFIG") {
            Some(path) => {
                let text = fs::read_to_string(&path).map_err(|e| bad(format!("cannot read {path}: {e}")))?;
                toml::from_str(&text).map_err(|e| bad(format!("{path}: {e}")))?
            }
            None => File::default(),
        };
        let state = variable("HSM_PKCS11_STATE").map(PathBuf::from);
        let endpoints =
            variable("HSM_GRPC_ENDPOINT").map(|list| list.split(',').map(|e| e.trim().to_owned()).collect());
        let given_key = || match (variable("HSM_API_KEY"), variable("HSM_API_KEY_FILE")) {
            (Some(key), _) => Ok(Some(ApiKey(Zeroizing::new(key)))),
            (None, Some(path)) => read_key(Path::new(&path)).map(Some),
            (None, None) => Ok(None),
        };
        let located = OWN_VARIABLES.iter().any(|name| variable(name).is_some());
        if let Some(path) = variable(EP11CLIENT_CFG)
            && !located
        {
            return grep11_client::load(Path::new(&path), given_key()?);
        }
        let backend = match (&state, &endpoints, file.backend) {
            (Some(_), _, _) => BackendName::Embedded,
            (None, _, Some(named)) => named,
            (None, Some(_), None) => BackendName::Remote,
            (None, None, None) if file.endpoints.is_some() && file.state.is_none() => BackendName::Remote,
            (None, None, None) => BackendName::Embedded,
        };
        if backend == BackendName::Embedded {
            let state = match state.or(file.state) {
                Some(state) => state,
                None => default_state(&variable)?,
            };
            return Ok(Self::Embedded { state });
        }
        let endpoints: Vec<String> =
            endpoints.or(file.endpoints).ok_or_else(|| bad("the remote backend has no endpoints".into()))?;
        let endpoints = endpoints.iter().map(|text| Endpoint::parse(text)).collect::<Result<Vec<_>>>()?;
        if endpoints.is_empty() {
            return Err(bad("the list of endpoints is empty".into()));
        }
        let api_key = match (given_key()?, file.api_key_file) {
            (Some(key), _) => key,
            (None, Some(path)) => read_key(&path)?,
            (None, None) => return Err(bad("the remote backend has no API key".into())),
        };
        let path = |name: &str, in_file: Option<PathBuf>| variable(name).map(PathBuf::from).or(in_file);
        let files = TlsFiles {
            authority: path("HSM_CA_FILE", file.ca_file),
            certificate: path("HSM_CLIENT_CERTIFICATE_FILE", file.client_certificate_file),
            key: path("HSM_CLIENT_KEY_FILE", file.client_key_file),
        };
        Ok(Self::Remote { endpoints, api_key, tls: files.read()? })
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if let Some(rest) = text.strip_prefix("http://") {
            let authority = rest.split('/').next().unwrap_or_default();
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
                return Ok(Self::Tcp(text.to_owned()));
            }
            return Err(bad(format!(
                "endpoint {text:?} is not on this machine: PINs and keys would cross the network in clear; use https://"
            )));
        }
        if text.starts_with("https://") {
            return Ok(Self::Tls(text.to_owned()));
        }
        Err(bad(format!("endpoint {text:?} is none of https://host:port, http://host:port, unix:/path")))
    }
}

fn read_key(path: &Path) -> Result<ApiKey> {
    let text = Zeroizing::new(
        fs::read_to_string(path).map_err(|e| bad(format!("cannot read {}: {e}", path.display())))?,
    );
    Ok(ApiKey(Zeroizing::new(text.trim().to_owned())))
}

fn default_state(variable: &impl Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let data = match (variable("XDG_DATA_HOME"), variable("HOME")) {
        (Some(data), _) => PathBuf::from(data),
        (None, Some(home)) => Path::new(&home).join(".local/share"),
        (None, None) => {
            return Err(bad("set HSM_PKCS11_STATE: neither XDG_DATA_HOME nor HOME is set".into()));
        }
    };
    Ok(data.join("hsm-emulator/pkcs11"))
}

fn bad(message: String) -> Error {
    Error::new(CKR_FUNCTION_FAILED, message)
}

/// Where IBM's library looks for its configuration file.
const EP11CLIENT_CFG: &str = "EP11CLIENT_CFG";
/// Those that say where the HSM is.
const OWN_VARIABLES: [&str; 3] = ["HSM_PKCS11_CONFIG", "HSM_PKCS11_STATE", "HSM_GRPC_ENDPOINT"];

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> Result<Config> {
        Config::resolve(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn with_file(text: &str, more: &[(&str, &str)]) -> Result<Config> {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), text).expect("written");
        let path = file.path().to_str().expect("UTF-8").to_owned();
        let mut variables = vec![("HSM_PKCS11_CONFIG", path.as_str())];
        variables.extend_from_slice(more);
        resolve(&variables)
    }

    #[test]
    fn nothing_set_is_embedded_in_the_data_directory() {
        let state = PathBuf::from("/home/u/.local/share/hsm-emulator/pkcs11");
        assert_eq!(resolve(&[("HOME", "/home/u")]).expect("valid"), Config::Embedded { state });
    }

    #[test]
    fn an_endpoint_selects_remote_unless_a_state_directory_is_set() {
        let remote = [("HSM_GRPC_ENDPOINT", "unix:/run/hsm, http://localhost:1"), ("HSM_API_KEY", "k")];
        let Config::Remote { endpoints, .. } = resolve(&remote).expect("valid") else { panic!("not remote") };
        assert_eq!(
            endpoints,
            [Endpoint::Unix("/run/hsm".into()), Endpoint::Tcp("http://localhost:1".into())]
        );
        let both = [("HSM_GRPC_ENDPOINT", "unix:/run/hsm"), ("HSM_PKCS11_STATE", "/s")];
        assert_eq!(resolve(&both).expect("valid"), Config::Embedded { state: "/s".into() });
    }

    #[test]
    fn the_file_is_strict_and_the_environment_wins() {
        assert!(with_file("stat = '/s'", &[]).is_err());
        assert!(with_file("backend = 'cloud'", &[]).is_err());
        assert_eq!(with_file("state = '/s'", &[]).expect("valid"), Config::Embedded { state: "/s".into() });
        let remote = with_file(
            "backend = 'remote'\nendpoints = ['http://h:1']",
            &[("HSM_GRPC_ENDPOINT", "unix:/x"), ("HSM_API_KEY", "k")],
        );
        let Config::Remote { endpoints, .. } = remote.expect("valid") else { panic!("not remote") };
        assert_eq!(endpoints, [Endpoint::Unix("/x".into())]);
        let Ok(Config::Remote { endpoints, .. }) =
            with_file("endpoints = ['https://h:1']", &[("HSM_API_KEY", "k")])
        else {
            panic!("not remote")
        };
        assert_eq!(endpoints, [Endpoint::Tls("https://h:1".into())]);
        let half = with_file("endpoints = ['https://h:1']\nclient_key_file = '/k'", &[("HSM_API_KEY", "k")]);
        assert!(half.expect_err("refused").to_string().contains("go together"));
        assert!(with_file("endpoints = ['ftp://h:1']", &[("HSM_API_KEY", "k")]).is_err());
        assert!(with_file("endpoints = ['http://h:1']", &[]).is_err());
    }

    fn settings(loaded_as: &str, variables: &[(&str, &str)]) -> Result<Settings> {
        let variable =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Settings::resolve(Some(Path::new(loaded_as)), variable)
    }

    /// A token directory, and the path of a configuration that names it.
    fn softhsm_conf() -> (tempfile::TempDir, String) {
        let tokens = tempfile::tempdir().expect("directory");
        let path = tokens.path().join("softhsm2.conf");
        let text = format!("directories.tokendir = {}\nslots.removable = true\n", tokens.path().display());
        fs::write(&path, text).expect("written");
        let path = path.to_str().expect("UTF-8").to_owned();
        (tokens, path)
    }

    #[test]
    fn softhsms_configuration_is_followed_unless_the_own_says_where_the_hsm_is() {
        let (tokens, conf) = softhsm_conf();
        let stands_in = settings("/lib/libhsm_pkcs11.so", &[("SOFTHSM2_CONF", &conf)]).expect("valid");
        assert_eq!(stands_in.hsm, Config::Embedded { state: tokens.path().join("hsm-emulator") });
        assert!(stands_in.is_softhsm() && stands_in.appearance.removable);
        assert_eq!(stands_in.log_level, Some(LogLevel::Error));
        let own = settings("/lib/libhsm_pkcs11.so", &[("SOFTHSM2_CONF", &conf), ("HSM_PKCS11_STATE", "/s")]);
        let own = own.expect("valid");
        assert_eq!(own.hsm, Config::Embedded { state: "/s".into() });
        assert_eq!(own.appearance, Appearance::OWN);
    }

    #[test]
    fn by_softhsms_name_it_looks_like_softhsm_wherever_the_hsm_is() {
        let (tokens, conf) = softhsm_conf();
        let name = "/usr/lib/softhsm/libsofthsm2.so";
        let there = settings(name, &[("SOFTHSM2_CONF", &conf), ("HSM_PKCS11_STATE", "/s")]).expect("valid");
        assert_eq!(there.hsm, Config::Embedded { state: "/s".into() });
        assert!(there.is_softhsm() && there.appearance.removable);
        let here = settings(name, &[("SOFTHSM2_CONF", &conf)]).expect("valid");
        assert_eq!(here.hsm, Config::Embedded { state: tokens.path().join("hsm-emulator") });
        assert!(settings(name, &[("SOFTHSM2_CONF", "/none/such")]).is_err());
    }
}
