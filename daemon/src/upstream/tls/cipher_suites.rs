//! Which TLS cipher suites are offered, and in which order. Pure, but for what the CPU can do.

use rustls::{
    CipherSuite, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
};

use crate::system::cpu;

/// The crypto of every TLS connection of pomd. Key exchange, signatures and the set of suites are rustls' own; the order
/// of the suites is `order`'s.
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    order(&mut provider.cipher_suites, cpu::has_aes());
    provider
}

/// Puts AES-128-GCM first where the CPU has instructions for AES, ChaCha20-Poly1305 where it has none; TLS 1.3 before 1.2.
///
/// Servers on BoringSSL, Envoy among them, take the client's first choice between suites of one strength class where they
/// have such hardware, and rustls would name AES-256-GCM first. Browsers and Go name AES-128-GCM first: it needs ten rounds a
/// block instead of fourteen, about a quarter less CPU for each byte, and 128 bits are beyond reach of any search. Against a later quantum
/// computer the key exchange is what counts, and that stays the hybrid X25519MLKEM768.
fn order(suites: &mut [SupportedCipherSuite], has_aes: bool) {
    suites.sort_by_key(|suite| {
        let preference = match (algorithm(suite.suite()), has_aes) {
            (Algorithm::Aes128, true) | (Algorithm::ChaCha20, false) => 0,
            (Algorithm::Aes256, true) | (Algorithm::Aes128, false) => 1,
            (Algorithm::ChaCha20, true) | (Algorithm::Aes256, false) => 2,
        };
        (suite.tls13().is_none(), preference)
    });
}

#[derive(Clone, Copy)]
enum Algorithm {
    Aes128,
    Aes256,
    ChaCha20,
}

fn algorithm(suite: CipherSuite) -> Algorithm {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Algorithm::Aes128,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Algorithm::Aes256,
        _ => Algorithm::ChaCha20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(has_aes: bool) -> Vec<CipherSuite> {
        let mut suites = aws_lc_rs::default_provider().cipher_suites;
        order(&mut suites, has_aes);
        suites.iter().map(SupportedCipherSuite::suite).collect()
    }

    #[test]
    fn the_cheapest_suite_of_the_cpu_is_offered_first() {
        assert_eq!(
            ordered(true)[..3],
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ]
        );
        assert_eq!(
            ordered(false)[0],
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        );
    }

    #[test]
    fn no_suite_is_lost_and_tls_1_3_comes_before_tls_1_2() {
        let all = aws_lc_rs::default_provider().cipher_suites;
        for has_aes in [true, false] {
            let ordered = ordered(has_aes);
            assert_eq!(ordered.len(), all.len());
            assert!(all.iter().all(|it| ordered.contains(&it.suite())));
        }
        let provider = provider();
        let is_older: Vec<bool> = provider
            .cipher_suites
            .iter()
            .map(|it| it.tls13().is_none())
            .collect();
        assert!(is_older.is_sorted());
    }
}
