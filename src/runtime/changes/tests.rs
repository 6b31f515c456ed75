//! Changes over a file, and what becomes of them when the file changes.

use super::*;
use crate::config::load::load_text;

fn file(pools: &str) -> Settings {
    let head = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:1\"\npool = \"web\"\n";
    load_text("t", &format!("{head}{pools}"), &|_| None).unwrap()
}

const WEB: &str = "[[pool]]\nname = \"web\"\n\
    [[pool.backend]]\nname = \"a\"\naddress = \"10.0.0.1:80\"\n\
    [[pool.backend]]\nname = \"b\"\naddress = \"10.0.0.2:80\"\nweight = 5\n";

fn id(text: &str) -> BackendId {
    text.parse().unwrap()
}

fn by() -> By {
    By {
        who: "root".to_owned(),
        reason: "night shift".to_owned(),
    }
}

fn spec(address: &str) -> BackendSpec {
    serde_json::from_str(&format!("{{\"address\":\"{address}\"}}")).unwrap()
}

fn weight(weight: u16) -> Wanted {
    Wanted {
        weight: Some(weight),
        ..Wanted::default()
    }
}

fn state(state: WantedState) -> Wanted {
    Wanted {
        state: Some(state),
        ..Wanted::default()
    }
}

fn names(settings: &Settings) -> Vec<&str> {
    let backends = settings.pools[0].backends.iter();
    backends.map(|one| &*one.name).collect()
}

#[test]
fn what_was_added_and_removed_lies_over_the_file() {
    let file = file(WEB);
    let mut changes = Changes::default();
    changes
        .add(&id("web/c"), &spec("10.0.0.3:80"), &by())
        .unwrap();
    changes.remove(&id("web/a"), &by()).unwrap();
    let settings = changes.over(&file);
    assert_eq!(names(&settings), ["b", "c"]);
    assert_eq!(changes.gone("web")[0].name, "a");
    assert!(changes.shown("web", "c").unwrap().added);
    changes.remove(&id("web/c"), &by()).unwrap();
    assert!(changes.put_back(&id("web/a")));
    assert_eq!(changes, Changes::default());
    assert_eq!(changes.over(&file), file);
}

#[test]
fn a_change_that_asks_for_what_the_file_says_is_none() {
    let mut changes = Changes::default();
    let b = id("web/b");
    changes.change(&b, &weight(9), Some(5), &by()).unwrap();
    changes
        .change(&b, &state(WantedState::Drain), Some(5), &by())
        .unwrap();
    assert_eq!(changes.weight("web", "b"), Some(9));
    assert_eq!(changes.wish("web", "b"), Wish::Drain);
    let shown = changes.shown("web", "b").unwrap();
    assert_eq!((&*shown.by, &*shown.reason), ("root", "night shift"));
    changes.change(&b, &weight(5), Some(5), &by()).unwrap();
    changes
        .change(&b, &state(WantedState::Ready), Some(5), &by())
        .unwrap();
    assert_eq!(changes, Changes::default());
}

#[test]
fn the_weight_of_what_was_added_is_its_own() {
    let mut changes = Changes::default();
    let c = id("web/c");
    changes.add(&c, &spec("c.internal:80"), &by()).unwrap();
    changes.change(&c, &weight(7), None, &by()).unwrap();
    assert_eq!(changes.over(&file(WEB)).pools[0].backends[2].weight, 7);
}

#[test]
fn what_no_file_could_have_is_refused_in_its_words() {
    let mut changes = Changes::default();
    for (name, address, why) in [
        ("c", "10.0.0.3", "port"),
        ("c", "10.0.0.3:0", "port 0"),
        ("c d", "10.0.0.3:80", "has the character ' '"),
        ("c", "\"]\n[[x", "has no port"),
    ] {
        let id = BackendId {
            pool: "web".to_owned(),
            backend: name.to_owned(),
        };
        let spec = BackendSpec {
            address: address.to_owned(),
            ..spec("10.0.0.3:80")
        };
        let refused = changes.add(&id, &spec, &by()).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    assert_eq!(changes, Changes::default());
}

#[test]
fn a_file_that_changed_drops_what_makes_no_sense_any_more() {
    let mut changes = Changes::default();
    changes
        .add(&id("web/c"), &spec("10.0.0.3:80"), &by())
        .unwrap();
    changes
        .add(&id("web/d"), &spec("10.0.0.4:80"), &by())
        .unwrap();
    changes
        .change(&id("web/a"), &weight(9), Some(1), &by())
        .unwrap();
    changes
        .change(&id("web/b"), &state(WantedState::Drain), Some(5), &by())
        .unwrap();
    let kept = changes.clone();
    assert_eq!(changes.reconcile(&file(WEB)), [""; 0]);
    assert_eq!(changes, kept);
    let newer = file(
        "[[pool]]\nname = \"web\"\n\
         [[pool.backend]]\nname = \"b\"\naddress = \"10.0.0.2:80\"\n\
         [[pool.backend]]\nname = \"c\"\naddress = \"10.0.0.33:80\"\n",
    );
    assert_eq!(
        changes.reconcile(&newer),
        [
            "web/a: weight 9 by root (the file does not have it any more)",
            "web/c: added by root (the file has a backend of this name now)",
        ]
    );
    assert_eq!(names(&changes.over(&newer)), ["b", "c", "d"]);
    assert_eq!(changes.wish("web", "b"), Wish::Drain);
}

#[test]
fn changes_go_through_json_unharmed() {
    let mut changes = Changes::default();
    changes
        .add(&id("web/c"), &spec("10.0.0.3:80"), &by())
        .unwrap();
    changes
        .change(&id("web/c"), &state(WantedState::Maintenance), None, &by())
        .unwrap();
    changes.remove(&id("web/a"), &by()).unwrap();
    let text = serde_json::to_string(&changes).unwrap();
    let again: Changes = serde_json::from_str(&text).unwrap();
    // Stamps have milliseconds in JSON.
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    assert_eq!(again.over(&file(WEB)), changes.over(&file(WEB)));
}
