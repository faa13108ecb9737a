//! Settings: a strict TOML file, overridden by flags.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::{Error, Result},
    keys::bucket_keys::check_lease,
    pace::Pace,
};

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of all state.
    pub state: PathBuf,
    /// Address to listen on; loopback only.
    pub listen: SocketAddr,
    /// Addresses of the HSM's regions, `http://host:port`, home first. A file may give one as a string.
    #[serde(deserialize_with = "one_or_more")]
    pub hsm: Vec<String>,
    /// File with the API key of all regions, or one file for each.
    #[serde(deserialize_with = "one_or_more")]
    pub hsm_api_key_file: Vec<PathBuf>,
    /// Deadline of a call to the HSM.
    pub hsm_timeout: Span,
    /// How long an unwrapped bucket key may be used, 1s to 60s.
    pub lease: Span,
    /// Names below which a bucket may stand in the Host header.
    pub domains: Vec<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Time for the headers of a request.
    pub header_timeout: Span,
    /// Longest pause within a body or an answer.
    pub idle_timeout: Span,
    /// Bytes per second that a client must send or take while it is waited for, averaged over `idle_timeout`; 0: no floor.
    pub min_rate: u64,
    /// Time for requests in progress when the service stops.
    pub shutdown_timeout: Span,
    /// Longest life of a presigned URL.
    pub presigned_max_life: Span,
    /// Whether Signature Version 2 is accepted.
    pub allow_sigv2: bool,
    /// `human`, `json`, or `auto`: human on a terminal.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: PathBuf::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            hsm: Vec::new(),
            hsm_api_key_file: Vec::new(),
            hsm_timeout: Span(Duration::from_millis(1200)),
            lease: Span(Duration::from_secs(10)),
            domains: vec!["localhost".to_owned()],
            max_connections: 1024,
            header_timeout: Span(Duration::from_secs(60)),
            idle_timeout: Span(Duration::from_secs(60)),
            min_rate: 1024,
            shutdown_timeout: Span(Duration::from_secs(5)),
            presigned_max_life: Span(Duration::from_secs(7 * 24 * 3600)),
            allow_sigv2: false,
            log_format: LogFormat::Auto,
        }
    }
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid_argument(format!("cannot read {}: {e}", path.display())))?;
        toml::from_str(&text).map_err(|e| Error::invalid_argument(format!("{}: {e}", path.display())))
    }

    /// The least pace of clients.
    pub fn pace(&self) -> Pace {
        Pace { idle: self.idle_timeout.0, min_rate: self.min_rate }
    }

    /// Checks what types can't express.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::invalid_argument(message));
        check_lease(self.lease.0)?;
        if !(Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&self.idle_timeout.0) {
            return refuse("idle_timeout must be 100 ms to 24 h".to_owned());
        }
        if self.state.as_os_str().is_empty() {
            return refuse("no state directory: give --state DIR".to_owned());
        }
        if self.hsm.is_empty() || self.hsm_api_key_file.is_empty() {
            return refuse("no HSM: give --hsm http://HOST:PORT and --hsm-api-key-file FILE".to_owned());
        }
        if !self.listen.ip().is_loopback() {
            return refuse(format!(
                "{} is not a loopback address. This version has no TLS, so it serves this machine only: \
                 listen on 127.0.0.1 and put a TLS proxy in front to serve others",
                self.listen
            ));
        }
        for (index, hsm) in self.hsm.iter().enumerate() {
            check_region(hsm)?;
            if self.hsm[..index].contains(hsm) {
                return refuse(format!("--hsm {hsm} is given twice"));
            }
        }
        let (files, regions) = (self.hsm_api_key_file.len(), self.hsm.len());
        if files != 1 && files != regions {
            return refuse(format!(
                "--hsm-api-key-file: {files} files for {regions} addresses; give one for all, or one for each"
            ));
        }
        if self.hsm_api_key_file.iter().any(|file| file.as_os_str().is_empty()) {
            return refuse("--hsm-api-key-file: the list has an empty entry".to_owned());
        }
        if self.max_connections == 0 {
            return refuse("max_connections must be at least 1".to_owned());
        }
        Ok(())
    }
}

fn check_region(hsm: &str) -> Result<()> {
    if hsm.is_empty() {
        return Err(Error::invalid_argument("--hsm: the list has an empty entry"));
    }
    let uri: http::Uri = hsm.parse().map_err(|e| Error::invalid_argument(format!("--hsm {hsm}: {e}")))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if uri.scheme_str() != Some("http") || !loopback {
        return Err(Error::invalid_argument(format!(
            "--hsm {hsm}: this version reaches the HSM without TLS, so only http:// on a loopback address is \
             allowed: bucket keys would travel in the clear"
        )));
    }
    Ok(())
}

fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore<T> {
        One(T),
        More(Vec<T>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}

/// A duration with its unit: `250ms`, `10s`, `5m`, `2h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let millis = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, millis)| number.parse::<u64>().ok()?.checked_mul(*millis));
        millis
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("{text:?} is not a duration such as 250ms, 10s, 5m, 2h or 7d"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |(_, unit): &&(&str, u64)| millis.is_multiple_of(*unit) && millis >= *unit;
        let (name, unit) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        write!(f, "{}{name}", millis / unit)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_keep_their_text() {
        for text in ["250ms", "10s", "5m", "2h", "7d", "90s", "1500ms", "0ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "10 s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn printed_configuration_can_be_read() {
        let text = toml::to_string(&Config::default()).unwrap();
        toml::from_str::<Config>(&text).unwrap();
        assert!(toml::from_str::<Config>("unknown = 1").is_err());
    }

    #[test]
    fn other_machines_are_refused_without_tls() {
        let good = Config {
            state: "s".into(),
            hsm: vec!["http://127.0.0.1:1".to_owned()],
            hsm_api_key_file: vec!["k".into()],
            ..Config::default()
        };
        assert!(good.check().is_ok());
        let listen = Config { listen: "0.0.0.0:9000".parse().unwrap(), ..good.clone() };
        assert!(listen.check().unwrap_err().message.contains("loopback"));
        for hsm in ["http://10.0.0.1:1", "https://127.0.0.1:1", "nonsense"] {
            assert!(Config { hsm: vec![hsm.to_owned()], ..good.clone() }.check().is_err());
        }
        assert!(Config { hsm: vec!["http://[::1]:1".to_owned()], ..good.clone() }.check().is_ok());
        assert!(Config { lease: Span(Duration::from_secs(61)), ..good }.check().is_err());
    }

    #[test]
    fn lists_of_regions_are_strict() {
        let regions = |hsm: &str, files: &str| {
            let text = format!("state = 's'\nhsm = {hsm}\nhsm_api_key_file = {files}");
            toml::from_str::<Config>(&text).unwrap().check()
        };
        let two = "['http://127.0.0.1:1', 'http://127.0.0.1:2']";
        for (hsm, files) in [("'http://127.0.0.1:1'", "'k'"), (two, "'k'"), (two, "['k', 'l']")] {
            regions(hsm, files).unwrap();
        }
        let twice = "['http://127.0.0.1:1', 'http://127.0.0.1:1']";
        let empty = "['http://127.0.0.1:1', '']";
        for (hsm, files, reason) in [
            (two, "['k', 'l', 'm']", "3 files for 2"),
            (two, "['k', '']", "empty entry"),
            (twice, "'k'", "given twice"),
            (empty, "'k'", "empty entry"),
        ] {
            assert!(regions(hsm, files).unwrap_err().message.contains(reason), "{hsm} {files}");
        }
    }
}
