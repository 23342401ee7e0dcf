//! Text from outside, made safe to show. The one function for every terminal, log and status.

use std::{fmt::Write, path::Path};

/// Returns `text` in one line of at most `most` characters (`…` included where it was cut): control characters, line and
/// paragraph separators and everything that changes the direction of writing appear as `\u{…}`.
pub fn clean(text: &str, most: usize) -> String {
    let mut res = String::new();
    let mut length = 0;
    for c in text.trim().chars() {
        let before = res.len();
        if is_harmless(c) {
            res.push(c);
        } else {
            let _ = write!(res, "\\u{{{:x}}}", u32::from(c));
        }
        length += res[before..].chars().count();
        if length > most {
            let keep = most.saturating_sub(1);
            let end = res.char_indices().nth(keep).map_or(res.len(), |it| it.0);
            res.truncate(end);
            res.push('…');
            break;
        }
    }
    res
}

/// Returns the command that checks the configuration file at `path`, as a person can paste it.
pub fn check_command(path: &Path) -> String {
    format!("pomd check {}", shell_word(&path.display().to_string()))
}

/// Returns `text` as one word of a command line: quoted where a shell would take it for something else.
pub fn shell_word(text: &str) -> String {
    let text = clean(text, 4096);
    let is_plain = |c: char| c.is_alphanumeric() || "_-+=:,./@%".contains(c);
    let is_plain = |c: char| is_plain(c) || (cfg!(windows) && c == '\\');
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else if cfg!(windows) {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns whose a program is that the system does not name: `a program of another user (uid 0)`, or one of the user's own.
pub fn program_of(uid: u32, ours: bool) -> String {
    if ours {
        "a program of yours whose name can't be read, perhaps another pomd".to_owned()
    } else {
        format!("a program of another user (uid {uid})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_passes() {
        assert_eq!(clean("a\u{1b}]0;x\u{7}b", 80), r"a\u{1b}]0;x\u{7}b");
        assert_eq!(clean("a\nb\u{202e}c\u{9b}", 80), r"a\u{a}b\u{202e}c\u{9b}");
    }

    #[test]
    fn a_cut_is_shown_and_counts() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abcde…");
        assert_eq!(clean("\u{1}\u{1}\u{1}", 8).chars().count(), 8);
        assert_eq!(clean(&"ä".repeat(1 << 20), 200).chars().count(), 200);
    }

    #[cfg(unix)]
    #[test]
    fn a_command_names_its_file_as_a_shell_understands_it() {
        for (path, command) in [
            ("/etc/pomd.toml", "pomd check /etc/pomd.toml"),
            ("/home/a b/x.toml", "pomd check '/home/a b/x.toml'"),
            ("/it's/$(x)", r"pomd check '/it'\''s/$(x)'"),
            ("/~/*.toml", "pomd check '/~/*.toml'"),
        ] {
            assert_eq!(check_command(Path::new(path)), command);
        }
    }
}
