//! The home folder of the user who runs this process, and paths as a person writes them.

use std::path::Path;

/// A path as a person knows it: `~` for the home folder.
pub fn shown(path: &Path) -> String {
    shown_from(path, std::env::home_dir().as_deref())
}

fn shown_from(path: &Path, home: Option<&Path>) -> String {
    let below = home
        .filter(|it| it.is_absolute() && it.parent().is_some())
        .and_then(|it| path.strip_prefix(it).ok());
    let text = match below {
        Some(below) => Path::new("~").join(below).display().to_string(),
        None => path.display().to_string(),
    };
    control::text::clean(&text, 200)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_home_is_shown_with_a_tilde() {
        let home = Some(Path::new("/home/alice"));
        for (path, expected) in [
            (
                "/home/alice/.config/pomd/pomd.toml",
                "~/.config/pomd/pomd.toml",
            ),
            ("/home/alicent/pomd.toml", "/home/alicent/pomd.toml"),
            ("/etc/pomd.toml", "/etc/pomd.toml"),
            ("/tmp/a\nb", r"/tmp/a\u{a}b"),
        ] {
            assert_eq!(shown_from(Path::new(path), home), expected);
        }
        assert_eq!(
            shown_from(Path::new("/etc/x"), Some(Path::new("/"))),
            "/etc/x"
        );
    }
}
