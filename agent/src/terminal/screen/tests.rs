use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use data_encoding::BASE64;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::keys::KEYS;
use super::*;

#[test]
fn url_state_and_requests_are_on_the_screen() {
    let mut screen = Screen::default();
    let url = format!(
        "https://flexdeploy.hooks.example.com/flexdeploy/webhooks/v1/git/push?token={}",
        "t".repeat(43)
    );
    let ready = ready("https://h.example", &url);
    screen.take(&Event::Ready(ready.clone()).into());
    screen.take(&Event::RefusedSummary(vec![(hookward_core::reason::Check::Token, 7)]).into());

    let shown = shown(&screen);
    for text in [
        "online",
        "relay.example:443 (quic)",
        "7 by token",
        "7 refused",
    ] {
        assert!(shown.contains(text), "{text} in\n{shown}");
    }

    let joined: String = shown
        .lines()
        .map(|line| line.trim_matches('"').trim_end())
        .collect();
    assert!(joined.contains(&url), "the whole URL in\n{shown}");

    let other = Ready {
        base_url: "https://two.example".into(),
        relay: "other.example:443".into(),
        ..ready
    };
    screen.take(&Event::Ready(other).into());

    screen.take(
        &Event::RelayDisconnected {
            relay: "relay.example:443".into(),
            reason: "it is off".into(),
            permanent: false,
        }
        .into(),
    );

    let shown = self::shown(&screen);
    for text in [
        "relay.example:443 (not reached: it is off)",
        "other.example:443 (quic)",
        "https://h.example ->",
        "https://two.example ->",
    ] {
        assert!(shown.contains(text), "{text} in\n{shown}");
    }
}

#[test]
fn many_tunnels_leave_room_for_requests() {
    let mut screen = Screen::default();
    for number in 0..20 {
        let base_url = format!("https://t{number:02}.example");
        let url = format!("{base_url}/flexdeploy/webhooks/v1?token={}", "t".repeat(43));
        screen.take(&Event::Ready(ready(&base_url, &url)).into());
    }

    screen.take(&Event::Warning("THE OLD ONE STAYS IN FORCE".into()).into());
    screen.take(&Event::RefusedSummary(vec![(hookward_core::reason::Check::Token, 7)]).into());
    let shown = shown(&screen);

    for text in [
        "t00.example ->",
        "more tunnels",
        "IN FORCE",
        "7 refused",
        "7 by token",
    ] {
        assert!(shown.contains(text), "{text} in\n{shown}");
    }
}

/// Refusals arrive a little late, and are still shown in order.
#[test]
fn requests_stand_in_the_order_of_their_answers_and_failures_are_counted_apart() {
    use std::net::IpAddr;
    use std::sync::Arc;

    use hookward_core::reason::{Check, Code};
    use hookward_tunnel::protocol::control::RefusedRequest;
    use hookward_tunnel::protocol::head::RequestId;

    use crate::events::RequestEvent;

    let begin = Instant::now();
    let at = |ms: u64| begin + Duration::from_millis(ms);
    let client: IpAddr = "192.0.2.1".parse().unwrap();
    let request = |ms: u64, outcome: RequestResult| {
        let (id, host, method) = (
            RequestId([0; 16]),
            Arc::from("h.example"),
            http::Method::POST,
        );
        let path = format!("/at-{ms}");

        let report = RequestEvent {
            trace: None,
            id,
            host,
            method,
            path,
            client,
            took: Duration::ZERO,
            outcome,
        };

        TimedEvent {
            moment: at(ms),
            ..Event::Request(Box::new(report)).into()
        }
    };

    let refused = |ms: u64| {
        let report = RefusedRequest {
            id: String::new(),
            host: "h.example".to_owned(),
            method: "POST".to_owned(),
            path: format!("/at-{ms}"),
            client: client.to_string(),
            status: 403,
            check: Check::Token,
            reason: "the token is wrong".to_owned(),
            ms: 0,
            observed: false,
            answered: false,
            note: false,
            age_ms: 0,
            at_ms: 0,
            order: 0,
            content: None,
        };

        TimedEvent {
            moment: at(ms),
            ..Event::Refused(Box::new(report)).into()
        }
    };

    let answered = |status| RequestResult::Answered {
        status,
        observed: None,
        route: String::new(),
        checks: std::sync::Arc::from([]),
        secrets: Vec::new(),
    };

    let reason = || "the application broke off".to_owned();
    let failed = RequestResult::Failed {
        status: 502,
        code: Code::UpstreamError,
        reason: reason(),
    };

    let mut screen = Screen::default();
    for stamped in [
        request(0, answered(200)),
        request(1, answered(404)),
        request(3, answered(301)),
        request(4, failed),
        // 50 ms late.
        refused(2),
    ] {
        screen.take(&stamped);
    }

    let shown = shown(&screen);
    let places: Vec<_> = (0..5)
        .map(|ms| shown.find(&format!("/at-{ms}")).unwrap())
        .collect();
    assert!(
        places.is_sorted_by(|before, after| before > after),
        "the newest first: {places:?}\n{shown}"
    );
    assert!(
        shown.contains("3 answered, 1 failed, 1 refused, 0 stored"),
        "{shown}"
    );
    assert_eq!(
        screen.summary(Duration::from_secs(200)),
        "hookward: 5 requests in 3m 20s: 3 answered, 1 failed, 1 refused, 0 stored"
    );
}

