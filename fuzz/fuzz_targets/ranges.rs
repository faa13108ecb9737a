//! A range that a client asks for lies within the object, or is refused.
#![no_main]

use cos_service::objects::get::ByteRange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Option<u64>, u64, u64)| {
    let (last, first, size) = input;
    for range in [ByteRange::From(first, last), ByteRange::Last(first)] {
        if let Ok(found) = range.resolve(size) {
            assert!(found.start < found.end && found.end <= size);
        }
    }
});
