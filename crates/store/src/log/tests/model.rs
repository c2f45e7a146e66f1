//! The store against a model that keeps everything, naively.

use std::collections::BTreeMap;

use base::Random;
use bytes::Bytes;
use compact_str::CompactString;
use proptest::prelude::*;

use crate::testing::{open, pod, value};
use crate::{
    Expectation, List, ReadError, Resource, Revision, Scope, SimulatedDisk, Store, Transaction, Watch,
};

const NAMES: [&str; 6] = ["a/x", "a/y", "a-b/x", "b/x", "b/y", "b/z"];

#[derive(Clone, Debug)]
enum Act {
    /// Steps: which name, put or delete or check, and what is expected (by kind and how many revisions back).
    Commit(Vec<(usize, u8, u8, u64)>),
    List {
        scope: u8,
        back: u64,
        limit: usize,
        after: Option<usize>,
    },
    Compact {
        back: u64,
    },
    Watch {
        scope: u8,
        back: u64,
    },
    Drain,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let step = (0..NAMES.len(), 0_u8..3, 0_u8..4, 0_u64..4);
    let act = prop_oneof![
        8 => prop::collection::vec(step, 1..4).prop_map(Act::Commit),
        4 => (0_u8..4, 0_u64..12, 0_usize..4, prop::option::of(0..NAMES.len()))
            .prop_map(|(scope, back, limit, after)| Act::List { scope, back, limit, after }),
        1 => (0_u64..8).prop_map(|back| Act::Compact { back }),
        2 => (0_u8..4, 0_u64..8).prop_map(|(scope, back)| Act::Watch { scope, back }),
        2 => Just(Act::Drain),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..60)
}

fn scope(number: u8) -> Scope {
    let pods = Resource::new("pods");
    match number {
        0 => Scope::All,
        1 => Scope::Resource(pods),
        2 => Scope::Namespace(pods, CompactString::from("a")),
        _ => Scope::Key(pod("b/y")),
    }
}

/// Created, modified, version, value.
type Version = (u64, u64, u64, String);
type World = BTreeMap<String, Version>;

/// Every revision that ever was.
struct Model {
    worlds: Vec<World>,
    compacted: u64,
}

impl Model {
    fn revision(&self) -> u64 {
        self.worlds.len() as u64
    }

    fn at(&self, revision: u64) -> &World {
        &self.worlds[revision as usize - 1]
    }

    /// The new revision, or the index of the step that conflicts.
    fn commit(&mut self, steps: &[(usize, u8, Expectation)]) -> Result<u64, usize> {
        let now = self.at(self.revision());
        for (index, (name, _, expect)) in steps.iter().enumerate() {
            let found = now.get(&pod(NAMES[*name]).path());
            let holds = match expect {
                Expectation::Any => true,
                Expectation::Absent => found.is_none(),
                Expectation::Present => found.is_some(),
                Expectation::Modified(revision) => found.is_some_and(|version| version.1 == revision.0),
            };
            if !holds {
                return Err(index);
            }
        }
        let (mut next, revision) = (now.clone(), self.revision() + 1);
        for (name, what, _) in steps {
            let path = pod(NAMES[*name]).path();
            match what {
                0 => {
                    let (created, version) = next.get(&path).map_or((revision, 1), |v| (v.0, v.2 + 1));
                    next.insert(path, (created, revision, version, format!("{revision}")));
                }
                1 => drop(next.remove(&path)),
                _ => {}
            }
        }
        if next != *now {
            self.worlds.push(next);
        }
        Ok(self.revision())
    }

    /// What a watch must have seen between two revisions: path, revision, whether it is there now.
    fn events(&self, scope: &Scope, from: u64, to: u64) -> Vec<(String, u64, bool)> {
        let mut events = Vec::new();
        for revision in from + 1..=to {
            let (before, after) = (self.at(revision - 1), self.at(revision));
            for name in NAMES {
                let (key, path) = (pod(name), pod(name).path());
                if scope.contains(&key) && before.get(&path) != after.get(&path) {
                    events.push((path.clone(), revision, after.contains_key(&path)));
                }
            }
        }
        events
    }
}

struct Watched {
    watch: Watch<Bytes>,
    scope: Scope,
    from: u64,
}

