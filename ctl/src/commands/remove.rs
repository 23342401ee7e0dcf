//! `pomctl remove`: takes a tunnel out of the file.

use control::wire::RemoveTold;
use pomd_core::config::Edit;

use crate::{
    args::NameArgs,
    config_store::{ConfigStore, tunnel_name},
    context::Context,
    error::{CliError, Exit},
    render::count,
};

pub(crate) async fn run(cx: &Context, args: &NameArgs) -> Result<Exit, CliError> {
    let name = tunnel_name(&args.name)?;
    let store = ConfigStore::open(cx)?;
    let edited = store.edited(Edit::Remove(&name), &name)?;
    store.save(&edited.text)?;
    let reloaded = store.reload(cx).await?.unwrap_or_default();
    let mut leaving = reloaded.leaving.iter();
    let open = leaving
        .find(|it| it.name == name.as_str())
        .map_or(0, |it| it.connections);
    if cx.screen.json() {
        cx.screen.answer_json(&RemoveTold {
            file: store.shown,
            name: name.to_string(),
            still_open: open,
        })?;
        return Ok(Exit::Done);
    }
    let stay = match open {
        0 => String::new(),
        1 => format!(" 1 connection stays open until it ends (pomctl down --now {name} ends it)."),
        many => format!(
            " {} stay open until they end (pomctl down --now {name} ends them).",
            count(many, "connection")
        ),
    };
    cx.screen.answer(&format!("Removed {name}.{stay}"))?;
    Ok(Exit::Done)
}
