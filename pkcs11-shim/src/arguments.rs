//! The caller's pointers. Everything that C code hands over is read and written here, and nowhere else.
//!
//! Memory is read when an argument is made and written when a result is delivered; in between, the inner
//! layers have plain Rust values, so that input and output may lie in the same place, as PKCS #11 allows.
//!
//! The one unsafe function is the constructor of [`Caller`]: it takes the promise that all methods rely on.
#![allow(unsafe_code)]
#![allow(clippy::not_unsafe_ptr_arg_deref, reason = "who has a Caller has made the promise")]

use std::marker::PhantomData;
use std::{ptr, slice};

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Attributes, Error, Result};

use crate::attribute_kinds::{Representation, representation};
use crate::object::AttributeValue;
use crate::output::{Output, Room};

/// The caller's promise, for the time of one call: every pointer is NULL, or points at as much memory as the
/// standard says of that argument, and nobody else changes it meanwhile.
pub struct Caller<'a>(PhantomData<&'a ()>);

impl<'a> Caller<'a> {
    /// Takes the promise.
    ///
    /// # Safety
    /// All pointers given to the methods must keep it.
    pub unsafe fn new() -> Self {
        Self(PhantomData)
    }

    /// `len` values. NULL with length 0 is empty.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn slice<T: Copy>(&self, pointer: *const T, len: CK_ULONG) -> Result<&'a [T]> {
        if len == 0 {
            return Ok(&[]);
        }
        let len = usize::try_from(len).map_err(|_| bad("a length is out of range"))?;
        let fits = len.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= isize::MAX as usize);
        if pointer.is_null() || !fits || !pointer.is_aligned() {
            return Err(bad("a pointer is NULL or a length is out of range"));
        }
        // SAFETY: not NULL, aligned, at most isize::MAX bytes; the caller promises that they are there.
        Ok(unsafe { slice::from_raw_parts(pointer, len) })
    }

    /// A structure that is read.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn value<T: Copy>(&self, pointer: *const T) -> Result<T> {
        if pointer.is_null() {
            return Err(bad("a pointer is NULL"));
        }
        // SAFETY: not NULL; the caller promises a value there, aligned or not.
        Ok(unsafe { pointer.read_unaligned() })
    }

    /// A place for a result of fixed size.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn out<T>(&self, pointer: *mut T) -> Result<OutRef<'a, T>> {
        if pointer.is_null() {
            return Err(bad("a pointer for a result is NULL"));
        }
        Ok(OutRef { pointer, promise: PhantomData })
    }

    /// A place for results of variable number, and for the number.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn out_buffer<T>(&self, pointer: *mut T, len: *mut CK_ULONG) -> Result<OutBuf<'a, T>> {
        let room = if pointer.is_null() {
            Room::Query
        } else {
            Room::Bytes(usize::try_from(self.value(len)?).map_err(|_| bad("a length is out of range"))?)
        };
        Ok(OutBuf { pointer, len: self.out(len)?, room })
    }

    /// A place for exactly `len` bytes.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn out_exact(&self, pointer: *mut CK_BYTE, len: CK_ULONG) -> Result<OutExact<'a>> {
        let len = usize::try_from(len).map_err(|_| bad("a length is out of range"))?;
        if pointer.is_null() && len > 0 {
            return Err(bad("a pointer for a result is NULL"));
        }
        Ok(OutExact { pointer, len, promise: PhantomData })
    }

    /// A template of an object.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`; `CKR_ATTRIBUTE_VALUE_INVALID` for a value of the wrong size;
    /// `CKR_TEMPLATE_INCONSISTENT` for an attribute twice.
    pub fn template(&self, pointer: *const CK_ATTRIBUTE, count: CK_ULONG) -> Result<Attributes> {
        self.attributes(pointer, count, |_, _| false)
    }

    /// A template to search by: the same attribute twice changes nothing.
    ///
    /// # Errors
    /// As [`Caller::template`]; `CKR_TEMPLATE_INCONSISTENT` for an attribute with two values.
    pub fn search_template(&self, pointer: *const CK_ATTRIBUTE, count: CK_ULONG) -> Result<Attributes> {
        self.attributes(pointer, count, |one, other| one == other)
    }

    /// `may_repeat`: may an attribute that has the first value come again with the second one?
    fn attributes(
        &self,
        pointer: *const CK_ATTRIBUTE,
        count: CK_ULONG,
        may_repeat: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Result<Attributes> {
        let mut attributes = Attributes::new();
        for entry in self.slice(pointer, check_count(count)?)? {
            let value = if representation(entry.type_) == Representation::Template {
                self.nested_template(entry)?
            } else {
                normalised(entry.type_, self.slice(entry.pValue.cast::<u8>(), entry.ulValueLen)?)?
            };
            if attributes.get(entry.type_).is_some_and(|other| !may_repeat(other, &value)) {
                return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, "an attribute is in the template twice"));
            }
            attributes.set(entry.type_, value);
        }
        Ok(attributes)
    }

    /// A template within a template.
    fn nested_template(&self, entry: &CK_ATTRIBUTE) -> Result<Vec<u8>> {
        let invalid = |message| Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, message));
        let size = size_of::<CK_ATTRIBUTE>() as CK_ULONG;
        if !entry.ulValueLen.is_multiple_of(size) {
            return invalid("a template within the template has the wrong size");
        }
        let (pointer, count) = (entry.pValue.cast::<CK_ATTRIBUTE>().cast_const(), entry.ulValueLen / size);
        let is_template = |inner: &CK_ATTRIBUTE| representation(inner.type_) == Representation::Template;
        if self.slice(pointer, check_count(count)?)?.iter().any(is_template) {
            return invalid("a template within the template has another one within");
        }
        Ok(self.template(pointer, count)?.encode().to_vec())
    }

    /// `C_GetAttributeValue`: answers every entry of the template, and gives the error of the standard's
    /// choice if some could not be answered.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_SENSITIVE`, `CKR_ATTRIBUTE_TYPE_INVALID`, `CKR_BUFFER_TOO_SMALL`, and what else `answer` gives.
    pub fn fill_template(
        &self,
        pointer: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        answer: impl Fn(CK_ATTRIBUTE_TYPE) -> Result<AttributeValue>,
    ) -> Result<()> {
        let entries: Vec<CK_ATTRIBUTE> = self.slice(pointer.cast_const(), check_count(count)?)?.to_vec();
        let mut first_error = Ok(());
        for (i, entry) in entries.iter().enumerate() {
            let result = answer(entry.type_).and_then(|value| {
                if representation(entry.type_) == Representation::Template {
                    self.fill_nested(entry, &Attributes::decode(value.as_bytes())?)
                } else {
                    fill_value(entry, value.as_bytes())
                }
            });
            let len = match result {
                Ok(len) => len,
                Err(error) => {
                    let of_this_attribute = matches!(
                        error.code,
                        CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL
                    );
                    if !of_this_attribute {
                        return Err(error);
                    }
                    if first_error.is_ok() {
                        first_error = Err(error);
                    }
                    CK_UNAVAILABLE_INFORMATION
                }
            };
            // SAFETY: entry i was read from here before, and the caller promises that it may be written.
            unsafe { (*pointer.add(i)).ulValueLen = len };
        }
        first_error
    }

    /// Answers one entry with a template: as many entries as it has, each with what fits.
    fn fill_nested(&self, entry: &CK_ATTRIBUTE, template: &Attributes) -> Result<CK_ULONG> {
        let len = (template.len() * size_of::<CK_ATTRIBUTE>()) as CK_ULONG;
        if entry.pValue.is_null() {
            return Ok(len);
        }
        if entry.ulValueLen < len {
            return Err(too_small());
        }
        let pointer = entry.pValue.cast::<CK_ATTRIBUTE>();
        let places = self.slice(pointer.cast_const(), template.len() as CK_ULONG)?.to_vec();
        let mut outcome = Ok(len);
        for (i, ((kind, value), place)) in template.iter().zip(&places).enumerate() {
            let filled = fill_value(place, value);
            let value_len = *filled.as_ref().unwrap_or(&CK_UNAVAILABLE_INFORMATION);
            // SAFETY: it was read from here before, and the caller promises that it may be written.
            unsafe {
                *pointer.add(i) = CK_ATTRIBUTE { type_: kind, pValue: place.pValue, ulValueLen: value_len }
            };
            outcome = outcome.and_then(|len| filled.map(|_| len));
        }
        outcome
    }

    /// A mechanism with its parameter; `None` for NULL.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn optional_mechanism(&self, pointer: *const CK_MECHANISM) -> Result<Option<Mechanism>> {
        if pointer.is_null() { Ok(None) } else { self.mechanism(pointer).map(Some) }
    }

    /// The number at an address that may be no address at all: the kernel is asked to read it.
    fn probe(&self, address: CK_ULONG) -> Option<CK_ULONG> {
        let mut number: CK_ULONG = 0;
        let len = size_of::<CK_ULONG>();
        let here = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: len };
        let there =
            libc::iovec { iov_base: usize::try_from(address).ok()? as *mut std::ffi::c_void, iov_len: len };
        // SAFETY: both are lists of one; what can't be read is an error of the call.
        let read =
            unsafe { libc::process_vm_readv(libc::getpid(), &raw const here, 1, &raw const there, 1, 0) };
        (usize::try_from(read) == Ok(len)).then_some(number)
    }

    /// A mechanism without its parameter; `None` for NULL.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn optional_mechanism_kind(&self, pointer: *const CK_MECHANISM) -> Result<Option<CK_MECHANISM_TYPE>> {
        if pointer.is_null() { Ok(None) } else { self.value(pointer).map(|given| Some(given.mechanism)) }
    }

    /// Is this text, with the NUL that ends it? Nothing is read behind the first byte that differs.
    pub fn is_text(&self, pointer: *const CK_BYTE, text: &[u8]) -> bool {
        text.iter().enumerate().all(|(i, byte)| {
            // SAFETY: the caller promises a text that ends with NUL, and the bytes before this one were no NUL.
            *byte == unsafe { *pointer.add(i) }
        })
    }

    /// Checks the argument of `C_Initialize`. The library uses the system's locks in any case: they work
    /// whichever the application's callbacks are.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn initialize(&self, pointer: *const CK_C_INITIALIZE_ARGS) -> Result<()> {
        if pointer.is_null() {
            return Ok(());
        }
        let arguments = self.value(pointer)?;
        if !arguments.pReserved.is_null() {
            return Err(bad("pReserved is not NULL"));
        }
        let callbacks = [
            arguments.CreateMutex.is_some(),
            arguments.DestroyMutex.is_some(),
            arguments.LockMutex.is_some(),
            arguments.UnlockMutex.is_some(),
        ];
        if callbacks.contains(&true) && callbacks.contains(&false) {
            return Err(bad("either all mutex callbacks are given or none"));
        }
        Ok(())
    }
}

