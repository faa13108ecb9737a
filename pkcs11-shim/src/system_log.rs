//! Events of the HSM in the system's log, where SoftHSM's go: by the socket that `syslog(3)` writes to (RFC 3164).

use std::fmt::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::softhsm_conf::LogLevel;

/// From now on, events of this level and above go to the system's log. The first call counts for the process. Without
/// a log daemon they are lost, as they are for everybody else.
pub fn begin(level: LogLevel) {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warning => Level::WARN,
        LogLevel::Info => Level::INFO,
    };
    // Refused the second time.
    let _ = tracing::subscriber::set_global_default(SystemLog { level, socket: SOCKET.into() });
}

struct SystemLog {
    level: Level,
    socket: PathBuf,
}

impl Subscriber for SystemLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let line = line(event);
        // A socket for each line: they are few, and a child process must not inherit one.
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.set_nonblocking(true);
            let _ = socket.send_to(line.as_bytes(), &self.socket);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // Spans are not enabled.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn line(event: &Event<'_>) -> String {
    let severity = match *event.metadata().level() {
        Level::ERROR => 3,
        Level::WARN => 4,
        _ => 6,
    };
    let mut text = Text::default();
    event.record(&mut text);
    format!(
        "<{}>hsm_pkcs11[{}]: {}{}",
        USER_FACILITY + severity,
        std::process::id(),
        text.message,
        text.fields
    )
}

/// The message of an event, and its fields behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a `String` cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

const SOCKET: &str = "/dev/log";
/// `LOG_USER`.
const USER_FACILITY: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_priority_message_and_fields_from_the_level_on() {
        let dir = tempfile::tempdir().expect("directory");
        let socket = dir.path().join("log");
        let daemon = UnixDatagram::bind(&socket).expect("bound");
        daemon.set_nonblocking(true).expect("set");
        tracing::subscriber::with_default(SystemLog { level: Level::WARN, socket }, || {
            tracing::info!("left out");
            tracing::warn!(serial = "00aa", failures = 2, "wrong PIN");
        });
        let mut line = [0; 100];
        let len = daemon.recv(&mut line).expect("one line");
        let wanted = format!("<12>hsm_pkcs11[{}]: wrong PIN serial=\"00aa\" failures=2", std::process::id());
        assert_eq!(String::from_utf8_lossy(&line[..len]), wanted);
        assert!(daemon.recv(&mut line).is_err(), "one line only");
    }
}
