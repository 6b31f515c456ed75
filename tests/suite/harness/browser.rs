//! A browser that shows a page: Debian's chromium, told what to do by chromedriver.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::machine;
use super::process::{Helper, free_port};
use super::wait;

/// One window. It is closed on drop, and what drives it is ended.
pub struct Browser {
    runtime: Runtime,
    /// Until the drop.
    client: Option<Client>,
    driver: SocketAddr,
    _driver: Helper,
}

impl Browser {
    /// `None`, with the reason said, where there is no browser.
    pub fn start(test: &str) -> Option<Browser> {
        for name in ["chromium", "chromedriver"] {
            if machine::program(name).is_none() {
                machine::skipped(test, &format!("{name} is not installed"));
                return None;
            }
        }
        let driver = free_port();
        let port = format!("--port={}", driver.port());
        let program = machine::program("chromedriver").unwrap();
        let helper = Helper::start(Command::new(program).arg(port)).answering(driver);
        // Root has no sandbox; a small /dev/shm, as containers have it, is not enough.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ];
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments, "binary": machine::program("chromium") },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(wanted.as_object().unwrap().clone());
            builder.connect(&format!("http://{driver}")).await.unwrap()
        });
        Some(Browser {
            runtime,
            client: Some(client),
            driver,
            _driver: helper,
        })
    }

    pub fn open(&self, url: &str, width: u32, height: u32) {
        self.runtime.block_on(async {
            self.client().set_window_size(width, height).await.unwrap();
            self.client().goto(url).await.unwrap();
        });
    }

    /// What a function body in JavaScript returns.
    pub fn run(&self, script: &str) -> Value {
        let answer = self.client().execute(script, Vec::new());
        self.runtime.block_on(answer).unwrap()
    }

    /// The text of the first element that fits, as people see it.
    pub fn text(&self, css: &str) -> String {
        self.run(&format!(
            "return document.querySelector({css:?})?.innerText ?? ''"
        ))
        .as_str()
        .unwrap()
        .to_owned()
    }

    pub fn is_visible(&self, css: &str) -> bool {
        self.run(&format!(
            "return document.querySelector({css:?})?.checkVisibility() ?? false"
        )) == true
    }

    /// Clicks as a mouse does: on what can be seen and is not covered.
    pub fn click(&self, css: &str) {
        self.runtime.block_on(async {
            let found = self.client().find(Locator::Css(css)).await.unwrap();
            found.click().await.unwrap();
        });
    }

    pub fn write(&self, css: &str, text: &str) {
        self.runtime.block_on(async {
            let found = self.client().find(Locator::Css(css)).await.unwrap();
            found.clear().await.unwrap();
            found.send_keys(text).await.unwrap();
        });
    }

    #[track_caller]
    pub fn until(&self, what: &str, script: &str) {
        wait::until(what, || self.run(script) == true);
    }

    /// Into the build folder, for people to look at.
    pub fn screenshot(&self, name: &str) -> Vec<u8> {
        let picture = self.runtime.block_on(self.client().screenshot()).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name).with_extension("png"), &picture).unwrap();
        picture
    }

    /// What the page and the browser complained of since the last look.
    pub fn complaints(&self) -> Vec<Value> {
        let answer = self.tell("se/log", &json!({ "type": "browser" }));
        answer["value"].as_array().unwrap().clone()
    }

    /// A screen narrower than any window can be.
    pub fn become_phone(&self, width: u32, height: u32) {
        let screen =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": true });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": screen });
        self.tell("goog/cdp/execute", &command);
    }

    /// What WebDriver has no word for.
    fn tell(&self, what: &str, body: &Value) -> Value {
        let session = self.runtime.block_on(self.client().session_id()).unwrap();
        let path = format!("/session/{}/{what}", session.unwrap());
        request(self.driver, "POST", &path, "", body)
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // The browser ends with its last window.
            let _ = self.runtime.block_on(client.close());
        }
    }
}

/// The JSON that a request over HTTP is answered with.
pub fn request(to: SocketAddr, method: &str, path: &str, headers: &str, body: &Value) -> Value {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{headers}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    // The driver keeps connections open whatever is asked of it.
    let mut answer = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}
