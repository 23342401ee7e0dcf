//! Streams that go on over a restart of pomd.

use super::{Client, ClientError, Lines, broken};
use crate::wire::{LogLine, Status};

/// One item of a stream that is followed.
#[derive(Clone, Debug)]
pub enum News<T> {
    /// The next item.
    Next(T),
    /// pomd was restarted; what follows is of its next life.
    Restarted,
}

/// The newest status after each change, over restarts.
#[derive(Debug)]
pub struct FollowedEvents {
    client: Client,
    lines: Lines<Status>,
    /// This life has told something: one that never does is not followed on and on.
    has_told: bool,
}

impl FollowedEvents {
    pub(super) fn new(client: Client, lines: Lines<Status>) -> Self {
        Self {
            client,
            lines,
            has_told: false,
        }
    }

    /// Returns the next status; `None`: pomd has ended.
    pub async fn next(&mut self) -> Result<Option<News<Status>>, ClientError> {
        match self.lines.next().await {
            Ok(Some(status)) => {
                self.has_told = true;
                return Ok(Some(News::Next(status)));
            }
            Ok(None) | Err(ClientError::Broken { .. }) => {}
            Err(error) => return Err(error),
        }
        if !std::mem::take(&mut self.has_told) {
            return Ok(None);
        }
        let lines = match self.client.events().await {
            Err(error) if has_ended(&error) => return Ok(None),
            lines => lines?,
        };
        if is_same_life(&lines.life, &self.lines.life) {
            return Err(closed(&self.client));
        }
        self.lines = lines;
        Ok(Some(News::Restarted))
    }
}

/// Log lines, over restarts: a pomd that restarts remembers the lines of the life before.
#[derive(Debug)]
pub struct FollowedLogs {
    client: Client,
    tunnel: Option<String>,
    lines: Lines<LogLine>,
    last: Option<LogLine>,
    /// So many lines were told already.
    skip: usize,
    /// As for [`FollowedEvents`].
    has_told: bool,
}

impl FollowedLogs {
    pub(super) fn new(client: Client, tunnel: Option<&str>, lines: Lines<LogLine>) -> Self {
        Self {
            client,
            tunnel: tunnel.map(str::to_owned),
            lines,
            last: None,
            skip: 0,
            // A tunnel's lines may be none.
            has_told: true,
        }
    }

    /// Returns the next line; `None`: pomd has ended.
    pub async fn next(&mut self) -> Result<Option<News<LogLine>>, ClientError> {
        loop {
            match self.lines.next().await {
                Ok(Some(line)) => {
                    self.has_told = true;
                    if self.skip > 0 {
                        self.skip -= 1;
                        continue;
                    }
                    self.last = Some(line.clone());
                    return Ok(Some(News::Next(line)));
                }
                Ok(None) | Err(ClientError::Broken { .. }) => return self.go_on().await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn go_on(&mut self) -> Result<Option<News<LogLine>>, ClientError> {
        if !std::mem::take(&mut self.has_told) {
            return Ok(None);
        }
        let tunnel = self.tunnel.as_deref();
        let mut lines = match self.client.logs(tunnel, false).await {
            Err(error) if has_ended(&error) => return Ok(None),
            lines => lines?,
        };
        if is_same_life(&lines.life, &self.lines.life) {
            return Err(closed(&self.client));
        }
        let mut remembered = Vec::new();
        while let Some(line) = lines.next().await? {
            remembered.push(line);
        }
        self.skip = position_after(&remembered, self.last.as_ref());
        self.lines = self.client.logs(tunnel, true).await?;
        Ok(Some(News::Restarted))
    }
}

/// A pomd that does not name its lives is taken for another one: its stream would not have ended otherwise.
fn is_same_life(one: &Option<Vec<u8>>, other: &Option<Vec<u8>>) -> bool {
    one.is_some() && one == other
}

/// Returns how many of these lines were told when `last` was.
fn position_after(lines: &[LogLine], last: Option<&LogLine>) -> usize {
    let found = last.and_then(|last| lines.iter().rposition(|it| it == last));
    found.map_or(0, |it| it + 1)
}

/// Tells whether nobody is there any more.
fn has_ended(error: &ClientError) -> bool {
    matches!(error, ClientError::NotRunning | ClientError::Cut { .. })
}

fn closed(client: &Client) -> ClientError {
    broken(&client.socket, "it closed the stream")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn x10_lines_that_were_told_are_not_told_again() {
        let line = |second: i64| LogLine {
            at: Timestamp::from_second(second).unwrap(),
            level: "info".to_owned(),
            tunnel: None,
            cluster: None,
            connection: None,
            message: "the same".to_owned(),
            target: String::new(),
            fields: BTreeMap::new(),
        };
        let lines = [line(1), line(2), line(2), line(3)];
        for (last, expected) in [
            (None, 0),
            (Some(1), 1),
            (Some(2), 3),
            (Some(3), 4),
            (Some(9), 0),
        ] {
            let last = last.map(line);
            assert_eq!(position_after(&lines, last.as_ref()), expected, "{last:?}");
        }
    }
}