/// A place for a result of fixed size.
pub struct OutRef<'a, T> {
    pointer: *mut T,
    promise: PhantomData<&'a mut T>,
}

impl<T> OutRef<'_, T> {
    /// Delivers the result.
    pub fn write(&self, value: T) {
        // SAFETY: not NULL, and the caller promises room for a T, aligned or not.
        unsafe { self.pointer.write_unaligned(value) };
    }
}

/// A place for results of variable number: the two-call convention of section 5.2.
pub struct OutBuf<'a, T> {
    pointer: *mut T,
    len: OutRef<'a, CK_ULONG>,
    room: Room,
}

impl<T: Copy> OutBuf<'_, T> {
    /// How many fit.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Delivers a list.
    ///
    /// # Errors
    /// `CKR_BUFFER_TOO_SMALL`.
    pub fn deliver_list(&self, list: &[T]) -> Result<()> {
        self.len.write(list.len() as CK_ULONG);
        match self.room {
            Room::Query => Ok(()),
            Room::Bytes(room) if room < list.len() => Err(too_small()),
            Room::Bytes(_) => {
                // SAFETY: not NULL (else it's a query), and the caller promises room for at least as many.
                unsafe {
                    ptr::copy_nonoverlapping(
                        list.as_ptr().cast::<u8>(),
                        self.pointer.cast(),
                        size_of_val(list),
                    );
                }
                Ok(())
            }
        }
    }
}

