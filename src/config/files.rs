//! Finds and reads the files: the one that was asked for, and those it includes.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glob::{MatchOptions, Pattern};

use crate::config::ledger::{Ledger, Place, Source, Wrong};
use crate::config::reader::Reader;

/// A larger file is not a configuration, or never ends.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The text of the file; what cannot be read is noted against the file itself, or against the
/// place that includes it.
pub(crate) fn read(file: usize, path: &Path, from: Option<&Place>, ledger: &Ledger) -> Source {
    let name = path.display().to_string();
    let text = match read_bytes(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let wrong = Wrong::new("not UTF-8 text", "save the file as UTF-8");
                ledger.note_broken(
                    &Place {
                        file,
                        span: at..at + 1,
                    },
                    wrong,
                );
                text
            }
        },
        Err(error) => {
            let wrong = Wrong::new(format!("cannot read {name}: {error}"), "");
            match from {
                Some(place) => ledger.note_broken(place, wrong),
                None => {
                    ledger.note_unreadable(file, Wrong::new(format!("cannot be read: {error}"), ""))
                }
            }
            String::new()
        }
    };
    Source::new(name, text)
}

/// The text of a file that a value at `from` names, and the number its mistakes go by. `None`:
/// what is wrong with it is noted. A file that several values name is read once.
pub(crate) fn attach(path: &Path, from: &Place, ledger: &Ledger) -> Option<(usize, Rc<Source>)> {
    let name = path.display().to_string();
    if let Some(known) = ledger.attached(&name) {
        return Some(known);
    }
    let text = read_bytes(path).and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
    });
    match text {
        Ok(text) => Some(ledger.attach(Source::new(name, text))),
        Err(error) => {
            ledger.note(from, Wrong::new(format!("cannot read {name}: {error}"), ""));
            None
        }
    }
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!(
            "more than {} MiB are not a configuration",
            FILE_BYTES_MAX >> 20
        );
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// The files that the top file at `path` includes: sorted, each once.
pub(crate) fn included(path: &Path, top: &Reader<'_>) -> Vec<Source> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut found: BTreeMap<PathBuf, Place> = BTreeMap::new();
    // Several patterns may meet in one file, by different ways; a wide one meets the top file.
    let mut seen = HashSet::from([resolved(path)]);
    for pattern in top.strings("include", "a file pattern or an array of them") {
        match matches(folder, &pattern.value) {
            Ok(paths) => {
                for new in paths.into_iter().filter(|path| seen.insert(resolved(path))) {
                    found.insert(new, pattern.place.clone());
                }
            }
            Err(wrong) => top.ledger().note_broken(&pattern.place, wrong),
        }
    }
    let numbered = found.iter().enumerate();
    numbered
        .map(|(at, (path, from))| read(at + 1, path, Some(from), top.ledger()))
        .collect()
}

/// The one path of a file; of a missing one, what was written.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The files of one pattern. Hidden files are not matched by a wildcard: editors leave such behind.
fn matches(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, Wrong> {
    if !pattern.contains(['*', '?', '[']) {
        // Reading it tells whether it is there.
        return Ok(vec![folder.join(pattern)]);
    }
    let hint = "such as include = [\"conf.d/*.toml\"]";
    let malformed = |what: String| Wrong::new(format!("the pattern {pattern:?} {what}"), hint);
    let folder = folder
        .to_str()
        .ok_or_else(|| malformed("is in a folder not named in UTF-8".into()))?;
    // An absolute pattern replaces the folder.
    let whole = PathBuf::from(Pattern::escape(folder)).join(pattern);
    let whole = whole.to_str().expect("two strings make a string");
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let paths = glob::glob_with(whole, options)
        .map_err(|error| malformed(format!("is malformed: {}", error.msg)))?;
    let paths: Result<Vec<PathBuf>, _> = paths.collect();
    let paths = paths.map_err(|error| malformed(format!("cannot be followed: {error}")))?;
    Ok(paths.into_iter().filter(|path| !path.is_dir()).collect())
}
