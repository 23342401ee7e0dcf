//! A refusal in ssh's own words: what a server may say before any key exchange, so that ssh, scp and git print it. Pure.

const BANNER: &[u8] = b"SSH-2.0-pomd\r\n";
const DISCONNECT: u8 = 1;
/// `SSH_DISCONNECT_PROTOCOL_ERROR`: the reason that clients show without words of their own.
const REASON: u32 = 2;
/// Before a cipher is agreed packets are multiples of this.
const BLOCK: usize = 8;
const LEAST_PADDING: usize = 4;
/// The text, in characters.
const MOST: usize = 250;

/// Returns the version line and one `SSH_MSG_DISCONNECT` that says `pomd: ` and `text` in one line, of which at most 250
/// characters are told.
pub fn refusal(text: &str) -> Vec<u8> {
    refusal_of("pomd", text)
}

/// Returns [`refusal`] with another speaker than `pomd`.
pub fn refusal_of(speaker: &str, text: &str) -> Vec<u8> {
    let text = plain(&format!("{speaker}: {text}"));
    let mut payload = vec![DISCONNECT];
    payload.extend(REASON.to_be_bytes());
    payload.extend(length(&text));
    payload.extend(text.as_bytes());
    payload.extend(length("")); // of no language in particular

    // The packet: its length, the padding's length, payload, padding.
    let bare = 4 + 1 + payload.len();
    let whole = (bare + LEAST_PADDING).next_multiple_of(BLOCK);
    let padding = whole - bare;

    let mut res = BANNER.to_vec();
    res.extend(u32::try_from(whole - 4).unwrap_or(u32::MAX).to_be_bytes());
    res.push(u8::try_from(padding).unwrap_or(u8::MAX));
    res.extend(payload);
    res.resize(BANNER.len() + whole, 0);
    res
}

/// In one line, without our own glyphs beyond ASCII: ssh prints those as numbers whatever the locale.
fn plain(text: &str) -> String {
    let ascii = |text: &str| {
        text.replace(['«', '»'], "\"")
            .replace('…', "...")
            .replace(char::REPLACEMENT_CHARACTER, "?")
    };
    // Cutting leaves one more `…`, which gets longer.
    ascii(&crate::text::clean(&ascii(text), MOST - 2))
}

fn length(text: &str) -> [u8; 4] {
    u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads the packet as RFC 4253, sections 6 and 11.1, describe it.
    fn read(bytes: &[u8]) -> (u32, String, String) {
        let packet = bytes.strip_prefix(b"SSH-2.0-pomd\r\n").unwrap();
        let number = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        assert_eq!(packet.len(), 4 + number(0) as usize);
        assert_eq!(packet.len() % 8, 0);
        let padding = packet[4] as usize;
        assert!(padding >= 4);
        assert_eq!(packet[5], 1);
        let reason = number(6);
        let text_end = 14 + number(10) as usize;
        let text = String::from_utf8(packet[14..text_end].to_vec()).unwrap();
        let language_end = text_end + 4 + number(text_end) as usize;
        let language = String::from_utf8(packet[text_end + 4..language_end].to_vec()).unwrap();
        assert_eq!(language_end + padding, packet.len());
        (reason, text, language)
    }

    #[test]
    fn a_refusal_is_one_disconnect_packet() {
        let (reason, text, language) = read(&refusal("corp needs a login. Run: pomctl login corp"));
        assert_eq!(reason, 2);
        assert_eq!(text, "pomd: corp needs a login. Run: pomctl login corp");
        assert_eq!(language, "");
    }

    #[test]
    fn our_own_signs_are_told_in_ascii() {
        let told = |text: &str| read(&refusal(text)).1;
        let expected = "pomd: not HTTP: \"ICY?...\"";
        assert_eq!(told("not HTTP: «ICY\u{fffd}…»"), expected);
        let long = told(&"x".repeat(300));
        assert!(long.len() == 250 && long.ends_with("xxx..."), "{long}");
    }

    proptest! {
        #[test]
        fn any_text_makes_one_short_line_in_a_whole_packet(text in any::<String>(), n in 0_usize..20) {
            let (_, told, _) = read(&refusal(&text.repeat(n)));
            prop_assert!(told.chars().count() <= 250);
            prop_assert!(!told.chars().any(char::is_control));
        }
    }
}
