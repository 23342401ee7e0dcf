use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::*;

/// Returns a socket that is bound to `at` beside what lingers there.
fn bound(at: SocketAddr) -> TcpSocket {
    let res = TcpSocket::new_v4().unwrap();
    res.set_reuseaddr(true).unwrap();
    res.bind(at).unwrap();
    res
}

/// Sends these descriptors with this byte.
fn message(socket: &Socket, byte: u8, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || rights.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(
        socket,
        &[IoSlice::new(&[byte])],
        &mut rights,
        SendFlags::empty(),
    )
    .unwrap();
}

/// Tells whether the other end of `near` is closed in every process: reading ends.
async fn is_closed(mut near: TcpStream) -> bool {
    matches!(near.read(&mut [0]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn a1_what_a_dead_connection_left_is_not_taken_for_the_other_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let first = bound("127.0.0.1:0".parse().unwrap());
    let mut first = first.connect(at).await.unwrap();
    let its_address = first.local_addr().unwrap();
    first.write_all(&[b'x'; 64 << 10]).await.unwrap();
    first.set_zero_linger().unwrap();
    drop(first);
    let other = TcpStream::connect(at).await.unwrap();
    let mut near = bound(its_address).connect(at).await.unwrap();
    let mut far = other_end(&near, &listener).await.unwrap();
    near.write_all(b"ours").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"ours");
    drop(other);
}

#[tokio::test]
async fn the_two_ends_of_a_pair_are_each_others() {
    let (mut near, mut far) = pair().await.unwrap();
    near.write_all(b"there").await.unwrap();
    far.write_all(b"back!").await.unwrap();
    let mut buf = [0; 5];
    far.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"there");
    near.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"back!");
}

#[tokio::test]
async fn a_connection_is_handed_over_and_blocks_as_others_expect() {
    let (ours, theirs) = Socket::pair().unwrap();
    let (mut near, far) = pair().await.unwrap();
    send(&ours, far).await.unwrap();
    let mut taken = receive(&theirs).await.unwrap();
    near.write_all(b"here").await.unwrap();
    let flags = rustix::fs::fcntl_getfl(&taken).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    let mut buf = [0; 4];
    taken.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"here");
    taken.write_all(b"yes").unwrap();
    drop(taken);
    let mut heard = Vec::new();
    near.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"yes", "and nobody else has it open");
}

#[tokio::test]
async fn q5_a_receiver_that_is_gone_is_an_error_and_nothing_stays_open() {
    let (ours, theirs) = Socket::pair().unwrap();
    drop(theirs);
    let (near, far) = pair().await.unwrap();
    assert!(send(&ours, far).await.is_err());
    assert!(is_closed(near).await);
}

#[tokio::test]
async fn q5_a_receiver_that_dies_with_the_descriptor_in_its_queue_leaves_nothing_open() {
    let (ours, theirs) = Socket::pair().unwrap();
    let (near, far) = pair().await.unwrap();
    send(&ours, far).await.unwrap();
    drop(theirs);
    assert!(is_closed(near).await);
}

#[tokio::test]
async fn q5_two_descriptors_or_more_are_an_error_and_all_are_closed() {
    for count in [2, 3, 8] {
        let (ours, theirs) = Socket::pair().unwrap();
        let mut nears = Vec::new();
        let mut fars = Vec::new();
        for _ in 0..count {
            let (near, far) = pair().await.unwrap();
            nears.push(near);
            fars.push(far);
        }
        let descriptors: Vec<_> = fars.iter().map(AsFd::as_fd).collect();
        message(&ours, 0, &descriptors);
        drop(fars);
        assert!(receive(&theirs).await.is_err(), "{count}");
        for near in nears {
            assert!(is_closed(near).await, "{count}");
        }
    }
}

#[tokio::test]
async fn q5_another_message_is_an_error() {
    let (near, far) = pair().await.unwrap();
    let file = File::open("/dev/null").unwrap();
    for (byte, descriptors) in [
        (0, vec![]),
        (b'H', vec![]),
        (b'H', vec![far.as_fd()]),
        (0, vec![file.as_fd()]),
    ] {
        let (ours, theirs) = Socket::pair().unwrap();
        message(&ours, byte, &descriptors);
        let error = receive(&theirs).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{byte}");
    }
    drop(far);
    assert!(is_closed(near).await);
    let (ours, theirs) = Socket::pair().unwrap();
    drop(ours);
    let error = receive(&theirs).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
