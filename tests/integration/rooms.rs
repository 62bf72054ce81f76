//! How the crates are cut into rooms: a file directly below `src`, together with the folder of its name. Rooms import
//! each other one way only, so that each can be read without those that stand on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The crates that have rooms. The domain is one closed sum of messages and states, whose files name each other.
const CRATES: [&str; 4] = ["actors/src", "nats/src", "bridge-http/src", "deploy/local/src"];

/// What each room imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_room_of_a_crate_imports_one_that_stands_on_it() {
    for source in CRATES {
        let imports = imports_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(source));
        let circles = in_circles(imports);
        assert!(circles.is_empty(), "{source}: these rooms import each other in a circle: {circles:#?}");
    }
}

#[test]
fn imports_are_seen_however_they_are_written_and_circles_are_found() {
    let text = "use crate::{a::{b, c}, d as e};\nfn f() { crate::g::h(); } // crate::not\n#[cfg(test)]\nmod tests { use crate::z; }";
    assert_eq!(rooms_in(text), ["a", "d", "g"].map(str::to_owned).into());
    let room =
        |name: &str, imports: &[&str]| (name.to_owned(), imports.iter().map(|name| (*name).to_owned()).collect());
    let imports = Imports::from([room("top", &["a"]), room("a", &["b", "base"]), room("b", &["a"]), room("base", &[])]);
    assert_eq!(in_circles(imports).into_keys().collect::<Vec<_>>(), ["a", "b"]);
}

fn imports_of(source: &Path) -> Imports {
    let mut imports = Imports::new();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !["lib", "main"].contains(&&*room) {
            let mut found = BTreeSet::new();
            collect(&path, &mut found);
            found.remove(&room);
            imports.entry(room).or_default().extend(found);
        }
    }
    let rooms: BTreeSet<_> = imports.keys().cloned().collect();
    imports.values_mut().for_each(|imports| imports.retain(|name| rooms.contains(name)));
    imports
}

fn collect(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| collect(&entry.unwrap().path(), found));
    } else if path.extension().is_some_and(|extension| extension == "rs")
        && !path.file_stem().unwrap().to_str().unwrap().ends_with("tests")
    {
        found.extend(rooms_in(&fs::read_to_string(path).unwrap()));
    }
}

/// The rooms that a file imports outside its tests and comments.
fn rooms_in(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let text: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let text = text.join("\n");
    let mut found = BTreeSet::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(first_names(group)),
            None => found.extend(name(rest)),
        }
    }
    found
}

/// The first names of the paths of a group, up to its end.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut begins) = (vec![], 0, true);
    for (at, sign) in group.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            sign if depth == 0 && begins && !sign.is_whitespace() => {
                names.extend(name(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|sign| sign.is_alphanumeric() || *sign == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The rooms of circles: what is left when rooms that import none that is left are taken away, and then rooms that none
/// that is left imports.
fn in_circles(mut imports: Imports) -> Imports {
    loop {
        let imported: BTreeSet<_> = imports.values().flatten().cloned().collect();
        let before = imports.len();
        imports.retain(|room, names| !names.is_empty() && imported.contains(room));
        let left: BTreeSet<_> = imports.keys().cloned().collect();
        imports.values_mut().for_each(|names| names.retain(|name| left.contains(name)));
        if imports.len() == before {
            return imports;
        }
    }
}