fn check_list(store: &Store<Bytes>, model: &Model, list: &List) {
    let at = list.at.map_or(model.revision(), |at| at.0);
    let found = store.list(list);
    if at < model.compacted {
        assert!(matches!(found, Err(ReadError::Compacted { .. })));
        return;
    }
    let after = list.after.as_ref().map(crate::Key::path);
    let expected: Vec<(&String, &Version)> = model
        .at(at)
        .iter()
        .filter(|(path, _)| list.scope.contains(&crate::Key::from_path(path).unwrap()))
        .filter(|(path, _)| after.as_ref().is_none_or(|after| *path > after))
        .collect();
    let page = found.unwrap();
    let limit = if list.limit == 0 { expected.len() } else { list.limit.min(expected.len()) };
    assert_eq!(page.remaining, expected.len() - limit);
    let found: Vec<(String, Version)> = page
        .entries
        .iter()
        .map(|e| {
            let text = String::from_utf8(e.record.to_vec()).unwrap();
            (e.key.path(), (e.created.0, e.modified.0, e.version, text))
        })
        .collect();
    assert_eq!(
        found,
        expected[..limit].iter().map(|(p, v)| ((*p).clone(), (*v).clone())).collect::<Vec<_>>()
    );
    for (path, version) in found {
        let entry = store.get_at(&crate::Key::from_path(&path).unwrap(), Revision(at)).unwrap().unwrap();
        assert_eq!(entry.modified.0, version.1);
    }
}

fn check_watch(watched: &mut Watched, model: &Model) -> bool {
    let expected = model.events(&watched.scope, watched.from, model.revision());
    let mut found = Vec::new();
    while let Some(next) = watched.watch.try_next() {
        let Ok(batch) = next else {
            let first = expected.get(found.len()).map(|event| event.1);
            assert!(first.is_some_and(|first| first <= model.compacted), "cut without reason");
            return false;
        };
        found.extend(batch.events.iter().map(|e| (e.key().path(), e.revision.0, !e.is_deletion())));
    }
    // Within a revision, events come in the order of the steps.
    found.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let mut expected = expected;
    expected.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    assert_eq!(found, expected);
    watched.from = model.revision();
    assert_eq!(watched.watch.progress(), Revision(model.revision()));
    true
}

async fn run(acts: Vec<Act>) {
    let disk = SimulatedDisk::new(Random::seeded(1));
    let mut store = open(&disk);
    let mut model = Model { worlds: vec![World::new()], compacted: 1 };
    let mut watches: Vec<Watched> = Vec::new();
    for act in acts {
        let back = |back: u64| model.revision().saturating_sub(back).max(1);
        match act {
            Act::Commit(mut steps) => {
                steps.sort_unstable();
                steps.dedup_by_key(|step| step.0);
                let steps: Vec<_> = steps
                    .into_iter()
                    .map(|(name, what, expect, ago)| {
                        let expect = match expect {
                            0 => Expectation::Absent,
                            1 => Expectation::Present,
                            2 => Expectation::Modified(Revision(back(ago))),
                            _ => Expectation::Any,
                        };
                        (name, what, expect)
                    })
                    .collect();
                let text = format!("{}", model.revision() + 1);
                let transaction =
                    steps.iter().fold(Transaction::new(), |all, (name, what, expect)| match what {
                        0 => all.put(pod(NAMES[*name]), *expect, value(&text)),
                        1 => all.delete(pod(NAMES[*name]), *expect),
                        _ => all.check(pod(NAMES[*name]), *expect),
                    });
                match (store.commit(transaction).await, model.commit(&steps)) {
                    (Ok(done), Ok(revision)) => assert_eq!(done.revision.0, revision),
                    (Err(error), Err(step)) => assert_eq!(error.conflict().unwrap().step, step),
                    (found, expected) => panic!("{found:?} instead of {expected:?}"),
                }
            }
            Act::List { scope: number, back: ago, limit, after } => {
                let at = (ago > 0).then(|| Revision(back(ago)));
                let after = after.map(|name| pod(NAMES[name]));
                check_list(&store, &model, &List { after, limit, at, ..List::all(scope(number)) });
            }
            Act::Compact { back: ago } => {
                let revision = back(ago);
                let result = store.compact(Revision(revision)).await;
                assert_eq!(result.is_ok(), revision >= model.compacted);
                model.compacted = model.compacted.max(revision);
            }
            Act::Watch { scope: number, back: ago } => {
                let (scope, from) = (scope(number), back(ago));
                match store.watch(scope.clone(), Revision(from)) {
                    Ok(watch) => watches.push(Watched { watch, scope, from }),
                    Err(_) => assert!(from < model.compacted),
                }
            }
            Act::Drain => watches.retain_mut(|watched| check_watch(watched, &model)),
            Act::Restart => {
                watches.retain_mut(|watched| check_watch(watched, &model));
                watches.clear();
                disk.kill();
                store = open(&disk);
                assert_eq!(store.revision().0, model.revision());
                // What was compacted in memory may be readable again, as the log still has it.
                model.compacted = store.compacted().0;
            }
        }
    }
    watches.retain_mut(|watched| check_watch(watched, &model));
    check_list(&store, &model, &List::all(Scope::All));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_store_does_as_the_model_does(acts in acts()) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(acts));
    }
}
