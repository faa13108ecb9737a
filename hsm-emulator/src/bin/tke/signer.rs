//! Those who sign: the selected signature keys, from files or from a signing service.

use std::collections::HashMap;

use hsm_emulator::units::SubjectKeyIdentifier;
use hsm_emulator::units::command::{Signature, UnitStatus};
use p521::ecdsa::signature::Signer as _;
use p521::ecdsa::{DerSignature, SigningKey};

use super::error::{Error, Result};
use super::files::{Directory, SignatureKeyFile};
use super::prompt::Prompt;
use super::signing_service::{ServiceKey, SigningService};

/// The selected signature keys, in the order of their selection.
pub struct Signers {
    candidates: Vec<Candidate>,
    unlocked: HashMap<SubjectKeyIdentifier, SignatureKey>,
    /// How to have others.
    advice: &'static str,
}

struct Candidate {
    number: u64,
    id: SubjectKeyIdentifier,
    file: SignatureKeyFile,
}

/// A signature key, ready to sign.
pub enum SignatureKey {
    /// From a file.
    File(SigningKey),
    /// Elsewhere.
    Service(ServiceKey),
}

impl Signers {
    /// Selected on this workstation: files, or all entries of SIGNSERVKEYS if there is a signing service.
    ///
    /// # Errors
    /// If a file is damaged, or the signing service refuses.
    pub fn selected(files: &Directory, prompt: &mut Prompt) -> Result<Self> {
        let mut signers = Self::of(Vec::new());
        if let Some(service) = SigningService::from_environment()? {
            signers.advice = "Name the keys of its administrators in SIGNSERVKEYS";
            for entry in files.signing_service_keys()? {
                let (public_key, key) = ServiceKey::open(&service, entry, prompt)?;
                let id = SubjectKeyIdentifier::of(&public_key);
                signers.unlocked.insert(id, SignatureKey::Service(key));
            }
            return Ok(signers);
        }
        let mut known = Vec::new();
        for (number, file) in files.signature_keys()? {
            known.push(Candidate { number, id: file.subject_key_identifier()?, file });
        }
        for selected in files.selected_signature_keys()? {
            let position = known.iter().position(|candidate| candidate.id.to_hex() == selected);
            signers.candidates.extend(position.map(|position| known.swap_remove(position)));
        }
        Ok(signers)
    }

    /// These, and no others.
    pub fn of(keys: Vec<(SubjectKeyIdentifier, SignatureKey)>) -> Self {
        let advice = "Select others with 'tke sigkey-sel'";
        Self { candidates: Vec::new(), unlocked: keys.into_iter().collect(), advice }
    }

    /// How to have others sign.
    pub fn advice(&self) -> &'static str {
        self.advice
    }

    /// Asks for passwords until `needed` of them can sign for this unit.
    ///
    /// # Errors
    /// If too few of them are administrators of the unit.
    pub fn unlock(
        &mut self,
        unit: u64,
        status: &UnitStatus,
        needed: usize,
        prompt: &mut Prompt,
    ) -> Result<()> {
        let mut missing = needed.saturating_sub(self.able(status).len());
        let waiting: Vec<&Candidate> = self
            .candidates
            .iter()
            .filter(|candidate| {
                !self.unlocked.contains_key(&candidate.id) && is_administrator(status, &candidate.id)
            })
            .collect();
        if waiting.len() < missing {
            return Err(Error::new(format!(
                "Crypto unit {unit} needs {needed} signature(s), but only {} of the selected signature keys belong to its \
                 administrators.\n{}.",
                needed - missing + waiting.len(),
                self.advice
            )));
        }
        let mut unlocked = Vec::new();
        for Candidate { number, id, file } in waiting {
            if missing == 0 {
                break;
            }
            let password = prompt.password(&format!(
                "Enter the password for the signature key identified by:\n{} ({})",
                file.name(),
                id.abbreviated()
            ))?;
            unlocked.push((*id, SignatureKey::File(unlock(*number, file, &password)?)));
            missing -= 1;
        }
        self.unlocked.extend(unlocked);
        Ok(())
    }

    /// Signatures of up to `needed` administrators of the unit.
    ///
    /// # Errors
    /// If the signing service refuses.
    pub fn sign(&self, status: &UnitStatus, needed: usize, message: &[u8]) -> Result<Vec<Signature>> {
        let mut signatures = Vec::new();
        for id in self.able(status).into_iter().take(needed) {
            if let Some(key) = self.unlocked.get(&id) {
                signatures.push(Signature::new(&id, key.sign(message)?)?);
            }
        }
        Ok(signatures)
    }

    /// How many of the selected ones are administrators of all these units?
    pub fn common<'a>(&self, statuses: impl Iterator<Item = &'a UnitStatus> + Clone) -> usize {
        let selected = self.candidates.iter().map(|candidate| &candidate.id);
        let elsewhere = self.unlocked.keys().filter(|id| self.candidates.iter().all(|c| c.id != **id));
        selected
            .chain(elsewhere)
            .filter(|id| statuses.clone().all(|status| is_administrator(status, id)))
            .count()
    }

    /// Unlocked administrators of the unit, in the order of their installation.
    fn able(&self, status: &UnitStatus) -> Vec<SubjectKeyIdentifier> {
        let ids = status.administrators.iter().map(|administrator| administrator.subject_key_identifier());
        ids.filter(|id| self.unlocked.contains_key(id)).collect()
    }
}

impl SignatureKey {
    /// DER of (R, S).
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::File(key) => {
                let signature: DerSignature = key.sign(message);
                Ok(signature.as_bytes().to_vec())
            }
            Self::Service(key) => key.service.sign(&key.name, &key.token, message),
        }
    }
}

/// The key in a file.
///
/// # Errors
/// That names the file, if the password is wrong.
pub fn unlock(number: u64, file: &SignatureKeyFile, password: &str) -> Result<SigningKey> {
    let key = file.unlock(password);
    key.map_err(|error| error.of_key(format!("KEYNUM {number}, the signature key of {}", file.name())))
}

fn is_administrator(status: &UnitStatus, id: &SubjectKeyIdentifier) -> bool {
    status.administrators.iter().any(|administrator| administrator.subject_key_identifier() == *id)
}
