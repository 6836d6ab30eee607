//! What those get who are not the person before the screen.

use std::io::Read as _;
use std::time::Duration;

use crate::chromium::Browser;
use crate::ui::Ui;

fn of_nothing() -> (tempfile::TempDir, Ui) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.json");
    let ui = Ui::start(&["files", path.to_str().unwrap()]);
    (directory, ui)
}

#[test]
fn nothing_is_told_without_the_token_or_to_another_host_or_site() {
    let (_directory, ui) = of_nothing();
    let host = ui.socket().to_string();
    let bearer = format!("Bearer {}", ui.token());
    let own = [("Host", &*host), ("Authorization", &*bearer)];
    let (mut stream, head) = ui.request("/events", &own);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut event = [0; 2048];
    let len = stream.read(&mut event).unwrap();
    assert!(String::from_utf8_lossy(&event[..len]).contains("data: {"));
    assert!(!head.to_ascii_lowercase().contains("access-control"), "{head}");

    let port = ui.socket().port();
    let rebound = format!("evil.example:{port}");
    let refused: [(&[(&str, &str)], &str); 6] = [
        (&[("Host", &*host)], "401"),
        (&[("Host", &*host), ("Authorization", "Bearer 0123456789abcdef0123456789abcdef")], "401"),
        (&[("Host", &*rebound), ("Authorization", &*bearer)], "403"),
        (&[own[0], own[1], ("Origin", "http://evil.example")], "403"),
        (&[own[0], own[1], ("Sec-Fetch-Site", "cross-site")], "403"),
        (&[("Authorization", &*bearer)], "40"),
    ];
    for (headers, code) in refused {
        let (_, head) = ui.request("/events", headers);
        assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{headers:?}: {head}");
    }
    let (_, head) = ui.request("/", &[("Host", &*rebound)]);
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let (_, head) = ui.request("/", &[("Host", &*host)]);
    for policy in ["default-src 'none'", "frame-ancestors 'none'", "x-frame-options: DENY"] {
        assert!(head.contains(policy), "{policy}: {head}");
    }
    assert!(!head.contains(ui.token()), "the page itself has no secret");
    assert!(ui.socket().ip().is_loopback());
}

#[test]
fn whoever_holds_connections_keeps_nobody_out() {
    let (_directory, ui) = of_nothing();
    let host = ui.socket().to_string();
    let bearer = format!("Bearer {}", ui.token());
    let own = [("Host", &*host), ("Authorization", &*bearer)];
    let held: Vec<_> =
        (0..100).map(|_| std::net::TcpStream::connect(ui.socket()).unwrap()).collect();
    let (_, head) = ui.request("/", &[("Host", &*host)]);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    drop(held);
    // The ninth stream ends the first.
    let mut streams: Vec<_> = (0..9).map(|_| ui.request("/events", &own).0).collect();
    let first = &mut streams[0];
    first.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    let mut event = [0; 64];
    assert!(streams[8].read(&mut event).unwrap() > 0, "the newest lives");
}

#[test]
fn a_page_of_another_site_sees_nothing() {
    let (_directory, ui) = of_nothing();
    let mut browser = Browser::start();
    // Another origin of this machine, and the token in its hands, which it would have to guess.
    browser.open("data:text/html,<title>stranger</title>");
    browser.wait("document.title === 'stranger'");
    let (address, token) =
        (ui.address.split('#').next().unwrap().to_owned(), ui.token().to_owned());
    let tries = [
        format!("fetch('{address}').then(() => 'read', () => 'refused')"),
        format!(
            "fetch('{address}events', {{headers: {{Authorization: 'Bearer {token}'}}}})\
             .then(() => 'read', () => 'refused')"
        ),
    ];
    for expression in tries {
        assert_eq!(browser.value(&expression), "refused", "{expression}");
    }
    // Without its fragment the page says what is missing, and shows nothing.
    browser.open(&address);
    browser.wait("document.title === 'Culvert'");
    browser.wait("byId('link').textContent.includes('open the whole address')");
    assert_eq!(browser.value("names.length"), 0);
}