#[test]
fn c_copies_the_url_and_the_last_line_reports_it() {
    let url = "https://h.example/flexdeploy/webhooks/v1?token=t";
    let mut screen = Screen::default();
    let mut out = Vec::new();
    screen.copy_url(&mut out).unwrap();
    assert_eq!(
        (out.len(), screen.copied),
        (0, None),
        "there is no tunnel yet"
    );

    screen.take(&Event::Ready(ready("https://h.example", url)).into());
    screen.copy_url(&mut out).unwrap();

    let sent = String::from_utf8(out).unwrap();
    let encoded = sent
        .strip_prefix("\u{1b}]52;c;")
        .and_then(|rest| rest.strip_suffix('\u{7}'))
        .unwrap();
    assert_eq!(BASE64.decode(encoded.as_bytes()).unwrap(), url.as_bytes());
    assert!(shown(&screen).contains("the webhook URL is copied"));
}

#[test]
fn keys_write_the_filter_pause_and_quit() {
    let mut screen = Screen::default();
    let mut press = |code, modifiers| {
        let action = screen.press(KeyEvent::new(code, modifiers));
        (action, screen.hint())
    };
    let mut key = |code| press(code, KeyModifiers::NONE);

    assert_eq!(key(KeyCode::Char('c')).0, Some(Action::CopyUrl));
    assert_eq!(key(KeyCode::Char('q')).0, Some(Action::Quit));
    assert!(key(KeyCode::Char('p')).1.starts_with("paused, 0"));
    key(KeyCode::Char('p'));

    for code in ['/', 'q', 'C', 'x'] {
        assert_eq!(key(KeyCode::Char(code)).0, None, "{code} is text");
    }
    assert!(key(KeyCode::Backspace).1.starts_with("filter: qC_"));
    assert!(key(KeyCode::Enter).1.starts_with("filter: qC "));
    assert!(key(KeyCode::Esc).1.contains("? help"));

    let control_c = press(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(control_c.0, Some(Action::Quit));
}

#[test]
fn the_help_lists_the_keys_and_any_key_closes_it() {
    let mut screen = Screen::default();
    let question = KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE);
    let shows_all = |screen: &Screen| {
        let shown = shown_at(screen, 50, 12);
        KEYS.iter().all(|(_, action)| shown.contains(action))
    };
    screen.take(&Event::Ready(ready("https://h.example", "https://h.example/w")).into());
    screen.press(question);
    assert!(shows_all(&screen), "{}", shown_at(&screen, 50, 12));

    screen.press(question);
    assert!(!shows_all(&screen));
}

fn ready(base_url: &str, url: &str) -> Ready {
    Ready {
        url: url.to_owned(),
        base_url: base_url.to_owned(),
        host: "h.example".into(),
        edge: None,
        ca: None,
        relay: "relay.example:443".into(),
        transport: Transport::Quic,
        application: "localhost:8000".into(),
    }
}

/// State, URL, counts and requests are on a screen of every size.
#[test]
fn a_small_screen_shows_what_matters() {
    let url = format!(
        "https://h.example/flexdeploy/webhooks/v1?token={}",
        "t".repeat(43)
    );
    let mut screen = Screen::default();
    screen.take(&Event::Ready(ready("https://h.example", &url)).into());
    screen.take(&Event::Note("the application refuses connections".into()).into());
    screen.take(&Event::RefusedSummary(vec![(hookward_core::reason::Check::Token, 7)]).into());

    for (width, height) in [(50, 12), (80, 24), (120, 40)] {
        let shown = shown_at(&screen, width, height);
        let joined: String = shown
            .lines()
            .map(|line| line.trim_matches('"').trim_end())
            .collect();
        for text in [&url, "online", "7 refused", "7 by token", "? help"] {
            assert!(joined.contains(text), "{text} in\n{shown}");
        }
    }

    // Nothing fits, and nothing fails.
    for (width, height) in [(1, 1), (3, 2), (200, 1), (1, 60)] {
        shown_at(&screen, width, height);
    }
}

fn shown(screen: &Screen) -> String {
    shown_at(screen, 80, 30)
}

fn shown_at(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}
