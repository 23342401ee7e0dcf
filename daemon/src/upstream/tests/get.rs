//! GETs.

use super::*;

#[tokio::test]
async fn a_get_says_what_came_and_follows_nothing() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let (at, token) = (corp(), token());
    let (answer, asked) = join!(
        upstream.get(&at, "/.pomerium/user?a=b", Some(&token)),
        async {
            let mut stream = lab.accept(&server).await.unwrap();
            let asked = head(&mut stream).await.0;
            let answer = "HTTP/1.1 302 Found\r\nlocation: https://evil.example/\r\nx-request-id: r\u{1b}\r\n\
                      content-type: text/plain\r\ncontent-length: 4\r\n\r\nbody"
            .replace('\u{1b}', "1");
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked
        }
    );
    let answer = answer.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (302, &b"body"[..]));
    assert_eq!(answer.location.as_deref(), Some("https://evil.example/"));
    assert_eq!(answer.request_id.as_deref(), Some("r1"));
    assert_eq!(answer.content_type.as_deref(), Some("text/plain"));
    let asked = asked.to_ascii_lowercase();
    for line in [
        "get /.pomerium/user?a=b http/1.1\r\n",
        "\r\nhost: corp.example.com\r\n",
        "\r\naccept: application/json\r\n",
        "\r\nauthorization: pomerium secret.jwt\r\n",
    ] {
        assert!(asked.contains(line), "{asked}");
    }
}

/// GETs; the server answers `answer` and closes.
async fn gets(lab: &Lab, answer: &[u8]) -> Result<Answer, OpenError> {
    let (upstream, server) = (lab.upstream(), lab.server());
    let at = corp();
    let (res, ()) = join!(upstream.get(&at, "/", None), async {
        let mut stream = lab.accept(&server).await.unwrap();
        let asked = head(&mut stream).await.0;
        assert!(!asked.to_ascii_lowercase().contains("authorization"));
        // A client that had enough hangs up.
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    });
    res
}

#[tokio::test]
async fn a18_an_answer_to_a_get_is_bounded_and_whole() {
    let lab = Lab::new().await;
    let long = |length: usize| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; length]].concat()
    };
    assert_eq!(
        gets(&lab, &long(4 << 20)).await.unwrap().body.len(),
        4 << 20
    );
    for (answer, message) in [
        (long((4 << 20) + 1), ": the answer is longer than 4 MiB"),
        (
            long(100)[..90].to_vec(),
            " closed the connection in the middle of its answer",
        ),
        (vec![], " closed the connection without an answer"),
        (
            b"SSH-2.0-x\r\n".to_vec(),
            ": not an HTTP answer: «SSH-2.0-x»",
        ),
    ] {
        let it = unreachable(gets(&lab, &answer).await);
        assert_eq!(it.step, Step::Http);
        assert_eq!(it.message, format!("corp.example.com{message}"));
    }
}

#[tokio::test]
async fn f14_a_get_without_an_answer_is_given_up() {
    let mut lab = Lab::new().await;
    lab.limits.get = Duration::from_millis(100);
    let (upstream, server) = (lab.upstream(), lab.server());
    let at = corp();
    let (res, _stream) = join!(upstream.get(&at, "/", None), lab.accept(&server));
    let it = unreachable(res);
    assert_eq!((it.step, it.timed_out), (Step::Http, true));
}
