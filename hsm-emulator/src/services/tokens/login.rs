//! PINs of tokens, and what their holders may do.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cryptoki_sys::*;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{MAX_PIN_FAILURES, StoredPin, StoredToken, Tokens, User};
use crate::keystore::Importance;
use crate::services::pins;
use crate::services::storage::Sealing;
use crate::units::{Error, KeyBlob, Result, vendor};

/// Proof that a PIN was right: whose it is, and a proof that only who can open the PIN's record can make. It is void once
/// the PIN is set again, and outlives a rotation of the master key.
#[derive(Clone)]
pub struct Grant(pub Arc<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grant")
    }
}

impl Grant {
    /// What these bytes claim.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.to_vec())))
    }

    fn parts(&self) -> Option<(&str, User, &[u8])> {
        let (serial, rest) = self.0.split_at_checked(SERIAL_DIGITS)?;
        let (user, proof) = rest.split_first()?;
        let user = [User::User, User::So].into_iter().find(|known| *known as u8 == *user)?;
        Some((str::from_utf8(serial).ok()?, user, proof))
    }
}

impl Tokens {
    /// Checks a PIN.
    ///
    /// # Errors
    /// `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`, `CKR_USER_PIN_NOT_INITIALIZED`, `CKR_TOKEN_NOT_PRESENT`.
    pub fn login(&self, serial: &str, user: User, pin: &[u8]) -> Result<Grant> {
        self.region.patiently(|| {
            let record = self.check_pin_now(serial, user, pin)?;
            let proof = pins::proof(&*self.region.unit()?, &owner(serial, user), &record)?;
            Ok(Grant::new(&Zeroizing::new([serial.as_bytes(), &[user as u8], proof.as_slice()].concat())))
        })
    }

    /// Sets the user's PIN, and unlocks it. Needs the SO's grant.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`, `CKR_PIN_LEN_RANGE`.
    pub fn init_pin(&self, grant: &Grant, pin: &[u8]) -> Result<()> {
        let (serial, user) = self.open_grant(grant)?;
        if user != User::So {
            return Err(Error::new(CKR_USER_NOT_LOGGED_IN, "only the SO may set the user's PIN"));
        }
        pins::check_len(pin)?;
        let sealing = self.sealing()?;
        let record = self.seal_pin(&sealing, &serial, User::User, pin)?;
        self.update(&serial, Some(&sealing), |token| {
            // Hashing waits for its turn: the SO's PIN may have been changed since.
            self.open_grant(grant)?;
            token.user = Some(StoredPin::new(&record));
            Ok(true)
        })?;
        tracing::info!(serial, "user PIN set by the SO");
        Ok(())
    }

    /// Changes a PIN.
    ///
    /// # Errors
    /// As [`Self::login`], and `CKR_PIN_LEN_RANGE`.
    pub fn set_pin(&self, serial: &str, user: User, old: &[u8], new: &[u8]) -> Result<()> {
        pins::check_len(new)?;
        let right = self.login(serial, user, old)?;
        let sealing = self.sealing()?;
        let record = self.seal_pin(&sealing, serial, user, new)?;
        self.update(serial, Some(&sealing), |token| {
            self.check_still_right(&right)?;
            *token.pin_mut(user)? = StoredPin::new(&record);
            Ok(true)
        })?;
        tracing::info!(serial, ?user, "PIN changed");
        Ok(())
    }

    /// Is the PIN that a grant was given for still the one that is set?
    ///
    /// # Errors
    /// `CKR_PIN_INCORRECT` if not.
    pub(super) fn check_still_right(&self, grant: &Grant) -> Result<()> {
        match self.open_grant(grant) {
            Err(error) if error.code == CKR_USER_NOT_LOGGED_IN => {
                Err(Error::new(CKR_PIN_INCORRECT, "the PIN was changed at the same time"))
            }
            outcome => outcome.map(drop),
        }
    }

    /// Checks a PIN; its sealed record. The attempt is counted durably before the comparison, so neither a kill
    /// nor guesses at the same time give one guess more than allowed.
    ///
    /// Processes that log in with the right PIN at the same time can reach the limit together for a moment: the
    /// first one that is done takes the count back. So a PIN counts as locked only when it stays at the limit.
    fn check_pin_now(&self, serial: &str, user: User, pin: &[u8]) -> Result<KeyBlob> {
        for _ in 0..LOCK_CHECKS {
            if let Some(record) = self.recognise(serial, user, pin)? {
                return Ok(record);
            }
            let checked = self.one_at_a_time(|| {
                // The thread before may have brought the same PIN.
                match self.recognise(serial, user, pin)? {
                    Some(record) => Ok(Some(record)),
                    None => self.check_pin_slowly(serial, user, pin),
                }
            })?;
            match checked {
                Some(record) => return Ok(record),
                None => std::thread::sleep(LOCK_CHECK_INTERVAL),
            }
        }
        Err(Error::new(CKR_PIN_LOCKED, "the PIN is locked after too many wrong ones"))
    }

