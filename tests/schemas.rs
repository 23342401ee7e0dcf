//! The shapes of what pomd and pomctl say as JSON: a schema of each in `control/schema`, which only grows.
//!
//! `UPDATE=1 cargo test -p integration --test integration -- schemas` writes them anew where the types have grown, and
//! refuses where something that a reader may rely on is gone or of another type.

mod shape;

use std::{env, fs, path::PathBuf};

use control::wire;
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::Value;
use shape::{Shape, Side, broken};

/// A document that is said, and by whom it is made.
struct Document {
    name: &'static str,
    side: Side,
    schema: Schema,
}

/// What is answered: pomd's answers, which pomctl shows with `--json`.
fn answer<T: JsonSchema>(name: &'static str) -> Document {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    Document {
        name,
        side: Side::Answer,
        schema: settings.into_generator().into_root_schema_for::<T>(),
    }
}

/// What others say to pomd.
fn request<T: JsonSchema>(name: &'static str) -> Document {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    Document {
        name,
        side: Side::Request,
        schema: settings.into_generator().into_root_schema_for::<T>(),
    }
}

fn documents() -> Vec<Document> {
    vec![
        answer::<wire::Status>("status"),
        answer::<wire::LogLine>("logs"),
        answer::<wire::Diagnosis>("doctor"),
        answer::<wire::UpAnswer>("up"),
        answer::<wire::MadeTunnel>("make-tunnel"),
        answer::<wire::RoutesAnswer>("routes"),
        answer::<wire::DownAnswer>("down"),
        answer::<wire::LoginAnswer>("login"),
        answer::<wire::Cluster>("login-answer"),
        answer::<wire::LogoutAnswer>("logout"),
        answer::<wire::TokenAnswer>("token"),
        answer::<wire::ReloadAnswer>("reload"),
        answer::<wire::RestartAnswer>("restart"),
        answer::<wire::StopAnswer>("stop"),
        answer::<wire::ErrorAnswer>("error"),
        answer::<wire::AddTold>("pomctl-add"),
        answer::<wire::RemoveTold>("pomctl-remove"),
        answer::<wire::StartTold>("pomctl-enable"),
        answer::<wire::DownTold>("pomctl-down"),
        answer::<wire::LoginTold>("pomctl-login"),
        answer::<wire::TopTold>("pomctl-top"),
        request::<wire::TunnelRequest>("make-tunnel.request"),
        request::<wire::LoginRequest>("login.request"),
        request::<wire::PastedAnswer>("login-answer.request"),
        request::<wire::GiveWayRequest>("give-way.request"),
    ]
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../control/schema")
}

fn file(document: &Document) -> PathBuf {
    folder().join(format!("{}.json", document.name))
}

#[test]
fn schemas_are_those_of_the_types_and_only_grow() {
    let update = env::var_os("UPDATE").is_some();
    let mut faults = Vec::new();
    for document in documents() {
        let path = file(&document);
        let new = serde_json::to_value(&document.schema).unwrap();
        let written = fs::read_to_string(&path).unwrap_or_default();
        let old: Value = serde_json::from_str(&written).unwrap_or_default();
        if old == new {
            continue;
        }
        let gone = broken(&Shape::of(&old), &Shape::of(&new), document.side);
        let name = document.name;
        if !gone.is_empty() {
            faults.push(format!("{name}: readers may rely on: {}", gone.join("; ")));
        } else if update {
            fs::create_dir_all(folder()).unwrap();
            let text = serde_json::to_string_pretty(&new).unwrap();
            fs::write(&path, text + "\n").unwrap();
        } else {
            faults.push(format!(
                "{name} has grown; UPDATE=1 writes it anew, and the difference is to be read"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_schema_in_the_folder_is_of_something_that_is_said() {
    let known: Vec<PathBuf> = documents().iter().map(file).collect();
    let known: Vec<_> = known.iter().filter_map(|it| it.file_name()).collect();
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(known.contains(&name.as_os_str()), "{name:?} is of nothing");
    }
}

/// What pomd really says is what the schema says.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_pomd_is_what_its_schema_says() {
    use integration::deployment::Deployment;
    let deployment = Deployment::gateway(|it| it).await;
    let pomd = deployment.pomd(&[("one", "one.corp.test:22")]).await;
    let said = pomd.pomctl(&["status", "--json"]).await;
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let schema = answer::<wire::Status>("status").schema;
    let shape = Shape::of(&serde_json::to_value(schema).unwrap());
    let unknown = shape.unknown_in(&said);
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(shape.missing_in(&said), Vec::<String>::new());
}
