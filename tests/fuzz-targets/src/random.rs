//! What targets make of their first bytes: cuts, and long inputs of short ones.

use fastrand::Rng;

/// Returns `bytes` cut into up to eight pieces, some of them empty.
pub(crate) fn cut<'a>(random: &mut Rng, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let cuts = 0..random.usize(..8);
    let mut cuts: Vec<usize> = cuts.map(|_| random.usize(..=bytes.len())).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|it| &bytes[it[0]..it[1]]).collect()
}

/// Returns the first byte, and what comes behind it.
pub(crate) fn split_first(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |it| (*it.0, it.1))
}

/// Returns `packed` with its repetitions written out: 0xff, A, B stands for the last A + 1 bytes before it, 2 to the
/// power of B % 16 times, as often as `most` bytes have room for. So short inputs reach the limits.
pub(crate) fn unpacked(packed: &[u8], most: usize) -> Vec<u8> {
    let mut res = Vec::with_capacity(packed.len());
    let mut rest = packed;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (0xff, [length, times, tail @ ..]) => {
                rest = tail;
                let piece = &res[res.len().saturating_sub(usize::from(*length) + 1)..];
                let room = most.saturating_sub(res.len()) / piece.len().max(1);
                // One copy, not a loop: the fuzzer counts every turn of ours.
                let pieces = piece.repeat(room.min(1 << (times % 16)));
                res.extend_from_slice(&pieces);
            }
            _ => res.push(first),
        }
    }
    res
}
