//! Glyphs, and their spelling for terminals that know only ASCII.

/// The glyphs that this terminal can show.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Glyphs {
    pub(crate) good: &'static str,
    pub(crate) waits: &'static str,
    pub(crate) bad: &'static str,
    pub(crate) off: &'static str,
    pub(crate) unknown: &'static str,
    pub(crate) none: &'static str,
    pub(crate) to: &'static str,
    pub(crate) cut: &'static str,
    pub(crate) chosen: &'static str,
    /// The keys that choose.
    pub(crate) arrows: &'static str,
    /// The heads of rates from and to the route.
    pub(crate) rates: [&'static str; 2],
    /// From nothing to the most.
    pub(crate) bars: [char; 8],
    pub(crate) passed: &'static str,
    pub(crate) failed: &'static str,
    pub(crate) not_done: &'static str,
    ascii: bool,
}

static UNICODE: Glyphs = Glyphs {
    good: "●",
    waits: "◐",
    bad: "✗",
    off: "○",
    unknown: "?",
    none: "–",
    to: "→",
    cut: "…",
    chosen: "▸",
    arrows: "↑↓",
    rates: ["↓/s", "↑/s"],
    bars: ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
    passed: "✓",
    failed: "✗",
    not_done: "–",
    ascii: false,
};

static ASCII: Glyphs = Glyphs {
    good: "*",
    waits: "?",
    bad: "!",
    off: "-",
    unknown: "?",
    none: "-",
    to: "->",
    cut: "...",
    chosen: ">",
    arrows: "jk",
    rates: ["IN/s", "OUT/s"],
    bars: ['_', '.', ':', '-', '=', '+', '*', '#'],
    passed: "ok",
    failed: "FAIL",
    not_done: "--",
    ascii: true,
};

impl Glyphs {
    /// Returns the glyphs that the locale and the terminal's name allow; `POMD_ASCII=1` wins.
    pub(crate) fn for_environment(var: impl Fn(&str) -> Option<String>) -> &'static Self {
        let asked = var("POMD_ASCII").is_some_and(|it| it != "0");
        let simple = var("TERM").is_some_and(|it| it == "dumb" || it == "linux");
        // Windows' console is written in UTF-16 by the standard library, whatever its code page.
        let utf8 = cfg!(windows)
            || ["LC_ALL", "LC_CTYPE", "LANG"]
                .iter()
                .find_map(|name| var(name))
                .is_some_and(|it| {
                    let it = it.to_ascii_lowercase();
                    it.contains("utf-8") || it.contains("utf8")
                });
        if asked || simple || !utf8 {
            &ASCII
        } else {
            &UNICODE
        }
    }

    /// Returns `text` with the glyphs that others put into it spelled for this terminal.
    pub(crate) fn plain(&self, text: &str) -> String {
        if !self.ascii || text.is_ascii() {
            return text.to_owned();
        }
        let mut res = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '●' => res.push('*'),
                '◐' => res.push('?'),
                '✗' => res.push('!'),
                '✓' => res.push_str("ok"),
                '○' | '–' => res.push('-'),
                '→' => res.push_str("->"),
                '…' => res.push_str("..."),
                '↓' => res.push_str("in"),
                '↑' => res.push_str("out"),
                other => res.push(other),
            }
        }
        res
    }
}

#[cfg(test)]
pub(crate) fn unicode() -> &'static Glyphs {
    &UNICODE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_utf_8_locale_on_a_real_terminal_gets_signs() {
        let glyphs = |vars: &[(&str, &str)]| {
            Glyphs::for_environment(|name| {
                vars.iter()
                    .find(|it| it.0 == name)
                    .map(|it| it.1.to_owned())
            })
        };
        assert_eq!(glyphs(&[("LANG", "de_DE.UTF-8")]), &UNICODE);
        assert_eq!(glyphs(&[("LANG", "C.utf8"), ("TERM", "xterm")]), &UNICODE);
        assert_eq!(glyphs(&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")]), &ASCII);
        assert_eq!(glyphs(&[("LANG", "C.utf8"), ("TERM", "linux")]), &ASCII);
        assert_eq!(glyphs(&[("LANG", "C.utf8"), ("TERM", "dumb")]), &ASCII);
        assert_eq!(glyphs(&[("LANG", "C.utf8"), ("POMD_ASCII", "1")]), &ASCII);
        if cfg!(unix) {
            assert_eq!(glyphs(&[]), &ASCII);
        }
    }
}
