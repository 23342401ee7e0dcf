//! `pomctl top`: what flows, live.
//!
//! On a terminal a page is drawn over and over, and keys choose. Elsewhere one second is measured and told once; with
//! `--json` each second is, until nobody reads it.

use std::time::Duration;

use control::{
    client::{Client, ClientError},
    wire::{LogLine, Status, TopTold, TunnelFlowTold},
};
use tokio::{
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use crate::{
    context::Context,
    error::{CliError, Exit},
    render::{
        times,
        top::{self, Shown},
        traffic::Traffic,
    },
    sanitise, screen,
    silent::{Purpose, SilentTerminal},
};

/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);
/// More log lines than any terminal shows.
const LOG: usize = 200;

pub(crate) async fn run(cx: &Context) -> Result<Exit, CliError> {
    let first = cx.client.status().await?;
    let mut top = Top::new(cx, first);
    if cx.screen.json() {
        top.tell_each_second().await
    } else if cx.screen.answers_a_person() {
        top.show().await
    } else {
        top.tell_once().await
    }
}

/// What came of something that was begun.
enum Done {
    Looked(Result<Status, ClientError>),
    Read(Result<Vec<LogLine>, ClientError>),
    Acted(String),
}

struct Top<'a> {
    cx: &'a Context,
    status: Status,
    traffic: Traffic,
    looked_at: Instant,
    looks: bool,
    shown: Shown,
    jobs: JoinSet<Done>,
}

impl<'a> Top<'a> {
    fn new(cx: &'a Context, first: Status) -> Self {
        let mut res = Self {
            cx,
            status: first,
            traffic: Traffic::default(),
            looked_at: Instant::now(),
            looks: false,
            shown: Shown::default(),
            jobs: JoinSet::new(),
        };
        res.traffic.look(&res.status, LOOK);
        res
    }

    async fn tell_once(&mut self) -> Result<Exit, CliError> {
        ticks(LOOK).await.tick().await;
        self.look().await?;
        let page = self.page();
        self.cx.screen.answer(&page)?;
        Ok(Exit::Done)
    }

    async fn tell_each_second(&mut self) -> Result<Exit, CliError> {
        let mut ticks = ticks(LOOK).await;
        loop {
            ticks.tick().await;
            self.look().await?;
            let tunnels = self.status.tunnels.iter();
            let tunnels = tunnels.map(|it| {
                let rate = self.traffic.now(&it.name);
                TunnelFlowTold {
                    name: it.name.clone(),
                    state: it.state,
                    connections: it.connections,
                    received_per_second: rate.map(|it| it.received),
                    sent_per_second: rate.map(|it| it.sent),
                }
            });
            let second = TopTold {
                at: screen::now(),
                tunnels: tunnels.collect(),
            };
            self.cx.screen.answer_json_line(&second)?;
        }
    }

    async fn look(&mut self) -> Result<(), CliError> {
        let looked = self.cx.client.status().await;
        self.looked(looked)
    }

    /// Draws until a person ends it, or pomd does.
    async fn show(&mut self) -> Result<Exit, CliError> {
        // Dropped on every way out, which puts the terminal back.
        let mut terminal = SilentTerminal::open(Purpose::Page).ok();
        self.shown.keys = terminal.is_some();
        self.choose(0);
        let mut keys = Keys::default();
        let mut ticks = ticks(LOOK).await;
        loop {
            self.draw()?;
            tokio::select! {
                _ = ticks.tick() => self.begin_to_look(),
                Some(done) = self.jobs.join_next() => {
                    if let Ok(done) = done {
                        self.done(done)?;
                    }
                }
                typed = typed(terminal.as_mut()), if terminal.is_some() => match typed {
                    // Nobody can press a key any more; Ctrl-C still ends it.
                    None => {
                        terminal = None;
                        self.shown.keys = false;
                    }
                    Some(bytes) => {
                        for key in bytes.into_iter().filter_map(|it| keys.push(it)) {
                            if key == Key::Quit {
                                return Ok(Exit::Done);
                            }
                            self.press(key);
                        }
                    }
                },
            }
        }
    }

    fn draw(&mut self) -> Result<(), CliError> {
        self.shown.rows = Some(self.cx.screen.rows());
        self.cx.screen.redraw(&self.page())
    }

    fn page(&self) -> String {
        let status = sanitise::status(self.status.clone());
        top::page(&status, &self.traffic, &self.shown, &self.cx.screen.view())
    }

    /// Asks for what is to be shown next. A pomd that takes its time is not asked again meanwhile.
    fn begin_to_look(&mut self) {
        if std::mem::replace(&mut self.looks, true) {
            return;
        }
        let client = self.cx.client.clone();
        self.jobs
            .spawn(async move { Done::Looked(client.status().await) });
        if let (Some(_), Some(name)) = (&self.shown.log, self.shown.chosen.clone()) {
            let client = self.cx.client.clone();
            self.jobs
                .spawn(async move { Done::Read(newest_lines(&client, &name).await) });
        }
    }

    fn done(&mut self, done: Done) -> Result<(), CliError> {
        match done {
            Done::Looked(looked) => {
                self.looks = false;
                self.looked(looked)?;
                self.choose(0);
            }
            Done::Acted(note) => {
                self.shown.note = note;
                self.begin_to_look();
            }
            Done::Read(lines) => {
                let view = self.cx.screen.view();
                let drawn = |line: LogLine| {
                    let line = sanitise::log(line);
                    let time = times::time_to_the_second(line.at, view.now, view.zone);
                    format!(" {time} {:<5} {}", line.level, line.text())
                };
                // It may have been put away, or the tunnel be gone.
                if let (Some(log), Ok(lines)) = (&mut self.shown.log, lines) {
                    *log = lines.into_iter().map(drawn).collect();
                }
            }
        }
        Ok(())
    }

