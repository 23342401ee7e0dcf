//! CPU of a cipher alone, which no TLS relay can go below.

use std::time::Duration;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustix::time::{ClockId, clock_gettime};
use rustls::CipherSuite;

/// What a full TLS record carries.
const RECORD: usize = 16 << 10;

/// Seconds of CPU per GiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) seal: f64,
    pub(crate) open: f64,
}

/// Measures sealing and opening records of full size in place, in this thread.
pub(crate) fn measure(suite: CipherSuite, bytes: u64) -> Cost {
    let algorithm = algorithm(suite);
    let key = UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).unwrap();
    let key = LessSafeKey::new(key);
    let records = (bytes / RECORD as u64).max(1);
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    let mut record = vec![0; RECORD];
    for number in 0..records {
        let nonce = || {
            let mut nonce = [0; NONCE_LEN];
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        let start = cpu();
        key.seal_in_place_append_tag(nonce(), Aad::from([23; 5]), &mut record)
            .unwrap();
        let sealed = cpu();
        key.open_in_place(nonce(), Aad::from([23; 5]), &mut record)
            .unwrap();
        opening += cpu() - sealed;
        sealing += sealed - start;
        record.truncate(RECORD);
    }
    let per_gib = |it: Duration| it.as_secs_f64() * f64::from(1 << 30) / (records as f64 * 16384.0);
    Cost {
        seal: per_gib(sealing),
        open: per_gib(opening),
    }
}

fn algorithm(suite: CipherSuite) -> &'static Algorithm {
    let name = format!("{suite:?}");
    if name.contains("AES_128_GCM") {
        &AES_128_GCM
    } else if name.contains("AES_256_GCM") {
        &AES_256_GCM
    } else {
        &CHACHA20_POLY1305
    }
}

/// The CPU time of this thread so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
