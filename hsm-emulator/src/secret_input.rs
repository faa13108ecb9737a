//! Secrets from files, pipes and the terminal, in memory that is wiped and never moved.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::{Zeroize, Zeroizing};

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody can be asked.
    #[error("there is no terminal to ask at")]
    NoTerminal,
    /// Whoever was asked has not answered.
    #[error("cancelled")]
    Cancelled,
    /// In words.
    #[error("{0}")]
    Refused(String),
}

/// A file's text. Warns if others can read it.
///
/// # Errors
/// [`Error::Refused`] if it cannot be read, is longer than 64 KiB, or is no text.
pub fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let failed = |error: io::Error| Error::Refused(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        eprintln!("Warning: {} has mode {mode:04o}; others can read it. Use 'chmod 600'.", path.display());
    }
    // More room than is ever read, so that it is never reallocated.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 64));
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_BYTES {
        return Err(Error::Refused(format!("{}: longer than {MAX_BYTES} bytes", path.display())));
    }
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        Error::Refused(format!("{}: not UTF-8", path.display()))
    })
}

/// A line that is not shown while it is typed: at the terminal, wherever standard input and output lead.
///
/// # Errors
/// [`Error::NoTerminal`], [`Error::Cancelled`] by the end of input or Ctrl-C, [`Error::Refused`].
pub fn ask(question: &str) -> Result<Zeroizing<String>, Error> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let mut terminal = terminal.map_err(|_| Error::NoTerminal)?;
    write!(terminal, "{question}\n> ").map_err(refused)?;
    hidden_line(terminal)
}

/// A line of standard input that is not shown while it is typed; the caller has asked.
///
/// # Errors
/// As [`ask`]; [`Error::NoTerminal`] if standard input is none.
pub fn from_standard_input() -> Result<Zeroizing<String>, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    // Around the buffer of `stdin`, which would keep a copy.
    let terminal = io::stdin().as_fd().try_clone_to_owned().map_err(refused)?;
    hidden_line(terminal.into())
}

fn hidden_line(mut terminal: File) -> Result<Zeroizing<String>, Error> {
    let hidden = HiddenInput::begin(&terminal)?;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD_BYTES));
    let mut byte = Zeroizing::new([0]);
    loop {
        let read = terminal.read(byte.as_mut_slice()).map_err(refused)?;
        match byte[0] {
            _ if read == 0 => return Err(Error::Cancelled),
            INTERRUPT | QUIT => return Err(Error::Cancelled),
            b'\n' => break,
            _ if line.len() == MAX_PASSWORD_BYTES => {
                return Err(Error::Refused("The password is too long.".to_owned()));
            }
            byte => line.push(byte),
        }
    }
    drop(hidden);
    let text =
        std::str::from_utf8(&line).map_err(|_| Error::Refused("The password is not UTF-8.".to_owned()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal that does not echo, until it is dropped.
struct HiddenInput {
    terminal: File,
    before: Termios,
}

impl HiddenInput {
    /// Ctrl-C and Ctrl-\ end the line instead of the process, which would leave the terminal without an echo.
    fn begin(terminal: &File) -> Result<Self, Error> {
        let before = tcgetattr(terminal).map_err(refused)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        hidden.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN);
        hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        hidden.special_codes[SpecialCodeIndex::VEOL2] = QUIT;
        tcsetattr(terminal, OptionalActions::Now, &hidden).map_err(refused)?;
        let terminal = terminal.try_clone().map_err(refused)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        tcsetattr(&self.terminal, OptionalActions::Now, &self.before).ok();
    }
}

fn refused(error: impl Display) -> Error {
    Error::Refused(error.to_string())
}

const MAX_BYTES: usize = 64 * 1024;
/// Ctrl-C.
const INTERRUPT: u8 = 0x03;
/// Ctrl-\.
const QUIT: u8 = 0x1c;
/// Never reallocated, so that no copy stays behind.
const MAX_PASSWORD_BYTES: usize = 1024;
