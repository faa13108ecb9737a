//! Who may do what in a unit: administrators, thresholds, permissions, imprint mode, the transaction counter.
//!
//! Two steps, and only [`Administration::verify`] leads to the second: a command becomes [`Verified`] when the
//! counter is the next one, all signatures are right and they are enough; then it is carried out, or refused
//! because of the unit's state.

use super::administrator::{Administrator, MAX_ADMINISTRATORS, SubjectKeyIdentifier};
use super::command::{Command, CommandBlock, DomainAttributes, Request, UnitType};
use super::quorum::signatures_needed;
use super::refusal::Refusal;

/// A unit's administration. Fresh and zeroized units have [`Administration::imprint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administration {
    /// In the order of their installation.
    pub administrators: Vec<Administrator>,
    /// 0 is imprint mode.
    pub signature_threshold: u32,
    /// 0 is imprint mode.
    pub revocation_threshold: u32,
    /// [`permission`] bits.
    pub permissions: u32,
    /// Numbers of those that are set, in ascending order.
    pub control_points: Vec<u32>,
    /// The last one used. Never goes back, not even when the unit is zeroized.
    pub counter: u64,
}

/// Bits of the domain's permissions (EP11's `XCP_ADMP_*`).
pub mod permission {
    /// A master key may be imported.
    pub const IMPORT: u32 = 0x0000_0001;
    /// The master key may be exported: recovery units only.
    pub const EXPORT: u32 = 0x0000_0002;
    /// A master key may be imported in a single part.
    pub const SINGLE_PART: u32 = 0x0000_0004;
    /// A random master key may be generated: recovery units only.
    pub const RANDOM: u32 = 0x0000_0008;
    /// A threshold may be 1.
    pub const THRESHOLD_OF_ONE: u32 = 0x0000_0010;
    /// One signature is enough to zeroize.
    pub const ZEROIZE_WITH_ONE: u32 = 0x0000_0040;
    /// The administrators of the whole module do not count for this domain.
    pub const WITHOUT_MODULE_ADMINISTRATORS: u32 = 0x0000_2000;
    /// The signature threshold may be changed.
    pub const CHANGE_SIGNATURE_THRESHOLD: u32 = 0x0010_0000;
    /// The revocation threshold may be changed.
    pub const CHANGE_REVOCATION_THRESHOLD: u32 = 0x0020_0000;
    /// [`WITHOUT_MODULE_ADMINISTRATORS`] may be changed.
    pub const CHANGE_MODULE_ADMINISTRATORS: u32 = 0x8000_0000;
    /// What, once taken away, only zeroizing gives back.
    pub const LOCKS: u32 =
        CHANGE_SIGNATURE_THRESHOLD | CHANGE_REVOCATION_THRESHOLD | CHANGE_MODULE_ADMINISTRATORS;
}

/// Control points: what a unit's firmware offers beyond the usual (EP11's `XCP_CPB_*`).
pub mod control_point {
    /// Curve25519 and Curve448.
    pub const ALG_EC_25519: u32 = 55;
    /// Key derivation after BIP 32 and SLIP 10.
    pub const BTC: u32 = 66;
    /// Signatures other than ECDSA on EC keys: Schnorr.
    pub const ECDSA_OTHER: u32 = 67;
    /// All, with their names.
    pub const ALL: [(u32, &str); 3] =
        [(ALG_EC_25519, "XCP_CPB_ALG_EC_25519"), (BTC, "XCP_CPB_BTC"), (ECDSA_OTHER, "XCP_CPB_ECDSA_OTHER")];
}

/// Proof that a command may be carried out.
pub(super) struct Verified<'a>(&'a Command);

impl<'a> Verified<'a> {
    pub fn command(&self) -> &'a Command {
        self.0
    }
}

impl Administration {
    /// No administrators, no thresholds.
    pub fn imprint(control_points: Vec<u32>) -> Self {
        Self {
            administrators: Vec::new(),
            signature_threshold: 0,
            revocation_threshold: 0,
            permissions: permission::THRESHOLD_OF_ONE
                | permission::CHANGE_SIGNATURE_THRESHOLD
                | permission::CHANGE_REVOCATION_THRESHOLD
                | permission::CHANGE_MODULE_ADMINISTRATORS,
            control_points,
            counter: 0,
        }
    }

