//! What the doctor says of tokens that nobody logs in for.

use std::{fs, os::unix::fs::PermissionsExt};

use gateway::{DEMO_USER, Upstream};
use integration::{
    deployment::{Deployment, tunnel},
    pomd::Pomd,
};

use super::ROUTE;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_file_is_found_to_be_missing_refused_or_good() {
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let folder = integration::pomd::folder();
    let file = folder.path().join("token");
    let cluster = deployment.cluster(&format!("token = {{ file = {file:?} }}"));
    let cluster: String = cluster
        .lines()
        .filter(|it| !it.starts_with("browser"))
        .map(|it| format!("{it}\n"))
        .collect();
    let pomd = Pomd::start(&(cluster + &tunnel("echo", ROUTE, ""))).await;
    let examined = async || {
        let output = pomd.pomctl(&["doctor", "echo"]).await;
        let page = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), page)
    };
    let write = |token: &str| {
        fs::write(&file, token).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let (code, page) = examined().await;
    assert_eq!(code, Some(1), "{page}");
    assert!(
        page.contains("✗ session") || page.contains("FAIL session"),
        "{page}"
    );
    assert!(page.contains(&file.display().to_string()), "{page}");

    write("canary-of-a-bad-token");
    let (code, page) = examined().await;
    assert_eq!(code, Some(1), "{page}");
    assert!(
        page.contains("corp refuses the token that it is given"),
        "{page}"
    );
    assert!(page.contains("1 step failed: session."), "{page}");
    assert!(!page.contains("canary"), "{page}");

    let good = deployment.gateway.token(DEMO_USER);
    write(&good);
    let (code, page) = examined().await;
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains(DEMO_USER) && !page.contains(&good), "{page}");
}
