//! `pomctl kube-credential`: a token for kubectl, by the protocol of client-go's exec plugins.

use std::{env, fs, io, path::Path};

use control::wire::TokenAnswer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::token;
use crate::{
    args::KubeCredentialArgs,
    context::Context,
    error::{CliError, Exit},
    sanitise,
};

/// The variable by which kubectl says how it asks.
const ASKED: &str = "KUBERNETES_EXEC_INFO";
/// The versions of the protocol that are spoken; the first where nobody says.
const VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

pub(crate) async fn run(cx: &Context, args: &KubeCredentialArgs) -> Result<Exit, CliError> {
    let asked = match env::var(ASKED) {
        Ok(text) => Asked::parse(&text)?,
        Err(_) => Asked {
            api_version: VERSIONS[0],
            interactive: cx.screen.progress_is_watched(),
        },
    };
    let answer = token::obtain(cx, Some(&args.cluster), asked.interactive).await?;
    cx.screen
        .answer_json(&credential(asked.api_version, &answer)?)?;
    Ok(Exit::Done)
}

/// How kubectl asks.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    api_version: &'static str,
    /// A person is there.
    interactive: bool,
}

impl Asked {
    fn parse(text: &str) -> Result<Self, CliError> {
        let info: ExecInfo = serde_json::from_str(text)
            .map_err(|it| not_understood(&format!("{ASKED} is not understood: {it}")))?;
        let mut versions = VERSIONS.into_iter();
        let api_version = versions.find(|it| *it == info.api_version).ok_or_else(|| {
            let said = sanitise::name(&info.api_version);
            not_understood(&format!(
                "{said} is not spoken here; set apiVersion: {} in the kubeconfig",
                VERSIONS[0]
            ))
        })?;
        Ok(Self {
            api_version,
            interactive: info.spec.interactive,
        })
    }
}

#[derive(Deserialize)]
struct ExecInfo {
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(default)]
    spec: ExecSpec,
}

#[derive(Default, Deserialize)]
struct ExecSpec {
    #[serde(default)]
    interactive: bool,
}

fn not_understood(message: &str) -> CliError {
    CliError::usage("bad_request", message, None)
}

fn credential(api_version: &str, answer: &TokenAnswer) -> Result<Value, CliError> {
    // kubectl can only say Bearer; Pomerium knows its own tokens there by this word.
    let word = if answer.bearer { "" } else { "Pomerium-" };
    let mut status = json!({ "token": format!("{word}{}", answer.token.reveal()) });
    if let Some(until) = answer.until {
        status["expirationTimestamp"] = json!(until);
    }
    if let Some(files) = &answer.client_identity {
        status["clientCertificateData"] = json!(read("client_cert", &files.certificate)?);
        status["clientKeyData"] = json!(read("client_key", &files.key)?);
    }
    Ok(json!({
        "apiVersion": api_version,
        "kind": "ExecCredential",
        "status": status,
    }))
}

fn read(key: &str, path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|it: io::Error| {
        let path = sanitise::line(&path.display().to_string());
        CliError::failed(format!("cannot read the {key} {path}: {it}"))
    })
}

#[cfg(test)]
mod tests {
    use control::wire::Secret;

    use super::*;

    #[test]
    fn kubectl_is_understood_in_both_versions_and_told_of_others() {
        let asked = |version: &str, spec: &str| {
            Asked::parse(&format!(
                r#"{{"kind":"ExecCredential","apiVersion":"{version}","spec":{spec}}}"#
            ))
        };
        let is = asked(VERSIONS[0], r#"{"interactive":true}"#).unwrap();
        assert_eq!((is.api_version, is.interactive), (VERSIONS[0], true));
        let is = asked(VERSIONS[1], r#"{"interactive":false,"cluster":{}}"#).unwrap();
        assert_eq!((is.api_version, is.interactive), (VERSIONS[1], false));
        assert!(!asked(VERSIONS[0], "{}").unwrap().interactive);
        for wrong in [
            asked("client.authentication.k8s.io/v1alpha1", "{}"),
            Asked::parse("no"),
            Asked::parse("{}"),
        ] {
            assert!(matches!(wrong, Err(CliError::Told(it)) if it.exit == Exit::Usage));
        }
    }

    #[test]
    fn an_end_is_told_only_if_it_is_known() {
        let mut answer = TokenAnswer {
            cluster: "corp".to_owned(),
            token: Secret::new("a.b.c"),
            bearer: false,
            until: None,
            client_identity: None,
        };
        let told = credential(VERSIONS[0], &answer).unwrap();
        assert_eq!(told["status"], json!({ "token": "Pomerium-a.b.c" }));
        answer.bearer = true;
        let told = credential(VERSIONS[0], &answer).unwrap();
        assert_eq!(told["status"], json!({ "token": "a.b.c" }));
        answer.until = Some("2026-07-01T08:00:00Z".parse().unwrap());
        let told = credential(VERSIONS[0], &answer).unwrap();
        assert_eq!(
            told["status"]["expirationTimestamp"],
            "2026-07-01T08:00:00Z"
        );
    }
}
