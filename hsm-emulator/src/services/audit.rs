//! The audit log: who administered what, in a chain that shows where it was altered.
//!
//! One line of JSON for each record: sequence number, time, SHA-256 of the line before, event, and a MAC over all
//! of them. A second file names the last record, so that a log that was cut off at its end is noticed too. Lines
//! are on the disk before the command that they tell of is carried out, and before its answer is given.
//!
//! The MAC's key is a file beside the log: whoever can read that can forge the log. It protects against those who
//! can write the log only, and against damage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::clock::{Clock, rfc3339};
use crate::durable_file;
use crate::units::random;

/// The audit log of an instance, open for writing.
pub struct AuditLog {
    key: hmac::Key,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    /// `None` once a write has failed: what the file holds then is not known.
    tail: Mutex<Option<Tail>>,
}

struct Tail {
    file: File,
    head: Head,
}

/// The last record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    seq: u64,
    /// Of its line.
    sha256: String,
}

/// A record without its MAC, in the order in which it is written.
#[derive(Serialize, Deserialize)]
struct Record {
    seq: u64,
    time: String,
    /// SHA-256 of the line before; zeros in the first.
    previous: String,
    event: Value,
}

#[derive(Serialize, Deserialize)]
struct Authenticated<T> {
    #[serde(flatten)]
    content: T,
    mac: String,
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refuses.
    #[error("the audit log {}: {source}", path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A record is not what was written.
    #[error("record {seq} of the audit log: {problem}")]
    Altered {
        /// The first bad record.
        seq: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An earlier write failed.
    #[error("the audit log could not be written: administration is refused until a restart")]
    Closed,
    /// The log was not in order when the server started.
    #[error(
        "administration is refused: {0}; see 'hsm-emulator audit verify', then put the audit directory back from a \
         backup, or move it away to begin a new log, and restart"
    )]
    Refused(String),
}

impl AuditLog {
    /// Opens the log in this directory, or begins one. What a crash left at its end is put right.
    ///
    /// # Errors
    /// [`Error::Altered`] if the log is not what was written.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        durable_file::create_dir(dir).map_err(|source| Error::Disk { path: dir.to_owned(), source })?;
        let key_path = dir.join(KEY);
        if !key_path.exists() {
            let secret = random::array::<32>().map(Zeroizing::new).map_err(io::Error::other);
            secret
                .and_then(|secret| durable_file::replace(&key_path, secret.as_slice()))
                .map_err(|source| Error::Disk { path: key_path, source })?;
        }
        let key = read_key(dir)?;
        let log = dir.join(LOG);
        let disk = |source| Error::Disk { path: log.clone(), source };
        // The head is there before the log is: without one, no log is new, however short it is.
        if !log.exists() && !dir.join(HEAD).exists() {
            write_head(&key, dir, &Head::none()).map_err(disk)?;
            tracing::info!(dir = %dir.display(), "a new audit log begins");
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(&log).map_err(disk)?;
        let read = read(&key, BufReader::new(&file), |_| ())?;
        check_head(&key, dir, &read.heads)?;
        // A line that was being written when the machine stopped was never acknowledged.
        file.set_len(read.whole_bytes).and_then(|()| file.seek(SeekFrom::End(0)).map(drop)).map_err(disk)?;
        let head = read.heads.last().cloned().unwrap_or_else(Head::none);
        // The file may name the record before; it must never be two behind.
        write_head(&key, dir, &head).map_err(disk)?;
        Ok(Self { key, dir: dir.to_owned(), clock, tail: Mutex::new(Some(Tail { file, head })) })
    }

    /// Adds a record, durably.
    ///
    /// # Errors
    /// [`Error::Disk`], and from then on [`Error::Closed`].
    pub fn append(&self, event: Value) -> Result<(), Error> {
        let mut slot = self.tail.lock();
        let mut tail = slot.take().ok_or(Error::Closed)?;
        let record = Record {
            seq: tail.head.seq + 1,
            time: rfc3339(self.clock.now()),
            previous: tail.head.sha256.clone(),
            event,
        };
        let seq = record.seq;
        let write = || -> io::Result<Tail> {
            let mut line = authenticated(&self.key, record)?;
            tail.head = Head { seq, sha256: sha256(line.as_bytes()) };
            line.push('\n');
            tail.file.write_all(line.as_bytes())?;
            tail.file.sync_data()?;
            write_head(&self.key, &self.dir, &tail.head)?;
            Ok(tail)
        };
        let tail = write().map_err(|source| Error::Disk { path: self.dir.join(LOG), source })?;
        *slot = Some(tail);
        Ok(())
    }
}

