//! `pomctl events`: the whole status, a line of JSON each time that it changes.

use control::client::News;

use crate::{
    context::Context,
    error::{CliError, Exit},
};

pub(crate) async fn run(cx: &Context) -> Result<Exit, CliError> {
    let mut events = cx.client.follow_events().await?;
    let mut log = None;
    while let Some(news) = events.next().await? {
        match news {
            News::Next(status) => {
                cx.screen.answer_json_line(&status)?;
                log = Some(status.pomd.log);
            }
            News::Restarted => cx.screen.say("pomd restarted"),
        }
    }
    Err(CliError::pomd_ended(log.as_ref().map(|it| it.as_deref())))
}
