//! The `lbd` binary.

use lbd::runtime::control::Control;

fn main() {
    let path = std::env::args().nth(2).expect("config");
    let settings = match lbd::config::load::load(path.as_ref(), &|n| std::env::var(n).ok()) {
        Ok(s) => s,
        Err(m) => {
            eprintln!("{m}");
            std::process::exit(78)
        }
    };
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let (control, _c) = Control::start(settings).unwrap();
        control.run().await.unwrap();
    });
}
