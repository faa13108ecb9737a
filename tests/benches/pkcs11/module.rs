//! A PKCS #11 module in this process, by its list of functions. Output goes into buffers that are large enough, so that
//! no call is made only to learn a length.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::path::Path;
use std::ptr::null_mut;

use cryptoki_sys::*;
use integration_tests::arguments::{Mechanism, Outcome, Template, attributes, check, parts};

/// A module that has been loaded, and stays so.
#[derive(Clone, Copy)]
pub struct Module {
    functions: &'static CK_FUNCTION_LIST,
}

/// An open session, and room for what its calls give.
pub struct Session {
    module: Module,
    slot: CK_SLOT_ID,
    handle: CK_SESSION_HANDLE,
    output: Vec<u8>,
}

/// Calls a function of the list.
///
/// SAFETY, for all uses: every pointer is at a live value of the length that is said.
macro_rules! call {
    ($module:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        let function = $module.functions.$function.expect(stringify!($function));
        check(unsafe { function($($argument),*) })
    }};
}

impl Module {
    pub fn load(path: &Path) -> Self {
        // SAFETY: the module is one that the benchmark is told to measure; it is loaded once and never unloaded.
        let library: &'static Pkcs11 =
            Box::leak(Box::new(unsafe { Pkcs11::new(path) }.expect("load the module")));
        let mut list = null_mut();
        let get = library.C_GetFunctionList.as_ref().expect("C_GetFunctionList");
        // SAFETY: the list lives as long as the library.
        let functions = unsafe {
            check(get(&raw mut list)).expect("C_GetFunctionList");
            list.as_ref().expect("a list of functions")
        };
        Self { functions }
    }

    /// `parameters` are NSS's: it has another member before `pReserved`, which others do not look at.
    pub fn initialize(self, parameters: Option<&str>) -> Outcome<()> {
        #[repr(C)]
        struct Arguments {
            standard: CK_C_INITIALIZE_ARGS,
            reserved: *mut std::ffi::c_void,
        }
        let parameters = parameters.map(|text| CString::new(text).expect("no NUL"));
        let pointer = parameters.as_ref().map_or(null_mut(), |text| text.as_ptr().cast_mut().cast());
        let standard = CK_C_INITIALIZE_ARGS {
            CreateMutex: None,
            DestroyMutex: None,
            LockMutex: None,
            UnlockMutex: None,
            flags: CKF_OS_LOCKING_OK,
            pReserved: pointer,
        };
        let mut arguments = Arguments { standard, reserved: null_mut() };
        call!(self, C_Initialize((&raw mut arguments).cast()))
    }

    pub fn finalize(self) -> Outcome<()> {
        call!(self, C_Finalize(null_mut()))
    }

    /// Those with a token.
    pub fn slots(self) -> Outcome<Vec<CK_SLOT_ID>> {
        let mut slots = [0; 64];
        let mut count = slots.len() as CK_ULONG;
        call!(self, C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &raw mut count))?;
        Ok(slots[..count as usize].to_vec())
    }

    /// Its label, and flags.
    pub fn token(self, slot: CK_SLOT_ID) -> Outcome<(String, CK_FLAGS)> {
        let mut info = CK_TOKEN_INFO::default();
        call!(self, C_GetTokenInfo(slot, &raw mut info))?;
        Ok((String::from_utf8_lossy(&info.label).trim_end().to_owned(), info.flags))
    }

    pub fn init_token(self, slot: CK_SLOT_ID, pin: &str, label: &str) -> Outcome<()> {
        let mut padded = [b' '; 32];
        padded[..label.len()].copy_from_slice(label.as_bytes());
        let (pin, len) = bytes(pin.as_bytes());
        call!(self, C_InitToken(slot, pin, len, padded.as_mut_ptr()))
    }

    pub fn open_session(self, slot: CK_SLOT_ID) -> Outcome<Session> {
        let mut handle = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        call!(self, C_OpenSession(slot, flags, null_mut(), None, &raw mut handle))?;
        Ok(Session { module: self, slot, handle, output: Vec::new() })
    }
}

impl Session {
    /// Makes room for results of this many bytes.
    pub fn with_output(mut self, len: usize) -> Self {
        self.output.resize(len, 0);
        self
    }

    pub fn module(&self) -> Module {
        self.module
    }

    pub fn slot(&self) -> CK_SLOT_ID {
        self.slot
    }

    pub fn close(self) -> Outcome<()> {
        call!(self.module, C_CloseSession(self.handle))
    }

    pub fn login(&self, user: CK_USER_TYPE, pin: &str) -> Outcome<()> {
        let (pin, len) = bytes(pin.as_bytes());
        call!(self.module, C_Login(self.handle, user, pin, len))
    }

    pub fn logout(&self) -> Outcome<()> {
        call!(self.module, C_Logout(self.handle))
    }

    pub fn init_pin(&self, pin: &str) -> Outcome<()> {
        let (pin, len) = bytes(pin.as_bytes());
        call!(self.module, C_InitPIN(self.handle, pin, len))
    }

    pub fn random(&self, out: &mut [u8]) -> Outcome<()> {
        call!(self.module, C_GenerateRandom(self.handle, out.as_mut_ptr(), out.len() as CK_ULONG))
    }

