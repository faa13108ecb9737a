//! A stream of segments from whoever can write to the disk: nothing that was not sealed is opened.
#![no_main]

use cos_service::content::segments::{HEADER_LEN, Layout, Opener, Sealer};
use libfuzzer_sys::fuzz_target;

const SEGMENT: u32 = 100;

fuzz_target!(|input: (Vec<u8>, Vec<(u16, u8)>, u8, u8)| {
    let (plaintext, changes, first, last) = input;
    let mut sealer = Sealer::new(&[1; 32], b"identity", SEGMENT).expect("sealer");
    sealer.update(&plaintext).expect("update");
    let mut stored = sealer.finish().expect("finish");
    let original = stored.clone();
    for (at, mask) in changes {
        let at = usize::from(at) % stored.len();
        stored[at] ^= mask;
    }
    let layout = Layout::new(SEGMENT, plaintext.len() as u64).expect("layout");
    assert_eq!(layout.stored(), stored.len() as u64);
    let header: [u8; HEADER_LEN] = stored[..HEADER_LEN].try_into().expect("header");
    let Ok(opener) = Opener::new(&[1; 32], b"identity", &header, layout) else { return };
    let last = u64::from(last) % layout.count();
    let first = u64::from(first) % (last + 1);
    let range = layout.ciphertext(first).start as usize..layout.ciphertext(last).end as usize;
    let mut opened = Vec::new();
    if opener.open(first, last, &stored[range.clone()], &mut opened).is_ok() {
        assert_eq!(stored[..HEADER_LEN], original[..HEADER_LEN]);
        assert_eq!(stored[range.clone()], original[range]);
        let wanted = layout.plaintext(first).start as usize..layout.plaintext(last).end as usize;
        assert_eq!(opened, plaintext[wanted]);
    }
});