    /// Zeroized: everything but the counter and the firmware's control points is as new.
    pub fn zeroized(&self) -> Self {
        Self { counter: self.counter, ..Self::imprint(self.control_points.clone()) }
    }

    /// Has it no thresholds yet?
    pub fn in_imprint_mode(&self) -> bool {
        self.signature_threshold == 0
    }

    /// Is this permitted?
    pub fn permits(&self, permission: u32) -> bool {
        self.permissions & permission == permission
    }

    /// Counter and signatures. The caller uses the counter up whatever then becomes of the command, so that what
    /// administrators have signed is good for one attempt only.
    ///
    /// # Errors
    /// The unit's refusal.
    pub(super) fn verify<'a>(
        &self,
        request: &Request,
        block: &'a CommandBlock,
    ) -> Result<Verified<'a>, Refusal> {
        if self.counter.checked_add(1) != Some(block.counter) {
            return Err(Refusal::COUNTER);
        }
        if request.signatures().len() > MAX_ADMINISTRATORS {
            return Err(Refusal::MALFORMED);
        }
        let mut signers: Vec<SubjectKeyIdentifier> = Vec::new();
        for signature in request.signatures() {
            let signer = signature.signer().ok_or(Refusal::MALFORMED)?;
            let administrator = self.administrator(&signer).ok_or(Refusal::UNKNOWN_SIGNER)?;
            match administrator.verify(request.signed_bytes(), signature.value()) {
                None => return Err(Refusal::MALFORMED),
                Some(false) => return Err(Refusal::SIGNATURE_WRONG),
                Some(true) if signers.contains(&signer) => {}
                Some(true) => signers.push(signer),
            }
        }
        let needed = signatures_needed(
            self.signature_threshold,
            self.revocation_threshold,
            self.permissions,
            &block.command,
        )?;
        if let Command::SetAttributes(attributes) = &block.command
            && self.in_imprint_mode()
        {
            // What cannot be is said before signatures are asked for.
            self.with_attributes(attributes)?;
        }
        if (signers.len() as u64) < u64::from(needed) {
            return Err(Refusal::TOO_FEW_SIGNATURES);
        }
        Ok(Verified(&block.command))
    }

    fn administrator(&self, id: &SubjectKeyIdentifier) -> Option<&Administrator> {
        self.administrators.iter().find(|administrator| administrator.subject_key_identifier() == *id)
    }

    /// With one more administrator.
    pub(super) fn with_administrator(&self, administrator: &Administrator) -> Result<Self, Refusal> {
        if !administrator.is_valid() {
            return Err(Refusal::MALFORMED);
        }
        if self.administrator(&administrator.subject_key_identifier()).is_some() {
            return Err(Refusal::ADMINISTRATOR_INSTALLED);
        }
        if self.administrators.len() >= MAX_ADMINISTRATORS {
            return Err(Refusal::TOO_MANY_ADMINISTRATORS);
        }
        let mut changed = self.clone();
        changed.administrators.push(administrator.clone());
        Ok(changed)
    }

    /// Without this administrator.
    pub(super) fn without_administrator(&self, id: &SubjectKeyIdentifier) -> Result<Self, Refusal> {
        let position = self
            .administrators
            .iter()
            .position(|administrator| administrator.subject_key_identifier() == *id)
            .ok_or(Refusal::UNKNOWN_ADMINISTRATOR)?;
        let left = self.administrators.len() as u32 - 1;
        if !self.in_imprint_mode() {
            if left == 0 {
                return Err(Refusal::LAST_ADMINISTRATOR);
            }
            // Without that permission no threshold is 1: said first, because it is the lasting reason.
            if left == 1 && !self.permits(permission::THRESHOLD_OF_ONE) {
                return Err(Refusal::SECOND_LAST_ADMINISTRATOR);
            }
            if left < self.signature_threshold.max(self.revocation_threshold) {
                return Err(Refusal::BELOW_THRESHOLD);
            }
        }
        let mut changed = self.clone();
        changed.administrators.remove(position);
        Ok(changed)
    }

    /// With other thresholds and permissions.
    pub(super) fn with_attributes(&self, attributes: &DomainAttributes) -> Result<Self, Refusal> {
        let leaving = self.in_imprint_mode();
        let mut changed = self.clone();
        if let Some(permissions) = attributes.permissions {
            self.check_permissions(permissions)?;
            changed.permissions = permissions;
        }
        let installed = self.administrators.len() as u32;
        if let Some(threshold) = attributes.signature_threshold {
            self.check_change(threshold, self.signature_threshold, permission::CHANGE_SIGNATURE_THRESHOLD)?;
            changed.signature_threshold = threshold;
        }
        if let Some(threshold) = attributes.revocation_threshold {
            if threshold == 0 && leaving {
                return Err(Refusal::LEAVING_WITH_REVOCATION_ZERO);
            }
            self.check_change(threshold, self.revocation_threshold, permission::CHANGE_REVOCATION_THRESHOLD)?;
            changed.revocation_threshold = threshold;
        }
        if changed.signature_threshold == 0 {
            return Err(Refusal::THRESHOLD_ZERO);
        }
        if changed.revocation_threshold == 0 {
            return Err(if leaving {
                Refusal::REVOCATION_THRESHOLD_MISSING
            } else {
                Refusal::REVOCATION_ZERO
            });
        }
        if changed.signature_threshold > installed {
            return Err(Refusal::THRESHOLD_ABOVE_ADMINISTRATORS);
        }
        if changed.revocation_threshold > installed {
            return Err(Refusal::REVOCATION_ABOVE_ADMINISTRATORS);
        }
        if !changed.permits(permission::THRESHOLD_OF_ONE) {
            let set_now = |threshold: Option<u32>| threshold == Some(1);
            if set_now(attributes.signature_threshold) {
                return Err(Refusal::THRESHOLD_OF_ONE);
            }
            if set_now(attributes.revocation_threshold) {
                return Err(Refusal::REVOCATION_OF_ONE);
            }
            if changed.signature_threshold == 1 || changed.revocation_threshold == 1 {
                return Err(Refusal::ONE_NOT_PERMITTED);
            }
        }
        Ok(changed)
    }

    fn check_change(&self, new: u32, old: u32, permission: u32) -> Result<(), Refusal> {
        if new != old && !self.permits(permission) { Err(Refusal::THRESHOLD_LOCKED) } else { Ok(()) }
    }

    /// What has been locked stays locked until the unit is zeroized: else a single command would undo it.
    fn check_permissions(&self, new: u32) -> Result<(), Refusal> {
        let gained = new & !self.permissions;
        let lost_or_gained = new ^ self.permissions;
        let module_administrators_locked = !self.permits(permission::CHANGE_MODULE_ADMINISTRATORS)
            && lost_or_gained & permission::WITHOUT_MODULE_ADMINISTRATORS != 0;
        if gained & permission::LOCKS != 0 || module_administrators_locked {
            return Err(Refusal::ATTRIBUTE_NOT_PERMITTED);
        }
        Ok(())
    }

    /// With more control points.
    pub(super) fn with_control_points(&self, points: &[u32]) -> Result<Self, Refusal> {
        if points.iter().any(|point| control_point::ALL.iter().all(|(known, _)| known != point)) {
            return Err(Refusal::CONTROL_POINT_NOT_SETTABLE);
        }
        let mut changed = self.clone();
        changed.control_points.extend_from_slice(points);
        changed.control_points.sort_unstable();
        changed.control_points.dedup();
        Ok(changed)
    }

    /// With these control points and no others: none of those that are set may be missing.
    pub(super) fn with_all_control_points(&self, points: &[u32]) -> Result<Self, Refusal> {
        if self.control_points.iter().any(|set| !points.contains(set)) {
            return Err(Refusal::CONTROL_POINT_NOT_RESETTABLE);
        }
        self.with_control_points(points)
    }
}

/// May a unit of this type have these permissions? Only a recovery unit gives its master key away or makes one.
pub(super) fn fits(unit_type: UnitType, permissions: u32) -> bool {
    unit_type == UnitType::Recovery || permissions & (permission::EXPORT | permission::RANDOM) == 0
}
