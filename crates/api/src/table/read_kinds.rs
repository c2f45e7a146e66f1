//! Reads `kinds.txt`. The file is part of the program, so what is wrong in it is a bug and panics; a test reads it.

use super::kinds::{Column, Group, KindFacts, Kinds, Storage, Subresource};
use super::types::Types;

/// Reads the text of `kinds.txt`, whose types are in `types`.
pub(super) fn read(text: &'static str, types: &Types) -> Kinds {
    let mut out = Kinds::default();
    for line in text.lines() {
        if let Some(fact) = line.strip_prefix(' ') {
            read_fact(out.all.last_mut().expect("a fact belongs to a kind"), fact);
            continue;
        }
        let mut words = line.split(' ').map(undash);
        match words.next() {
            Some("group") => out.groups.push(Group { name: next(&mut words), versions: words.collect() }),
            Some("kind") => out.all.push(read_kind(&mut words, types)),
            other => unreachable!("kinds.txt begins a line with {other:?}"),
        }
    }
    for (at, kind) in out.all.iter().enumerate() {
        out.by_resource.insert((kind.group, kind.version, kind.resource), at);
        out.by_kind.insert((kind.group, kind.version, kind.kind), at);
    }
    out
}

fn undash(word: &'static str) -> &'static str {
    if word == "-" { "" } else { word }
}

fn next(words: &mut impl Iterator<Item = &'static str>) -> &'static str {
    words.next().expect("a line of kinds.txt has all its words")
}

fn read_kind(words: &mut impl Iterator<Item = &'static str>, types: &Types) -> KindFacts {
    KindFacts {
        group: next(words),
        version: next(words),
        kind: next(words),
        resource: next(words),
        singular: next(words),
        ty: types.find(next(words)).expect("types.txt has every kind's type"),
        namespaced: false,
        verbs: Vec::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        storage: None,
        subresources: Vec::new(),
        columns: Vec::new(),
        selectable: Vec::new(),
    }
}

fn read_fact(kind: &mut KindFacts, fact: &'static str) {
    let (key, rest) = fact.split_once(' ').unwrap_or((fact, ""));
    let mut words = rest.split(' ').map(undash);
    match key {
        "scope" => kind.namespaced = rest == "namespaced",
        "verbs" => kind.verbs = words.collect(),
        "short" => kind.short_names = words.collect(),
        "category" => kind.categories = words.collect(),
        "select" => kind.selectable = words.collect(),
        "storage" => {
            kind.storage =
                Some(Storage { group: next(&mut words), version: next(&mut words), hash: next(&mut words) });
        }
        "sub" => kind.subresources.push(Subresource {
            name: next(&mut words),
            group: next(&mut words),
            version: next(&mut words),
            kind: next(&mut words),
            verbs: words.collect(),
        }),
        "column" => {
            let mut parts = rest.splitn(5, ' ').map(undash);
            let priority = next(&mut parts).parse().expect("a column's priority");
            let (ty, format) = (next(&mut parts), next(&mut parts));
            let (field, name) = (next(&mut parts), next(&mut parts));
            kind.columns.push(Column { name, ty, format, priority, field });
        }
        other => unreachable!("kinds.txt has a fact {other}"),
    }
}