    /// The PIN's record, if this process has found the PIN right before and nobody has guessed since.
    fn recognise(&self, serial: &str, user: User, pin: &[u8]) -> Result<Option<KeyBlob>> {
        let (token, _) = self.read(serial)?;
        let stored = token.pin(user)?;
        let record = stored.blob()?;
        let fingerprint = self.recognised.fingerprint(&record, pin);
        let known = self.right.read().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint);
        Ok((known && stored.failures == 0).then_some(record))
    }

    /// Counts, compares, and takes the count back if the PIN is right; `None`, without a comparison, if the limit
    /// is reached.
    fn check_pin_slowly(&self, serial: &str, user: User, pin: &[u8]) -> Result<Option<KeyBlob>> {
        let mut counted = None;
        self.count(serial, |token| {
            let stored = token.pin_mut(user)?;
            counted = None;
            if stored.failures < MAX_PIN_FAILURES {
                stored.failures += 1;
                counted = Some((stored.blob()?, stored.failures));
            }
            Ok(counted.is_some())
        })?;
        let Some((record, failures)) = counted else { return Ok(None) };
        let verified =
            self.region.unit().and_then(|unit| pins::verify(&unit, &owner(serial, user), &record, pin));
        if let Ok(false) = verified {
            tracing::warn!(serial, ?user, failures, "wrong PIN");
            let code = if failures >= MAX_PIN_FAILURES { CKR_PIN_LOCKED } else { CKR_PIN_INCORRECT };
            return Err(Error::new(code, "the PIN is wrong"));
        }
        self.count(serial, |token| {
            let stored = token.pin_mut(user)?;
            // What the unit could not compare was no guess.
            stored.failures = if verified.is_ok() { 0 } else { stored.failures.saturating_sub(1) };
            Ok(true)
        })?;
        verified?;
        let mut right = self.right.write().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= MAX_RECOGNISED {
            right.clear();
        }
        right.insert(self.recognised.fingerprint(&record, pin));
        Ok(Some(record))
    }

    pub(super) fn seal_pin(
        &self,
        sealing: &Sealing,
        serial: &str,
        user: User,
        pin: &[u8],
    ) -> Result<KeyBlob> {
        self.one_at_a_time(|| pins::seal(sealing.unit(), &owner(serial, user), pin))
    }

    /// Runs what hashes a PIN. Those who wait are few: a flood of logins is refused, not queued.
    fn one_at_a_time<T>(&self, hash: impl FnOnce() -> Result<T>) -> Result<T> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let outcome = if waiting < MAX_WAITING {
            let _hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
            hash()
        } else {
            Err(Error::passing(CKR_FUNCTION_FAILED, "too many logins at the same time; try again"))
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    /// Whose grant it is, if it is still good.
    pub(super) fn open_grant(&self, grant: &Grant) -> Result<(String, User)> {
        let void = || {
            Error::new(CKR_USER_NOT_LOGGED_IN, "the login is void since the PIN was changed: log in again")
        };
        let (serial, user, proof) = grant.parts().ok_or_else(void)?;
        let expected = self.region.patiently(|| {
            let (token, _) = self.read(serial)?;
            let record = token.pin(user).map_err(|_| void())?.blob()?;
            pins::proof(&*self.region.unit()?, &owner(serial, user), &record)
        });
        match expected {
            Ok(expected) if bool::from(expected.as_slice().ct_eq(proof)) => Ok((serial.to_owned(), user)),
            // The PIN's record was left behind by a rotation: nobody can log in with it.
            Err(error) if error.code == vendor::CKR_IBM_WKID_MISMATCH && !self.region.settles() => {
                Err(void())
            }
            Err(error) => Err(error),
            Ok(_) => Err(void()),
        }
    }

    /// Does the grant open this token's private objects?
    pub(super) fn is_user(&self, serial: &str, grant: Option<&Grant>) -> Result<bool> {
        let Some(grant) = grant else { return Ok(false) };
        let (granted, user) = self.open_grant(grant)?;
        Ok(granted == serial && user == User::User)
    }

    /// Changes what is counted: with the failover region lost, people must still be able to log in.
    fn count(&self, serial: &str, change: impl FnMut(&mut StoredToken) -> Result<bool>) -> Result<()> {
        self.change(serial, change, |writes| self.region.keystore().commit_as(writes, Importance::Passing))
    }
}

/// Whose PIN a record holds.
fn owner(serial: &str, user: User) -> Vec<u8> {
    format!("{serial}/{user:?}").into_bytes()
}

/// Of a token's serial number.
const SERIAL_DIGITS: usize = 16;
const MAX_RECOGNISED: usize = 1024;
const MAX_WAITING: usize = 64;
const LOCK_CHECKS: u32 = 20;
const LOCK_CHECK_INTERVAL: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::region::{Layout, Region};

    #[test]
    fn a_grant_is_void_when_altered_or_when_the_pin_is_set_again() {
        let dir = tempfile::tempdir().expect("dir");
        let layout = Layout { region: "local".into(), operational: 1, recovery: 0, master_key: true };
        let region = Arc::new(Region::open(dir.path(), &layout).expect("region"));
        let tokens = Tokens::new(region).expect("tokens");
        let serial = tokens.init(None, b"so-pin", "token").expect("token").serial;
        let so = tokens.login(&serial, User::So, b"so-pin").expect("login");
        tokens.init_pin(&so, b"1234").expect("PIN");
        let user = tokens.login(&serial, User::User, b"1234").expect("login");
        assert_eq!(tokens.open_grant(&user).expect("good"), (serial.clone(), User::User));
        for i in 0..user.0.len() {
            let mut altered = user.0.to_vec();
            altered[i] ^= 1;
            assert!(tokens.open_grant(&Grant::new(&altered)).is_err(), "byte {i} is not looked at");
        }
        for len in 0..user.0.len() {
            let error = tokens.open_grant(&Grant::new(&user.0[..len])).expect_err("too short");
            assert_eq!(error.code, CKR_USER_NOT_LOGGED_IN);
        }
        tokens.init_pin(&so, b"1234").expect("PIN");
        assert_eq!(tokens.open_grant(&user).expect_err("void").code, CKR_USER_NOT_LOGGED_IN);
        assert_eq!(tokens.open_grant(&so).expect("good").1, User::So);
    }
}
