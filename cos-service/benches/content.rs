//! How fast content is hashed and sealed, on one thread.

use cos_service::content::{
    checksum::{Algorithm, Hasher},
    etag::Md5,
    segments::{DEFAULT_SEGMENT, HEADER_LEN, LARGE_SEGMENT, Layout, Opener, Sealer},
};
use divan::{Bencher, black_box, counter::BytesCount};

const SIZE: usize = 16 * 1024 * 1024;

fn main() {
    divan::main();
}

#[divan::bench]
fn md5(bencher: Bencher<'_, '_>) {
    let input = vec![1; SIZE];
    bencher.counter(BytesCount::new(SIZE)).bench(|| {
        let mut md5 = Md5::new();
        md5.update(black_box(&input));
        md5.finish()
    });
}

#[divan::bench]
fn md5_reference(bencher: Bencher<'_, '_>) {
    let input = vec![1; SIZE];
    bencher.counter(BytesCount::new(SIZE)).bench(|| {
        let mut md5 = Md5::reference();
        md5.update(black_box(&input));
        md5.finish()
    });
}

#[divan::bench(args = [Algorithm::Crc32, Algorithm::Crc64nvme, Algorithm::Sha256])]
fn checksum(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let input = vec![1; SIZE];
    bencher.counter(BytesCount::new(SIZE)).bench(|| {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(black_box(&input));
        hasher.finish()
    });
}

#[divan::bench(args = [DEFAULT_SEGMENT, LARGE_SEGMENT])]
fn seal(bencher: Bencher<'_, '_>, segment: u32) {
    let input = vec![1; SIZE];
    bencher.counter(BytesCount::new(SIZE)).bench(|| sealed(black_box(&input), segment));
}

#[divan::bench(args = [DEFAULT_SEGMENT, LARGE_SEGMENT])]
fn open(bencher: Bencher<'_, '_>, segment: u32) {
    let stored: Vec<u8> = sealed(&vec![1; SIZE], segment);
    let layout = Layout::new(segment, SIZE as u64).expect("layout");
    let header = stored.first_chunk::<HEADER_LEN>().expect("header");
    let opener = Opener::new(&[7; 32], b"", header, layout).expect("opener");
    let mut plaintext = Vec::with_capacity(2 * SIZE);
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
        plaintext.clear();
        opener.open(0, layout.count() - 1, black_box(&stored[HEADER_LEN..]), &mut plaintext).expect("opens");
    });
}

fn sealed(input: &[u8], segment: u32) -> Vec<u8> {
    let mut sealer = Sealer::new(&[7; 32], b"", segment).expect("sealer");
    let mut stored = Vec::with_capacity(input.len() + input.len() / 64);
    for chunk in input.chunks(1024 * 1024) {
        sealer.update(chunk).expect("seals");
        stored.extend_from_slice(sealer.ready());
        sealer.drain();
    }
    stored.extend(sealer.finish().expect("seals"));
    stored
}
