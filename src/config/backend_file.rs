//! Reads a file of backends, which `kind = "file"` names: `[[backend]]` tables and nothing else.

use std::path::Path;

use crate::config::check_pool;
use crate::config::files;
use crate::config::keys::BACKEND_FILE;
use crate::config::ledger::{Ledger, Source, Wrong};
use crate::config::mistakes::Mistakes;
use crate::config::names;
use crate::config::reader::{Desk, Reader};
use crate::config::settings::{Address, Backend};
use crate::config::syntax;

/// The backends of the file, all of them at addresses; none when it lists none. `env` gives the
/// variables of the environment.
///
/// Errors: every mistake there is, that the file cannot be read among them.
pub fn load_backends(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Backend>, Mistakes> {
    let ledger = Ledger::default();
    let desk = Desk {
        ledger: &ledger,
        env,
    };
    let source = files::read(0, path, None, &ledger);
    let page = syntax::parse(0, &source, &ledger);
    let backends = backends(&Reader::of_page_as(&BACKEND_FILE, &desk, &page));
    match ledger.finish(&[&source]) {
        Some(mistakes) => Err(mistakes),
        None => Ok(backends),
    }
}

/// The only backend of a text such as a file of backends has; it may be at a name, too.
///
/// Errors: what is wrong with it, in words, with what would be right.
pub fn backend_of_text(text: &str) -> Result<Backend, String> {
    let ledger = Ledger::default();
    let desk = Desk {
        ledger: &ledger,
        env: &|_| None,
    };
    let source = Source::new("backend".to_owned(), text.to_owned());
    let page = syntax::parse(0, &source, &ledger);
    let root = Reader::of_page_as(&BACKEND_FILE, &desk, &page);
    let read = root
        .tables("backend")
        .first()
        .and_then(|table| check_pool::backend(table).1);
    match (ledger.finish(&[&source]), read) {
        (None, Some(backend)) => Ok(backend),
        (None, None) => Err("there is no backend".to_owned()),
        (Some(mistakes), _) => Err(mistakes.in_words()),
    }
}

fn backends(root: &Reader<'_>) -> Vec<Backend> {
    let tables = root.tables("backend");
    let read: Vec<_> = tables.iter().map(check_pool::backend).collect();
    let listed = read.iter().map(|(name, _)| name.as_ref());
    names::unique(&tables, listed, "backend");
    for (table, (_, backend)) in tables.iter().zip(&read) {
        if let Some(Backend {
            address: Address::Named { host, .. },
            ..
        }) = backend
        {
            let wrong = Wrong::new(
                format!(
                    "{:?} is a name, and a file of backends has addresses",
                    host.as_str()
                ),
                "write its address here, or the name into [[pool.backend]] or [[pool.discover]]",
            );
            table.note(&table.place_of_value("address"), wrong);
        }
    }
    read.into_iter()
        .filter_map(|(_, backend)| backend)
        .collect()
}
