//! The house's rules, read off the source: which floor may use which, where `unsafe` may stand,
//! what pure floors keep away from.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up and the rooms on each. A room uses rooms of lower floors and
/// itself.
const FLOORS: [&[&str]; 10] = [
    &["base"],
    &["sys", "wire", "observe"],
    &["balance"],
    &["config", "net", "tls"],
    &["relay"],
    &["proxy", "probe", "discovery", "admin", "gateway"],
    &["runtime"],
    &["demo"],
    &["cli"],
    &["main"],
];

/// Rooms that take time and chance as arguments and never touch a socket.
const PURE: [&str; 2] = ["balance", "wire"];

/// What a pure room does not write outside its tests.
const IMPURE: [&str; 8] = [
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "Instant::now",
    "SystemTime::now",
    "Moment::now",
];

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Everything wrong with one file of `src/`; `file` is its path below it.
fn violations(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |line: usize, what: String| found.push(format!("src/{file}:{line}: {what}"));
    if !text.starts_with("//!") {
        say(
            1,
            "does not begin with `//!` and a sentence on its purpose".to_owned(),
        );
    }
    let room = file.split('/').next().unwrap().trim_end_matches(".rs");
    let Some(own) = floor_of(room) else {
        if room != "lib" {
            say(1, format!("the room `{room}` is on no floor"));
        }
        return found;
    };
    for (number, line) in product_lines(text) {
        for used in rooms_used(line) {
            match floor_of(used) {
                None => say(number, format!("uses `{used}`, which is on no floor")),
                Some(floor) if floor < own || used == room => {}
                Some(floor) if floor == own => {
                    say(number, format!("uses `{used}`, a neighbour"));
                }
                Some(_) => say(number, format!("uses `{used}`, which is above")),
            }
        }
        let words = |word: &str| has_word(line, word);
        if room != "sys" && words("unsafe") {
            say(number, "`unsafe` belongs under `sys` only".to_owned());
        }
        if PURE.contains(&room) {
            for word in IMPURE.iter().filter(|word| words(word)) {
                say(number, format!("`{word}` in a pure room"));
            }
        }
        if line.contains(".unwrap()") {
            say(
                number,
                "`unwrap` is for tests; `expect` states the invariant".to_owned(),
            );
        }
    }
    found
}

/// The lines that are neither comment nor test, by number. Text in quotes is left out.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let all: Vec<&str> = text.lines().collect();
    let mut lines = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let line = all[at];
        if line.trim_start().starts_with("#[cfg(test)]") {
            // To the end of the item that follows: a `;` or its closing brace, as far indented.
            let indent = line.len() - line.trim_start().len();
            at += 1;
            while at < all.len() && !all[at].trim_end().ends_with(['{', ';']) {
                at += 1;
            }
            if at < all.len() && all[at].trim_end().ends_with('{') {
                let closing = format!("{}}}", " ".repeat(indent));
                while at < all.len() && all[at].trim_end() != closing {
                    at += 1;
                }
            }
        } else if !line.trim_start().starts_with("//") {
            lines.push((at + 1, line));
        }
        at += 1;
    }
    lines.into_iter()
}

/// Rooms that a line names by `crate::` or, from the binary, by `lbd::`.
fn rooms_used(line: &str) -> Vec<&str> {
    let mut used = Vec::new();
    for head in ["crate::", "lbd::"] {
        for (at, _) in line.match_indices(head) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|char| char.is_alphanumeric() || char == '_' || char == '$') {
                continue;
            }
            let rest = &line[at + head.len()..];
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or(""),
                None => rest,
            };
            // `{base::addr, net::peer}` names several; a plain path names one.
            let several = rest.starts_with('{');
            for path in names.split(',').take(if several { usize::MAX } else { 1 }) {
                let name = path.trim_start();
                let end = name.find(|char: char| !char.is_alphanumeric() && char != '_');
                let name = &name[..end.unwrap_or(name.len())];
                if !name.is_empty() {
                    used.push(name);
                }
            }
        }
    }
    used
}

/// Whether a line of code has the word, not as a part of another and not in a text.
fn has_word(line: &str, word: &str) -> bool {
    let part = |char: char| char.is_alphanumeric() || char == '_';
    let code: String = line.split('"').step_by(2).collect::<Vec<_>>().join("\"");
    let code = code.split("//").next().unwrap_or("");
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// Files declared as tests by their parent (`#[cfg(test)] mod tests;`).
fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_room_uses_a_neighbour_or_one_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the source was not found");
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let file = path
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let text = fs::read_to_string(&path).unwrap();
        if is_test_file(&path) {
            if !text.starts_with("//!") {
                found.push(format!("src/{file}:1: does not begin with `//!`"));
            }
        } else {
            found.extend(violations(&file, &text));
        }
    }
    assert!(
        found.is_empty(),
        "{} violations:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn every_room_of_the_map_stands_on_its_floor() {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(map).unwrap();
    let rooms = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "));
    let names = rooms.map(|line| line.split([' ', ';']).next().unwrap());
    for name in names {
        assert!(floor_of(name).is_some(), "`{name}` is on no floor");
    }
}

#[test]
fn each_kind_of_violation_is_found() {
    let text = "use crate::runtime::state;\nuse crate::{base::addr, sys::socket};\n\
                fn f() { unsafe { g() }; h().unwrap(); tokio::spawn(i()) }\n\
                // crate::cli in a comment, \"unsafe\" in a text\n\
                #[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n\
                use crate::cli::main;\n";
    let found = violations("wire/made_up.rs", text);
    let lines: Vec<&str> = found
        .iter()
        .map(|one| one.split(": ").next().unwrap())
        .collect();
    let at = |line: usize| format!("src/wire/made_up.rs:{line}");
    assert_eq!(
        lines,
        [at(1), at(1), at(2), at(3), at(3), at(3), at(9)],
        "{found:#?}"
    );
    assert!(found[2].contains("neighbour"), "{found:#?}");
    assert!(found[6].contains("above"), "{found:#?}");
}

#[test]
fn what_is_allowed_is_not_found() {
    let text = "//! Purpose.\n\nuse crate::balance::pool;\nuse crate::config::settings;\n\
                fn not_unsafe_at_all() { say(\"unsafe\") } // unsafe\n";
    assert_eq!(violations("config/fine.rs", text), Vec::<String>::new());
}