    pub fn digest(&mut self, mechanism: Mechanism<'_>, data: &[u8]) -> Outcome<()> {
        let ((data, data_len), mut mechanism) = (bytes(data), mechanism.inner);
        call!(self.module, C_DigestInit(self.handle, &raw mut mechanism))?;
        let (out, mut len) = self.room();
        call!(self.module, C_Digest(self.handle, data, data_len, out, &raw mut len))
    }

    pub fn encrypt(&mut self, mechanism: Mechanism<'_>, key: CK_OBJECT_HANDLE, data: &[u8]) -> Outcome<()> {
        let ((data, data_len), mut mechanism) = (bytes(data), mechanism.inner);
        call!(self.module, C_EncryptInit(self.handle, &raw mut mechanism, key))?;
        let (out, mut len) = self.room();
        call!(self.module, C_Encrypt(self.handle, data, data_len, out, &raw mut len))
    }

    pub fn sign(&mut self, mechanism: Mechanism<'_>, key: CK_OBJECT_HANDLE, data: &[u8]) -> Outcome<&[u8]> {
        let ((data, data_len), mut mechanism) = (bytes(data), mechanism.inner);
        call!(self.module, C_SignInit(self.handle, &raw mut mechanism, key))?;
        let (out, mut len) = self.room();
        call!(self.module, C_Sign(self.handle, data, data_len, out, &raw mut len))?;
        Ok(&self.output[..len as usize])
    }

    pub fn verify(
        &self,
        mechanism: Mechanism<'_>,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
        signature: &[u8],
    ) -> Outcome<()> {
        let ((data, data_len), mut mechanism) = (bytes(data), mechanism.inner);
        let (signature, len) = bytes(signature);
        call!(self.module, C_VerifyInit(self.handle, &raw mut mechanism, key))?;
        call!(self.module, C_Verify(self.handle, data, data_len, signature, len))
    }

    pub fn wrap(
        &mut self,
        mechanism: Mechanism<'_>,
        wrapping: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Outcome<()> {
        let mut mechanism = mechanism.inner;
        let (out, mut len) = self.room();
        call!(self.module, C_WrapKey(self.handle, &raw mut mechanism, wrapping, key, out, &raw mut len))
    }

    pub fn derive(
        &self,
        mechanism: Mechanism<'_>,
        base: CK_OBJECT_HANDLE,
        template: Template<'_>,
    ) -> Outcome<CK_OBJECT_HANDLE> {
        let (mut mechanism, mut template, mut key) = (mechanism.inner, attributes(template), 0);
        let (template, len) = parts(&mut template);
        call!(self.module, C_DeriveKey(self.handle, &raw mut mechanism, base, template, len, &raw mut key))?;
        Ok(key)
    }

    pub fn generate_key(
        &self,
        mechanism: Mechanism<'_>,
        template: Template<'_>,
    ) -> Outcome<CK_OBJECT_HANDLE> {
        let (mut mechanism, mut template, mut key) = (mechanism.inner, attributes(template), 0);
        let (template, len) = parts(&mut template);
        call!(self.module, C_GenerateKey(self.handle, &raw mut mechanism, template, len, &raw mut key))?;
        Ok(key)
    }

    /// (public, private)
    pub fn generate_key_pair(
        &self,
        mechanism: Mechanism<'_>,
        public: Template<'_>,
        private: Template<'_>,
    ) -> Outcome<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
        let (mut public, mut private) = (attributes(public), attributes(private));
        let ((public, public_len), (private, private_len)) = (parts(&mut public), parts(&mut private));
        let (mut mechanism, mut keys) = (mechanism.inner, (0, 0));
        call!(
            self.module,
            C_GenerateKeyPair(
                self.handle,
                &raw mut mechanism,
                public,
                public_len,
                private,
                private_len,
                &raw mut keys.0,
                &raw mut keys.1,
            )
        )?;
        Ok(keys)
    }

    pub fn create(&self, template: Template<'_>) -> Outcome<CK_OBJECT_HANDLE> {
        let (mut template, mut object) = (attributes(template), 0);
        let (template, len) = parts(&mut template);
        call!(self.module, C_CreateObject(self.handle, template, len, &raw mut object))?;
        Ok(object)
    }

    pub fn destroy(&self, object: CK_OBJECT_HANDLE) -> Outcome<()> {
        call!(self.module, C_DestroyObject(self.handle, object))
    }

    /// How many objects have these attributes; more than two count as two.
    pub fn find(&self, template: Template<'_>) -> Outcome<usize> {
        let mut template = attributes(template);
        let (template, len) = parts(&mut template);
        call!(self.module, C_FindObjectsInit(self.handle, template, len))?;
        let (mut found, mut count) = ([0; 2], 0);
        call!(self.module, C_FindObjects(self.handle, found.as_mut_ptr(), 2, &raw mut count))?;
        call!(self.module, C_FindObjectsFinal(self.handle))?;
        Ok(count as usize)
    }

    fn room(&mut self) -> (*mut CK_BYTE, CK_ULONG) {
        (self.output.as_mut_ptr(), self.output.len() as CK_ULONG)
    }
}

fn bytes(value: &[u8]) -> (*mut CK_BYTE, CK_ULONG) {
    (value.as_ptr().cast_mut(), value.len() as CK_ULONG)
}
