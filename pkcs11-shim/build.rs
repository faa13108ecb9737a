//! Linker options of the shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // `dlclose` must not unmap code that thread-local destructors, `atexit` handlers of the linked
    // cryptographic libraries or another thread's running call still need.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
