//! A session that takes the place of another.

use control::wire::{ClusterState, Opener};
use pomd_core::session::token::{Grant, Token};

use super::{SSH, world::World};
use crate::session::fakes::address;
use pomd_core::session::Handover;

#[tokio::test(start_paused = true)]
async fn what_was_inherited_wins_over_the_file_and_is_saved() {
    let world = World::logged_in().await;
    let inherited = Grant {
        generation: 41,
        token: Token::parse("newer").unwrap(),
        user: Some("alice@example.com".to_owned()),
    };
    let handover = Handover {
        grant: Some(inherited.clone()),
        ..Handover::default()
    };
    let world = world.restart_with(handover).await;
    assert_eq!(world.session.grant(None, SSH).await.unwrap(), inherited);
    world.session.refused(40).await;
    let world = world.restart().await;
    assert_eq!(
        world.session.grant(None, SSH).await.unwrap().token.reveal(),
        "newer"
    );
}

#[tokio::test(start_paused = true)]
async fn a15_what_was_inherited_is_saved_for_where_it_was_made() {
    let mut world = World::new().await;
    let made_at = address("other.example.com");
    let handover = Handover {
        grant: Some(Grant {
            generation: 1,
            token: Token::parse("one").unwrap(),
            user: None,
        }),
        address: Some(made_at.clone()),
        ..Handover::default()
    };
    world = world.restart_with(handover).await;
    assert_eq!(world.session.address(), made_at);
    assert_eq!(
        world.session.sign_out_url(),
        format!("{made_at}/.pomerium/sign_out")
    );
    let world = world.restart().await;
    assert!(world.session.view().grant.is_some());
    assert_eq!(world.session.address(), made_at);
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_after_a_logout_stays_quiet_until_a_person_asks() {
    let world = World::logged_in().await;
    world.session.logout().await;
    let handover = world.session.handover();
    assert!(handover.grant.is_none() && handover.on_request_only && handover.logged_out);
    let mut world = world.restart_with(handover).await;
    assert_eq!(world.view().state, ClusterState::LoggedOut);
    assert!(world.session.grant(None, SSH).await.is_err());
    assert_eq!(world.browser.shown(), Vec::<String>::new());
    let open = world.login(Opener::Caller).await;
    assert_eq!(world.answer_at(&open, "two").await.status, 303);
    assert!(!world.session.handover().on_request_only);
}
