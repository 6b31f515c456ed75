//! The dashboard in a real browser, over the real binary.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::balancer::Setup;
use crate::harness::browser::{Browser, request};
use crate::harness::process::{Process, Start, free_port};
use crate::harness::wait;

const TOKEN: &str = "correct-horse-battery-staple";

/// Two backends that are probed often, and the admin interface at an address.
struct Stage {
    /// Ends with the stage.
    _lbd: Process,
    admin: SocketAddr,
    backends: Vec<TcpListener>,
}

impl Stage {
    fn with(token: Option<&str>, more_of_pool: &str) -> Stage {
        let open = || TcpListener::bind("127.0.0.1:0").unwrap();
        let backends: Vec<TcpListener> = (0..2).map(|_| open()).collect();
        let addresses = backends.iter().map(|one| one.local_addr().unwrap());
        let mut setup = Setup::over(&addresses.collect::<Vec<_>>()).pool(more_of_pool);
        if !more_of_pool.contains("health") {
            let health = "health = { probe = \"tcp\", interval = \"200ms\", timeout = \"200ms\", \
                          fast_interval = \"200ms\", down_interval = \"200ms\", fall = 1, rise = 1 }";
            setup = setup.pool(health);
        }
        let admin = free_port();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        setup.more = format!("[admin]\nbind = \"{admin}\"\nsocket = {socket:?}\n");
        if let Some(token) = token {
            let file = folder.path().join("token");
            fs::write(&file, token).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            setup.more += &format!("token_file = {file:?}\n");
        }
        let lbd = Process::start_with(&setup, &Start::default());
        // It was read, and nobody asks by the socket.
        drop(folder);
        Stage {
            _lbd: lbd,
            admin,
            backends,
        }
    }

    fn open(&self, browser: &Browser) {
        browser.open(&format!("http://{}/", self.admin), 1440, 900);
        browser.until(
            "the page shows both backends",
            "return document.querySelectorAll('.pool .row:not(.titles)').length === 2",
        );
    }

    fn whoami(&self, headers: &str) -> Value {
        request(self.admin, "GET", "/api/v1/whoami", headers, &Value::Null)
    }
}