impl OutBuf<'_, CK_BYTE> {
    /// Delivers what an operation gave.
    ///
    /// # Errors
    /// `CKR_BUFFER_TOO_SMALL`.
    pub fn deliver(&self, output: Output) -> Result<()> {
        match output {
            Output::Length(len) => {
                self.len.write(len as CK_ULONG);
                Ok(())
            }
            Output::TooSmall(len) => {
                self.len.write(len as CK_ULONG);
                Err(too_small())
            }
            Output::Public(bytes) => self.deliver_list(&bytes),
            Output::Secret(bytes) => self.deliver_list(&bytes),
        }
    }
}

/// A place for exactly as many bytes as the caller wants.
pub struct OutExact<'a> {
    pointer: *mut CK_BYTE,
    len: usize,
    promise: PhantomData<&'a mut CK_BYTE>,
}

impl OutExact<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// What is there now.
    pub fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: not NULL, and the caller promises `len` bytes.
        unsafe { slice::from_raw_parts(self.pointer, self.len) }
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Delivers them.
    ///
    /// # Errors
    /// `CKR_GENERAL_ERROR` if there are more or fewer.
    pub fn deliver(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.len {
            return Err(Error::new(CKR_GENERAL_ERROR, "not as many bytes as were wanted"));
        }
        // SAFETY: not NULL unless there is nothing to write; the caller promises room for `len` bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer, bytes.len()) };
        Ok(())
    }
}