/// Checks every record of the log in this directory, and hands the good ones to `each`; how many there are.
///
/// # Errors
/// [`Error::Altered`] names the first bad record.
pub fn verify(dir: &Path, each: impl FnMut(Value)) -> Result<u64, Error> {
    let key = read_key(dir)?;
    let path = dir.join(LOG);
    let file = File::open(&path).map_err(|source| Error::Disk { path, source })?;
    let read = read(&key, BufReader::new(file), each)?;
    check_head(&key, dir, &read.heads)?;
    Ok(read.heads.last().map_or(0, |head| head.seq))
}

struct ReadLog {
    /// Of the last two records, to be compared with the head file.
    heads: Vec<Head>,
    whole_bytes: u64,
}

fn read(key: &hmac::Key, mut log: impl BufRead, mut each: impl FnMut(Value)) -> Result<ReadLog, Error> {
    let mut heads = vec![Head::none()];
    let mut whole_bytes = 0;
    let mut line = Vec::new();
    loop {
        let last = heads.last().cloned().unwrap_or_else(Head::none);
        let seq = last.seq + 1;
        let altered = |problem| Error::Altered { seq, problem };
        line.clear();
        log.read_until(b'\n', &mut line).map_err(|_| altered("it cannot be read"))?;
        let Some(text) = line.strip_suffix(b"\n") else { return Ok(ReadLog { heads, whole_bytes }) };
        let found: Authenticated<Record> =
            serde_json::from_slice(text).map_err(|_| altered("it is no record"))?;
        let value = serde_json::from_slice(text).map_err(|_| altered("it is no record"))?;
        check_mac(key, text, &found.mac).ok_or_else(|| altered("it was altered: its MAC is wrong"))?;
        if found.content.seq != seq {
            return Err(altered("it is missing, or stands elsewhere"));
        }
        if found.content.previous != last.sha256 {
            return Err(altered("it does not follow the record before"));
        }
        each(value);
        whole_bytes += line.len() as u64;
        heads.push(Head { seq, sha256: sha256(text) });
        if heads.len() > 2 {
            heads.remove(0);
        }
    }
}

/// The head file names the last record, or after a crash the one before.
fn check_head(key: &hmac::Key, dir: &Path, heads: &[Head]) -> Result<(), Error> {
    let path = dir.join(HEAD);
    let seq = heads.last().map_or(0, |head| head.seq) + 1;
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Altered { seq, problem: "the file that names the last record is missing" });
        }
        Err(source) => return Err(Error::Disk { path, source }),
    };
    let problem = "the log ends before the last record that was written";
    let named: Authenticated<Head> = serde_json::from_slice(&text)
        .map_err(|_| Error::Altered { seq, problem: "the file that names the last record is damaged" })?;
    check_mac(key, &text, &named.mac)
        .ok_or(Error::Altered { seq, problem: "the file that names the last record was altered" })?;
    if heads.contains(&named.content) { Ok(()) } else { Err(Error::Altered { seq, problem }) }
}

fn write_head(key: &hmac::Key, dir: &Path, head: &Head) -> io::Result<()> {
    durable_file::replace(&dir.join(HEAD), authenticated(key, head)?.as_bytes())
}

impl Head {
    fn none() -> Self {
        Self { seq: 0, sha256: "0".repeat(64) }
    }
}

/// JSON with a MAC over everything before it.
fn authenticated(key: &hmac::Key, content: impl Serialize) -> io::Result<String> {
    let mut text = serde_json::to_string(&content)?;
    text.pop();
    let mac = hex::encode(hmac::sign(key, text.as_bytes()));
    Ok(format!("{text},\"mac\":\"{mac}\"}}"))
}

fn check_mac(key: &hmac::Key, text: &[u8], mac: &str) -> Option<()> {
    let content = text.strip_suffix(format!(",\"mac\":\"{mac}\"}}").as_bytes())?;
    hmac::verify(key, content, &hex::decode(mac).ok()?).ok()
}

