//! Colour roles. Text is always painted; the stream takes the paint off where it is not wanted.

use anstyle::{AnsiColor, Effects, Style};

/// What a colour says. Never the only one to say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    Good,
    Warn,
    Bad,
    Muted,
    Name,
    Command,
    Link,
}

/// Returns `text` in the colour of `role`: one of the terminal's own sixteen, so that its theme applies.
pub(crate) fn paint(role: Role, text: &str) -> String {
    let style = style(role);
    if text.is_empty() || style.is_plain() {
        return text.to_owned();
    }
    format!("{style}{text}{style:#}")
}

fn style(role: Role) -> Style {
    match role {
        Role::Plain => Style::new(),
        Role::Good => AnsiColor::Green.on_default(),
        Role::Warn => AnsiColor::Yellow.on_default(),
        Role::Bad => AnsiColor::Red.on_default(),
        Role::Muted => AnsiColor::BrightBlack.on_default(),
        Role::Name => Style::new().effects(Effects::BOLD),
        Role::Command => AnsiColor::Cyan.on_default(),
        Role::Link => Style::new().effects(Effects::UNDERLINE),
    }
}