/// Answers one entry of a template: the value if there is room, and its length.
fn fill_value(entry: &CK_ATTRIBUTE, value: &[u8]) -> Result<CK_ULONG> {
    if !entry.pValue.is_null() {
        if usize::try_from(entry.ulValueLen).is_ok_and(|room| room < value.len()) {
            return Err(Error::new(CKR_BUFFER_TOO_SMALL, "the buffer of an attribute is too small"));
        }
        // SAFETY: not NULL, and the caller promises ulValueLen bytes, which suffice.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), entry.pValue.cast::<u8>(), value.len()) };
    }
    Ok(value.len() as CK_ULONG)
}

/// A value in the representation that the inner layers know: numbers of 8 bytes, booleans 0 or 1.
fn normalised(kind: CK_ATTRIBUTE_TYPE, value: &[u8]) -> Result<Vec<u8>> {
    match (representation(kind), value) {
        (Representation::Bool, [byte]) => Ok(vec![u8::from(*byte != 0)]),
        (Representation::Ulong, value) if value.len() == size_of::<CK_ULONG>() => Ok(value.to_vec()),
        (Representation::Ulongs, value) if value.len() % size_of::<CK_ULONG>() == 0 => Ok(value.to_vec()),
        (Representation::Bytes, value) if value.len() <= MAX_VALUE_BYTES => Ok(value.to_vec()),
        _ => Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "an attribute's value has the wrong size")),
    }
}

fn check_count(count: CK_ULONG) -> Result<CK_ULONG> {
    if count > MAX_ATTRIBUTES { Err(bad("more attributes than there are")) } else { Ok(count) }
}

fn bad(message: &'static str) -> Error {
    Error::new(CKR_ARGUMENTS_BAD, message)
}

fn too_small() -> Error {
    Error::new(CKR_BUFFER_TOO_SMALL, "the buffer is too small")
}

/// No object has nearly as many attributes: what is above is not a count.
const MAX_ATTRIBUTES: CK_ULONG = 1024;
/// Data objects and certificates; no key comes near.
const MAX_VALUE_BYTES: usize = 16 << 20;

mod parameters;
#[cfg(test)]
mod tests;