#[test]
fn a_backend_going_down_is_on_the_page_within_two_seconds() {
    let Some(browser) = Browser::start("a_backend_going_down_is_on_the_page_within_two_seconds")
    else {
        return;
    };
    let mut stage = Stage::with(None, "");
    stage.open(&browser);
    browser.until(
        "both are up",
        "return document.querySelector('h1').textContent === 'Both backends up'",
    );
    assert_eq!(browser.run("return document.title"), "lbd");
    let before = browser.screenshot("all-up");
    let closed = Instant::now();
    drop(stage.backends.remove(0));
    browser.until(
        "one is down",
        "return document.querySelector('h1').textContent === '1 of 2 backends down'",
    );
    let took = closed.elapsed();
    let after = browser.screenshot("one-down");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_ne!(before, after, "people see it");
    assert_eq!(browser.text(".row.bad .name b"), "b0");
    assert_eq!(browser.text(".row.bad .state"), "✕ down");
    let why = browser.text(".row.bad .probe");
    assert!(why.contains("refused"), "{why}");
    let trouble = browser.text("#troubles li");
    assert!(trouble.starts_with("out/b0 is down: "), "{trouble}");
    assert_eq!(browser.run("return document.title"), "(1) lbd");
    let elsewhere = browser.run(
        "return performance.getEntriesByType('resource').map(one => one.name)\
         .filter(name => !name.startsWith(location.origin) && !name.startsWith('data:'))",
    );
    assert_eq!(elsewhere, json!([]));
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn the_page_says_when_nobody_answers() {
    let Some(browser) = Browser::start("the_page_says_when_nobody_answers") else {
        return;
    };
    let stage = Stage::with(None, "");
    stage.open(&browser);
    assert!(!browser.is_visible("#lost"));
    drop(stage);
    wait::until("the page says so", || browser.is_visible("#lost"));
    assert!(browser.text("#lost").starts_with("No answer from lbd"));
    assert_eq!(browser.run("return document.title"), "(lost) lbd");
    assert_eq!(browser.text("h1"), "Unknown: lbd does not answer");
    browser.screenshot("lost");
}

#[test]
fn changes_are_offered_to_who_has_the_token() {
    let Some(browser) = Browser::start("changes_are_offered_to_who_has_the_token") else {
        return;
    };
    let stage = Stage::with(Some(TOKEN), "");
    stage.open(&browser);
    browser.until(
        "it can be unlocked",
        "return !document.getElementById('key').hidden",
    );
    assert!(!browser.is_visible(".does [data-state=drain]"));
    let unlock = |token| {
        browser.write("#ask-input", token);
        browser.click("#ask-yes");
    };
    browser.click("#key");
    unlock("wrong");
    wait::until("it is refused", || {
        browser.text("#ask-failed") == "this is not the token"
    });
    // That one is not complained of: who asks whoami is never refused.
    assert_eq!(browser.complaints(), Vec::<Value>::new());
    unlock(TOKEN);
    wait::until("there are buttons", || {
        browser.is_visible(".does [data-state=drain]")
    });
    let stored = browser.run("return [sessionStorage.length, localStorage.length]");
    assert_eq!(stored, json!([1, 0]));

    browser.click("[aria-label='Drain: out/b1']");
    // Words of people must not become markup.
    browser.write(
        "#ask-input",
        "<img src=x onerror=\"document.title='gone'\">",
    );
    browser.screenshot("drain");
    browser.click("#ask-yes");
    wait::until("it drains", || browser.text(".row.warn .name b") == "b1");
    let said = browser.text(".row.warn .probe");
    assert!(said.contains("<img src=x onerror="), "{said}");
    assert_eq!(
        browser.run("return document.images.length"),
        0,
        "the reason became markup"
    );
    browser.screenshot("drained");
    browser.click("[aria-label='Ready: out/b1']");
    browser.click("#ask-yes");
    browser.until(
        "it is back",
        "return document.querySelector('h1').textContent === 'Both backends up'",
    );
    browser.click("#key");
    wait::until("it is locked", || {
        !browser.is_visible(".does [data-state=drain]")
    });
    assert_eq!(browser.run("return sessionStorage.length"), 0);
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn without_a_token_nothing_is_offered() {
    let Some(browser) = Browser::start("without_a_token_nothing_is_offered") else {
        return;
    };
    let stage = Stage::with(None, "");
    stage.open(&browser);
    wait::until("it says so", || browser.text("#right") == "read only");
    assert!(!browser.is_visible("#key"));
    assert!(!browser.is_visible(".does [data-state=drain]"));
}

#[test]
fn the_page_fits_a_phone() {
    let Some(browser) = Browser::start("the_page_fits_a_phone") else {
        return;
    };
    let stage = Stage::with(Some(TOKEN), "");
    browser.become_phone(390, 1400);
    stage.open(&browser);
    let wide = browser.run("return [innerWidth, document.documentElement.scrollWidth]");
    assert_eq!(wide, json!([390, 390]), "it scrolls sideways");
    browser.screenshot("phone");
}

#[test]
fn what_a_probe_says_stays_text() {
    let Some(browser) = Browser::start("what_a_probe_says_stays_text") else {
        return;
    };
    let health = r#"health = { probe = "exec", interval = "200ms", timeout = "150ms", fall = 1,
        command = ["/bin/sh", "-c", "echo '<img src=x onerror=alert(1)></script>'; exit 1"] }"#;
    let stage = Stage::with(None, &health.replace("\n       ", ""));
    stage.open(&browser);
    wait::until("both are down", || {
        browser.text("h1") == "2 of 2 backends down"
    });
    let said = browser.text("#troubles");
    assert!(said.contains("<img src=x onerror=alert(1)>"), "{said}");
    assert_eq!(browser.run("return document.images.length"), 0);
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn whoami_says_who_may_change_something() {
    let stage = Stage::with(Some(TOKEN), "");
    let no = stage.whoami("");
    assert_eq!(
        (&no["may_change"], &no["token_configured"]),
        (&json!(false), &json!(true))
    );
    let wrong = stage.whoami("Authorization: Bearer x\r\n");
    assert_eq!(wrong["may_change"], false);
    let yes = stage.whoami(&format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!(yes["may_change"], true);
    let name = yes["name"].as_str().unwrap();
    assert!(name.starts_with("the token from 127.0.0.1:"), "{name}");
    assert!(!yes.to_string().contains(TOKEN));
    let open = Stage::with(None, "").whoami("");
    assert_eq!(open["token_configured"], false);
}
