//! From a file, or a text, to checked settings: all of it or every mistake.

use std::path::Path;

use crate::config::check;
use crate::config::files;
use crate::config::ledger::{Ledger, Source, Wrong};
use crate::config::mistakes::Mistakes;
use crate::config::reader::{Desk, Reader};
use crate::config::settings::Settings;
use crate::config::syntax::{self, Page};

/// Reads the file at `path` and those it includes. `env` gives the variables of the environment.
///
/// Errors: every mistake there is, that the file cannot be read among them.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Mistakes> {
    let ledger = Ledger::default();
    let desk = Desk {
        ledger: &ledger,
        env,
    };
    let source = files::read(0, path, None, &ledger);
    let page = syntax::parse(0, &source, &ledger);
    let top = Reader::of_page(&desk, &page);
    let included = files::included(path, &top);
    let numbered = included.iter().enumerate();
    let pages: Vec<Page<'_>> = numbered
        .map(|(at, source)| syntax::parse(at + 1, source, &ledger))
        .collect();
    let mut roots = vec![top];
    for page in &pages {
        let root = Reader::of_page(&desk, page);
        refuse_include(&root, "the top file includes every file; list it there");
        roots.push(root);
    }
    let sources: Vec<&Source> = std::iter::once(&source).chain(&included).collect();
    finish(&roots, &ledger, &sources)
}

/// Reads a text that is not in a file: it cannot include any. `name` stands for the file in mistakes.
///
/// Errors: every mistake there is.
pub fn load_text(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, Mistakes> {
    let ledger = Ledger::default();
    let desk = Desk {
        ledger: &ledger,
        env,
    };
    let source = Source::new(name.to_owned(), text.to_owned());
    let page = syntax::parse(0, &source, &ledger);
    let root = Reader::of_page(&desk, &page);
    refuse_include(
        &root,
        "there is no folder to look into: the text comes from no file",
    );
    finish(&[root], &ledger, &[&source])
}

fn refuse_include(root: &Reader<'_>, hint: &str) {
    if root.has("include") {
        root.note(
            &root.place_of_value("include"),
            Wrong::new("`include` is not possible here", hint),
        );
    }
}

fn finish(
    roots: &[Reader<'_>],
    ledger: &Ledger,
    sources: &[&Source],
) -> Result<Settings, Mistakes> {
    let settings = check::settings(roots);
    match ledger.finish(sources) {
        Some(mistakes) => Err(mistakes),
        None => Ok(settings),
    }
}
