//! Why a unit refuses an administrative command: EP11's return and reason codes.

use std::fmt;

/// A return code and a reason code; reason 0 where none is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// EP11's return code.
    pub return_code: u32,
    /// EP11's reason code.
    pub reason_code: u32,
}

/// Defines the table of refusals.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $return:literal / $reason:literal, $message:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* #[doc = $message] pub const $name: Self = Self { return_code: $return, reason_code: $reason };)*

            /// What it means.
            pub fn message(&self) -> &'static str {
                match (self.return_code, self.reason_code) {
                    $(($return, $reason) => $message,)*
                    _ => "",
                }
            }
        }
    };
}

refusals! {
    NONE = 0 / 0, "The command was carried out.";
    UNKNOWN_ADMINISTRATOR = 32 / 32, "The administrator is not installed in the crypto unit.";
    CONTROL_POINT_NOT_SETTABLE = 80 / 46, "The control point cannot be set.";
    CONTROL_POINT_NOT_RESETTABLE = 80 / 47, "A control point that is set cannot be reset.";
    RANDOM_NOT_PERMITTED = 80 / 52, "The crypto unit may not generate a random master key.";
    IMPORT_NOT_PERMITTED = 80 / 80, "The crypto unit may not import a master key.";
    SINGLE_PART_NOT_PERMITTED = 80 / 81, "The crypto unit may not import a master key in a single part.";
    EXPORT_NOT_PERMITTED = 80 / 131, "The crypto unit may not export its master key.";
    ATTRIBUTE_NOT_PERMITTED = 80 / 0, "The attributes of the crypto unit forbid the command.";
    NO_IMPORTER_KEY = 101 / 1, "There is no importer key for the master key parts.";
    PATTERN_MISMATCH = 101 / 48, "The verification pattern differs from that of the pending master key.";
    NO_CURRENT_KEY = 101 / 49, "The current master key register is empty.";
    NO_PENDING_KEY = 101 / 50, "There is no pending master key in the new master key register.";
    SAME_KEY = 101 / 51, "The new master key is the same as the current master key.";
    BOTH_REGISTERS_FULL = 101 / 53, "Both master key registers are full.";
    NO_COMMITTED_KEY = 101 / 64, "The new master key register holds no committed master key.";
    PARTS_INVALID = 101 / 0, "The master key parts do not authenticate, or there are not 1 to 3, or they cancel out.";
    COUNTER = 163 / 19, "The transaction counter is wrong: another session used the crypto unit at the same time, or the command was sent before. Try again.";
    IMPRINT_MODE = 179 / 34, "The command is not possible in imprint mode.";
    SIGNATURE_WRONG = 192 / 0, "A signature is wrong.";
    MALFORMED = 193 / 0, "The command or a signature is malformed.";
    TOO_FEW_SIGNATURES = 208 / 21, "The command has not enough signatures.";
    LEAVING_WITH_REVOCATION_ZERO = 209 / 36, "The revocation signature threshold cannot be 0 when imprint mode is left.";
    REVOCATION_THRESHOLD_MISSING = 209 / 56, "Imprint mode cannot be left without a revocation signature threshold.";
    THRESHOLD_ABOVE_ADMINISTRATORS = 209 / 57, "The signature threshold is larger than the number of installed administrators.";
    REVOCATION_ABOVE_ADMINISTRATORS = 209 / 58, "The revocation signature threshold is larger than the number of installed administrators.";
    BELOW_THRESHOLD = 209 / 66, "Fewer administrators than a signature threshold would be left.";
    SECOND_LAST_ADMINISTRATOR = 209 / 67, "A single administrator would be left, and a single signature is not permitted.";
    LAST_ADMINISTRATOR = 209 / 68, "The last administrator cannot be removed.";
    THRESHOLD_LOCKED = 209 / 71, "The signature threshold may not be changed.";
    ONE_NOT_PERMITTED = 209 / 74, "A threshold of 1 is in use and cannot be forbidden.";
    THRESHOLD_ZERO = 209 / 76, "The signature threshold cannot be 0.";
    REVOCATION_ZERO = 209 / 77, "The revocation signature threshold cannot be 0.";
    THRESHOLD_OF_ONE = 209 / 78, "A signature threshold of 1 is not permitted.";
    REVOCATION_OF_ONE = 209 / 79, "A revocation signature threshold of 1 is not permitted.";
    ADMINISTRATOR_INSTALLED = 256 / 38, "The administrator is already installed.";
    UNKNOWN_SIGNER = 257 / 0, "A signer is not an administrator of the crypto unit.";
    TOO_MANY_ADMINISTRATORS = 261 / 39, "The crypto unit already has 8 administrators.";
    INTERNAL = 2_147_549_186 / 0, "The crypto unit failed.";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "return code {}, reason code {}: {}", self.return_code, self.reason_code, self.message())
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Refusal {}