    fn looked(&mut self, looked: Result<Status, ClientError>) -> Result<(), CliError> {
        let status = match looked {
            Err(ClientError::NotRunning) => {
                return Err(CliError::pomd_ended(Some(self.status.pomd.log.as_deref())));
            }
            looked => looked?,
        };
        let now = Instant::now();
        let elapsed = now - std::mem::replace(&mut self.looked_at, now);
        self.traffic.look(&status, elapsed);
        self.status = status;
        Ok(())
    }

    fn press(&mut self, key: Key) {
        match key {
            Key::Quit => {}
            Key::Previous => self.choose(-1),
            Key::Next => self.choose(1),
            Key::Log => {
                let is_shown = self.shown.log.take().is_some();
                self.shown.log = (!is_shown).then(Vec::new);
                self.begin_to_look();
            }
            Key::Up | Key::Down => {
                let Some(name) = self.shown.chosen.clone() else {
                    return;
                };
                let client = self.cx.client.clone();
                let word = if key == Key::Up { "up" } else { "down" };
                self.shown.note = format!("{}: {word}", sanitise::name(&name));
                self.jobs.spawn(async move {
                    Done::Acted(match key {
                        Key::Up => act(&name, "is up", client.up(&name).await),
                        _ => act(&name, "is down", client.down(&name, false).await),
                    })
                });
            }
        }
    }

    /// Moves the choice by so many tunnels; it stays with a tunnel as long as there is one of that name.
    fn choose(&mut self, by: isize) {
        let names: Vec<&String> = self.status.tunnels.iter().map(|it| &it.name).collect();
        let now = names
            .iter()
            .position(|it| Some(*it) == self.shown.chosen.as_ref());
        let last = names.len().saturating_sub(1);
        let next = now.unwrap_or_default().saturating_add_signed(by).min(last);
        let chosen = names.get(next).map(|it| (*it).clone());
        if chosen != self.shown.chosen {
            if let Some(log) = &mut self.shown.log {
                log.clear();
            }
            self.shown.chosen = chosen;
        }
    }
}

/// Returns ticks, the first of which comes after one period.
#[expect(
    clippy::unused_async,
    reason = "an interval is made inside of the runtime"
)]
async fn ticks(period: Duration) -> Interval {
    let mut res = interval(period);
    res.set_missed_tick_behavior(MissedTickBehavior::Delay);
    res.reset();
    res
}

/// Returns what was typed next; `None`: nothing will be any more.
async fn typed(terminal: Option<&mut SilentTerminal>) -> Option<Vec<u8>> {
    let bytes = terminal?.read().await.ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

async fn newest_lines(client: &Client, tunnel: &str) -> Result<Vec<LogLine>, ClientError> {
    let mut lines = client.logs(Some(tunnel), false).await?;
    let mut res = std::collections::VecDeque::new();
    while let Some(line) = lines.next().await? {
        if res.len() == LOG {
            res.pop_front();
        }
        res.push_back(line);
    }
    Ok(res.into())
}

/// Returns a sentence about what became of a command.
fn act<T>(name: &str, well: &str, answer: Result<T, ClientError>) -> String {
    match answer {
        Ok(_) => format!("{} {well}", sanitise::name(name)),
        Err(error) => match CliError::from(error) {
            CliError::Told(report) => report.message.clone(),
            CliError::ReaderGone | CliError::Interrupted => String::new(),
        },
    }
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Previous,
    Next,
    Up,
    Down,
    Log,
}

/// Puts the bytes of keys together.
#[derive(Clone, Copy, Debug, Default)]
enum Keys {
    #[default]
    Plain,
    /// Behind the escape character.
    Escape,
    /// Behind `ESC [` or `ESC O`; so far nothing else stood there.
    Sequence { bare: bool },
}

impl Keys {
    /// Takes one byte; returns the key that is whole by it, if it means something.
    fn push(&mut self, byte: u8) -> Option<Key> {
        match (std::mem::take(self), byte) {
            (_, 0x1b) => *self = Self::Escape,
            (Self::Escape, b'[' | b'O') => *self = Self::Sequence { bare: true },
            (Self::Sequence { bare: true }, b'A') => return Some(Key::Previous),
            (Self::Sequence { bare: true }, b'B') => return Some(Key::Next),
            (Self::Sequence { .. }, 0x40..=0x7e) => {}
            (Self::Sequence { .. }, _) => *self = Self::Sequence { bare: false },
            // The escape key, and a key behind it, are two keys.
            (Self::Escape | Self::Plain, _) => return plain(byte),
        }
        None
    }
}

fn plain(byte: u8) -> Option<Key> {
    Some(match byte {
        // Ctrl-D is an end, too.
        b'q' | b'Q' | 0x04 => Key::Quit,
        b'k' => Key::Previous,
        b'j' => Key::Next,
        b'u' => Key::Up,
        b'd' => Key::Down,
        b'l' => Key::Log,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|it| keys.push(*it)).collect()
    }

    #[test]
    fn arrows_are_keys_in_both_spellings_and_other_sequences_are_none() {
        use Key::{Down, Log, Next, Previous, Quit, Up};
        assert_eq!(
            keys(b"\x1b[A\x1b[B\x1bOA\x1bOBkj"),
            [Previous, Next, Previous, Next, Previous, Next]
        );
        assert_eq!(keys(b"udlq\x04"), [Up, Down, Log, Quit, Quit]);
        assert_eq!(keys(b"\x1b[1;5A\x1b[200~\x1b[5~\x1bOP"), []);
        assert_eq!(keys(b"\x1bq\x1b\x1b[Bx\r "), [Quit, Next]);
        assert_eq!(keys(b"\x1b[99999999999999999999d"), [Down; 0]);
    }
}
