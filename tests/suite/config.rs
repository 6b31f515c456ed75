//! Whole configurations: what is accepted, what every kind of mistake is told as, and that the
//! printed settings are the settings.

use lbd::config::load::load_text;

fn no_env(_: &str) -> Option<String> {
    None
}

#[test]
fn show() {
    let text = std::fs::read_to_string(std::env::var("SHOW").unwrap()).unwrap();
    match load_text("lb.toml", &text, &no_env) {
        Ok(s) => println!("{}", lbd::config::print::print_effective(&s)),
        Err(m) => println!("{m}"),
    }
}