fn read_key(dir: &Path) -> Result<hmac::Key, Error> {
    let path = dir.join(KEY);
    let secret = fs::read(&path).map(Zeroizing::new).map_err(|source| Error::Disk { path, source })?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

const LOG: &str = "log.jsonl";
const HEAD: &str = "head.json";
const KEY: &str = "key";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::clock::SystemClock;
    use serde_json::json;

    fn open(dir: &Path) -> Result<AuditLog, Error> {
        AuditLog::open(dir, Arc::new(SystemClock))
    }

    fn written(records: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("dir");
        let log = open(dir.path()).expect("open");
        for i in 0..records {
            log.append(json!({ "action": "test", "number": i })).expect("append");
        }
        dir
    }

    #[test]
    fn a_log_is_continued_after_a_restart() {
        let dir = written(3);
        open(dir.path()).expect("open").append(json!({ "action": "more" })).expect("append");
        let mut seen = Vec::new();
        assert_eq!(verify(dir.path(), |record| seen.push(record)).expect("verify"), 4);
        assert_eq!((seen.len(), &seen[3]["event"]["action"]), (4, &json!("more")));
    }

    #[test]
    fn every_changed_byte_is_noticed_and_the_first_bad_record_named() {
        let dir = written(4);
        let path = dir.path().join(LOG);
        let original = fs::read(&path).expect("read");
        for position in 0..original.len() {
            let mut altered = original.clone();
            altered[position] ^= 1;
            fs::write(&path, &altered).expect("write");
            let record = original[..position].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            let Err(Error::Altered { seq, .. }) = verify(dir.path(), |_| ()) else {
                panic!("byte {position} was changed and nobody noticed");
            };
            assert_eq!(seq, record, "byte {position}");
            assert!(open(dir.path()).is_err());
        }
    }

    #[test]
    fn removed_and_exchanged_records_are_noticed() {
        let dir = written(4);
        let path = dir.path().join(LOG);
        let text = fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = text.lines().collect();
        for (kept, bad) in [(vec![0, 1, 3], 3), (vec![0, 2, 1, 3], 2), (vec![0, 1, 2], 4), (vec![], 1)] {
            let kept: String = kept.into_iter().map(|i: usize| format!("{}\n", lines[i])).collect();
            fs::write(&path, kept).expect("write");
            let Err(Error::Altered { seq, .. }) = verify(dir.path(), |_| ()) else { panic!("not noticed") };
            assert_eq!(seq, bad);
        }
    }

    #[test]
    fn a_log_without_the_file_that_names_its_last_record_is_not_in_order() {
        for kept in 0..3 {
            let dir = written(2);
            let text = fs::read_to_string(dir.path().join(LOG)).expect("read");
            let kept_lines: String = text.lines().take(kept).map(|line| format!("{line}\n")).collect();
            fs::write(dir.path().join(LOG), kept_lines).expect("write");
            fs::remove_file(dir.path().join(HEAD)).expect("remove");
            let seq = kept as u64 + 1;
            assert!(
                matches!(verify(dir.path(), |_| ()), Err(Error::Altered { seq: named, .. }) if named == seq)
            );
            assert!(matches!(open(dir.path()), Err(Error::Altered { seq: named, .. }) if named == seq));
        }
        // Nor is one whose records are gone altogether.
        let dir = written(2);
        fs::remove_file(dir.path().join(LOG)).expect("remove");
        assert!(matches!(open(dir.path()), Err(Error::Altered { seq: 1, .. })));
    }

    #[test]
    fn a_log_that_was_begun_and_never_written_is_in_order() {
        let dir = written(0);
        assert_eq!(verify(dir.path(), |_| ()).expect("verify"), 0);
        // Killed between the first two steps of its beginning.
        fs::remove_file(dir.path().join(LOG)).expect("remove");
        open(dir.path()).expect("open").append(json!({})).expect("append");
        assert_eq!(verify(dir.path(), |_| ()).expect("verify"), 1);
    }

    #[test]
    fn what_a_crash_leaves_is_put_right() {
        let dir = written(2);
        let head = fs::read(dir.path().join(HEAD)).expect("head");
        open(dir.path()).expect("open").append(json!({ "action": "third" })).expect("append");
        // The line was written, the head was not; then half a line.
        fs::write(dir.path().join(HEAD), head).expect("old head");
        let mut file = OpenOptions::new().append(true).open(dir.path().join(LOG)).expect("open");
        file.write_all(b"{\"seq\":4,\"ti").expect("torn");
        let log = open(dir.path()).expect("open");
        // Again, at the next record: the head must have been put right when the log was opened.
        let head = fs::read(dir.path().join(HEAD)).expect("head");
        log.append(json!({ "action": "fourth" })).expect("append");
        fs::write(dir.path().join(HEAD), head).expect("old head");
        open(dir.path()).expect("open").append(json!({ "action": "fifth" })).expect("append");
        assert_eq!(verify(dir.path(), |_| ()).expect("verify"), 5);
    }

    #[test]
    fn after_a_failed_write_nothing_more_is_taken() {
        let dir = written(1);
        let log = open(dir.path()).expect("open");
        fs::remove_dir_all(dir.path()).expect("remove");
        assert!(matches!(log.append(json!({})), Err(Error::Disk { .. })));
        assert!(matches!(log.append(json!({})), Err(Error::Closed)));
    }
}
