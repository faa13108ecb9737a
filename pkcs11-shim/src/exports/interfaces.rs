//! The lists of functions, and how an application gets at them (version 3.0 section 5.4).

use std::ffi::{CStr, OsStr, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::dual::*;
use super::general::*;
use super::keys::*;
use super::messages::*;
use super::objects::*;
use super::sessions::*;
use super::tokens::*;
use super::*;
use super::{digest::*, encryption::*, signing::*, verification::*};
use crate::module::{CRYPTOKI_2_40, CRYPTOKI_3_0, CRYPTOKI_3_2};

exports! {
    /// Section 5.4.
    always fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) |caller| {
        caller.out(list)?.write((&raw const LIST_2_40).cast_mut());
        Ok(())
    };

    /// Version 3.0 section 5.4.
    always fn C_GetInterfaceList(list: *mut CK_INTERFACE, count: Len) |caller| {
        caller.out_buffer(list, count)?.deliver_list(&INTERFACES.0)
    };

    /// Version 3.0 section 5.4. Without a name or a version: the newest. A child process has to initialise the
    /// library itself, so there is none with `CKF_INTERFACE_FORK_SAFE`.
    always fn C_GetInterface(
        name: Bytes,
        version: *mut CK_VERSION,
        interface: *mut *mut CK_INTERFACE,
        flags: CK_FLAGS,
    ) |caller| {
        let out = caller.out(interface)?;
        let version = if version.is_null() { None } else { Some(caller.value(version)?) };
        let named = name.is_null() || caller.is_text(name, NAME);
        let found = INTERFACES.0.iter().zip(VERSIONS).find(|(_, own)| {
            version.is_none_or(|wanted| (wanted.major, wanted.minor) == (own.major, own.minor))
        });
        match found {
            Some((found, _)) if named && flags == 0 => {
                out.write((&raw const *found).cast_mut());
                Ok(())
            }
            _ => Err(Error::new(CKR_ARGUMENTS_BAD, "there is no such interface")),
        }
    };
}

/// Makes the lists of all versions. A function that is missing does not compile.
macro_rules! lists {
    (
        2.40: $($in_2_40:ident)*;
        3.0: $($in_3_0:ident)*;
        3.2: $($in_3_2:ident)*;
    ) => {
        static LIST_2_40: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: CRYPTOKI_2_40,
            C_GetInfo: Some(C_GetInfo),
            $($in_2_40: Some($in_2_40)),*
        };
        static LIST_3_0: CK_FUNCTION_LIST_3_0 = CK_FUNCTION_LIST_3_0 {
            version: CRYPTOKI_3_0,
            C_GetInfo: Some(info_of_3_0),
            $($in_2_40: Some($in_2_40),)*
            $($in_3_0: Some($in_3_0)),*
        };
        static LIST_3_2: CK_FUNCTION_LIST_3_2 = CK_FUNCTION_LIST_3_2 {
            version: CRYPTOKI_3_2,
            C_GetInfo: Some(info_of_3_2),
            $($in_2_40: Some($in_2_40),)*
            $($in_3_0: Some($in_3_0),)*
            $($in_3_2: Some($in_3_2)),*
        };
    };
}

lists! {
    2.40:
        C_Initialize C_Finalize C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
        C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions
        C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject
        C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects
        C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt
        C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit
        C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate
        C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate
        C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey
        C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent;
    3.0:
        C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel C_MessageEncryptInit C_EncryptMessage
        C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal C_MessageDecryptInit C_DecryptMessage
        C_DecryptMessageBegin C_DecryptMessageNext C_MessageDecryptFinal C_MessageSignInit C_SignMessage
        C_SignMessageBegin C_SignMessageNext C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage
        C_VerifyMessageBegin C_VerifyMessageNext C_MessageVerifyFinal;
    3.2:
        C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit C_VerifySignature C_VerifySignatureUpdate
        C_VerifySignatureFinal C_GetSessionValidationFlags C_AsyncComplete C_AsyncGetID C_AsyncJoin
        C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated;
}

/// Each list's `C_GetInfo` names the list's own version.
unsafe extern "C" fn info_of_3_0(info: *mut CK_INFO) -> CK_RV {
    // SAFETY: as for the exported function.
    give_info(unsafe { Caller::new() }, info, CRYPTOKI_3_0)
}

unsafe extern "C" fn info_of_3_2(info: *mut CK_INFO) -> CK_RV {
    // SAFETY: as for the exported function.
    give_info(unsafe { Caller::new() }, info, CRYPTOKI_3_2)
}

/// Interfaces point at names and lists that never change.
struct Interfaces([CK_INTERFACE; 3]);

// SAFETY: nothing that the pointers lead to is ever written.
unsafe impl Sync for Interfaces {}

/// The newest first.
static INTERFACES: Interfaces = Interfaces([
    interface((&raw const LIST_3_2).cast()),
    interface((&raw const LIST_3_0).cast()),
    interface((&raw const LIST_2_40).cast()),
]);

const VERSIONS: [CK_VERSION; 3] = [CRYPTOKI_3_2, CRYPTOKI_3_0, CRYPTOKI_2_40];

const fn interface(list: *const c_void) -> CK_INTERFACE {
    CK_INTERFACE { pInterfaceName: NAME.as_ptr().cast_mut(), pFunctionList: list.cast_mut(), flags: 0 }
}

static NAME: &[u8] = b"PKCS 11\0";

const _: () = assert!(
    size_of::<CK_FUNCTION_LIST>() == 8 + 68 * size_of::<CK_C_Initialize>()
        && size_of::<CK_FUNCTION_LIST_3_0>() == 8 + 92 * size_of::<CK_C_Initialize>()
        && size_of::<CK_FUNCTION_LIST_3_2>() == 8 + 104 * size_of::<CK_C_Initialize>(),
    "a list has a version, and 68 functions, 92, or 104"
);

/// The file that the loader has taken this code from, by the name that it was asked for: a link is not followed.
pub fn loaded_from() -> Option<PathBuf> {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    let function: CK_C_GetFunctionList = Some(C_GetFunctionList);
    // SAFETY: `dladdr` looks the address up and writes the structure, if its answer is not 0.
    let file = unsafe {
        match libc::dladdr(function? as *const c_void, found.as_mut_ptr()) {
            0 => return None,
            _ => found.assume_init().dli_fname,
        }
    };
    // SAFETY: NULL, or the loader's own text, which stays as long as this code is loaded.
    let file = unsafe { (!file.is_null()).then(|| CStr::from_ptr(file)) }?;
    Some(OsStr::from_bytes(file.to_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_this_code_is_known() {
        let own = std::env::current_exe().expect("running");
        assert_eq!(loaded_from().expect("loaded").canonicalize().expect("there"), own);
    }
}
