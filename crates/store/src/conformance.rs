//! What every engine must do. Each test takes a fresh, empty store; [`suite`] runs them all for one engine.

use bytes::Bytes;
use compact_str::CompactString;

use crate::testing::{commit, delete, pod, put, value};
use crate::{
    CommitError, Expectation, Key, List, ReadError, Resource, Revision, Scope, Store, Transaction,
    WatchError, limits,
};

/// Runs the suite: `$open` is an expression that makes an empty store.
macro_rules! suite {
    ($open:expr) => {
        $crate::conformance::suite!(@each $open,
            revisions_begin_at_1_and_every_change_makes_the_next,
            entries_tell_creation_modification_and_version,
            a_put_that_expects_otherwise_conflicts_and_says_what_is_there,
            a_transaction_happens_whole_with_one_revision_or_not_at_all,
            what_changes_nothing_makes_no_revision,
            invalid_transactions_are_refused_before_anything_happens,
            lists_come_in_the_order_of_paths_by_scope,
            pages_of_an_older_revision_do_not_see_what_came_later,
            the_past_is_readable_until_it_is_compacted,
            the_future_is_refused,
            a_watch_sees_each_change_once_in_order_with_what_was_before,
            a_watch_from_the_past_catches_up_without_gap,
            watches_of_a_namespace_and_of_a_key_see_only_theirs,
            a_transaction_is_never_split_over_batches,
            a_watch_whose_events_were_compacted_is_cut,
            an_idle_watch_outlives_compaction_and_makes_progress,
            closing_ends_watches_and_refuses_commits,
        );
    };
    (@each $open:expr, $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                $crate::conformance::$name($open).await;
            }
        )+
    };
}
pub(crate) use suite;

fn pods() -> Scope {
    Scope::Resource(Resource::new("pods"))
}

fn names(store: &Store<Bytes>, list: &List) -> Vec<String> {
    store.list(list).unwrap().entries.iter().map(|e| format!("{}/{}", e.key.namespace, e.key.name)).collect()
}

pub(crate) async fn revisions_begin_at_1_and_every_change_makes_the_next(store: Store<Bytes>) {
    assert_eq!(store.revision(), Revision(1));
    assert_eq!(put(&store, "a", "1").await, Revision(2));
    assert_eq!(put(&store, "a", "2").await, Revision(3));
    assert_eq!(delete(&store, "a").await, Revision(4));
    assert_eq!(store.revision(), Revision(4));
    assert_eq!(store.current().await.unwrap(), Revision(4));
}

pub(crate) async fn entries_tell_creation_modification_and_version(store: Store<Bytes>) {
    put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    put(&store, "a", "2").await;
    let entry = store.get(&pod("a")).unwrap();
    assert_eq!((entry.created, entry.modified, entry.version), (Revision(2), Revision(4), 2));
    assert_eq!(&entry.record[..], b"2");
    delete(&store, "a").await;
    assert!(store.get(&pod("a")).is_none());
    put(&store, "a", "3").await;
    let entry = store.get(&pod("a")).unwrap();
    assert_eq!((entry.created, entry.modified, entry.version), (Revision(6), Revision(6), 1));
}

pub(crate) async fn a_put_that_expects_otherwise_conflicts_and_says_what_is_there(store: Store<Bytes>) {
    let wrong = |expect| Transaction::new().put(pod("a"), expect, value("x"));
    for expect in [Expectation::Present, Expectation::Modified(Revision(2))] {
        let error = store.commit(wrong(expect)).await.unwrap_err();
        assert!(error.conflict().unwrap().current.is_none());
    }
    commit(&store, wrong(Expectation::Absent)).await;
    for expect in
        [Expectation::Absent, Expectation::Modified(Revision(1)), Expectation::Modified(Revision(3))]
    {
        let error = store.commit(wrong(expect)).await.unwrap_err();
        let conflict = error.conflict().unwrap();
        assert_eq!(conflict.current.as_ref().unwrap().modified, Revision(2));
        assert_eq!((conflict.step, conflict.revision), (0, Revision(2)));
    }
    commit(&store, wrong(Expectation::Modified(Revision(2)))).await;
    commit(&store, wrong(Expectation::Present)).await;
    assert_eq!(store.revision(), Revision(4));
}

pub(crate) async fn a_transaction_happens_whole_with_one_revision_or_not_at_all(store: Store<Bytes>) {
    put(&store, "gone", "1").await;
    let transaction = |expect| {
        Transaction::new()
            .put(pod("a"), Expectation::Absent, value("a"))
            .delete(pod("gone"), Expectation::Any)
            .check(pod("guard"), expect)
    };
    let error = store.commit(transaction(Expectation::Present)).await.unwrap_err();
    assert_eq!(error.conflict().unwrap().step, 2);
    assert!(store.get(&pod("a")).is_none() && store.get(&pod("gone")).is_some());
    let done = commit(&store, transaction(Expectation::Absent)).await;
    assert_eq!(done.revision, Revision(3));
    assert_eq!(done.outcomes[0].current.as_ref().unwrap().modified, Revision(3));
    assert_eq!(done.outcomes[1].previous.as_ref().unwrap().modified, Revision(2));
    assert!(done.outcomes[1].current.is_none() && done.outcomes[2].current.is_none());
    assert!(store.get(&pod("gone")).is_none());
}

pub(crate) async fn what_changes_nothing_makes_no_revision(store: Store<Bytes>) {
    put(&store, "a", "1").await;
    let nothing = Transaction::new().delete(pod("b"), Expectation::Any).check(pod("a"), Expectation::Present);
    assert_eq!(commit(&store, nothing).await.revision, Revision(2));
    assert_eq!(commit(&store, Transaction::new()).await.revision, Revision(2));
}

pub(crate) async fn invalid_transactions_are_refused_before_anything_happens(store: Store<Bytes>) {
    let put = |key: Key, size: usize| {
        Transaction::new().put(key, Expectation::Any, Bytes::from(vec![b'x'; size]).into())
    };
    let twice = put(pod("a"), 1).delete(pod("a"), Expectation::Any);
    let bytes = (0..4).fold(Transaction::new(), |all, i| {
        all.put(pod(&format!("{i}")), Expectation::Any, Bytes::from(vec![0; limits::VALUE_BYTES_MAX]).into())
    });
    let keys = (0..=limits::TRANSACTION_KEYS_MAX)
        .fold(Transaction::new(), |all, i| all.delete(pod(&format!("{i}")), Expectation::Any));
    let cases = [
        (put(pod("a"), limits::VALUE_BYTES_MAX + 1), "has 3145729 bytes"),
        (put(pod("a\0"), 1), "is no key"),
        (put(Key::cluster(&Resource::new("nodes"), "a/b"), 1), "is no key"),
        (twice, "names /registry/pods/default/a twice"),
        (bytes, "writes more than"),
        (keys, "names 513 keys"),
    ];
    for (transaction, message) in cases {
        let error = store.commit(transaction).await.unwrap_err();
        assert!(matches!(error, CommitError::Invalid(_)), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    assert_eq!(store.revision(), Revision(1));
    commit(&store, put(pod("a"), limits::VALUE_BYTES_MAX)).await;
}

pub(crate) async fn lists_come_in_the_order_of_paths_by_scope(store: Store<Bytes>) {
    let services = Resource::new("services");
    let service = Key::namespaced(&services, "a", "web");
    commit(&store, Transaction::new().put(service, Expectation::Any, value("s"))).await;
    for name in ["b/y", "a/x", "a-b/x", "a/b", "b/x", "ab/x"] {
        put(&store, name, name).await;
    }
    let in_order = ["a-b/x", "a/b", "a/x", "ab/x", "b/x", "b/y"];
    assert_eq!(names(&store, &List::all(pods())), in_order);
    let namespace = Scope::Namespace(Resource::new("pods"), CompactString::from("a"));
    assert_eq!(names(&store, &List::all(namespace)), ["a/b", "a/x"]);
    assert_eq!(names(&store, &List::all(Scope::Key(pod("b/y")))), ["b/y"]);
    assert_eq!(names(&store, &List::all(Scope::All)).len(), 7);
    assert_eq!(names(&store, &List::all(Scope::Resource(Resource::new("none")))).len(), 0);

    let mut list = List { limit: 4, ..List::all(pods()) };
    let page = store.list(&list).unwrap();
    assert_eq!((page.entries.len(), page.remaining, page.revision), (4, 2, Revision(8)));
    list.after = page.entries.last().map(|entry| entry.key.clone());
    assert_eq!(names(&store, &list), in_order[4..]);
    assert_eq!(store.list(&list).unwrap().remaining, 0);
}

pub(crate) async fn pages_of_an_older_revision_do_not_see_what_came_later(store: Store<Bytes>) {
    for name in ["a", "b", "c", "d", "e"] {
        put(&store, name, "old").await;
    }
    let first = store.list(&List { limit: 2, ..List::all(pods()) }).unwrap();
    put(&store, "c", "new").await;
    delete(&store, "d").await;
    put(&store, "bb", "new").await;
    delete(&store, "bb").await;
    put(&store, "cc", "new").await;
    let rest = List {
        scope: pods(),
        after: first.entries.last().map(|entry| entry.key.clone()),
        limit: 2,
        at: Some(first.revision),
        having: Vec::new(),
    };
    let page = store.list(&rest).unwrap();
    assert_eq!(page.entries.iter().map(|e| e.key.name.as_str()).collect::<Vec<_>>(), ["c", "d"]);
    assert!(page.entries.iter().all(|entry| &entry.record[..] == b"old"));
    assert_eq!((page.remaining, page.revision), (1, first.revision));
}

pub(crate) async fn the_past_is_readable_until_it_is_compacted(store: Store<Bytes>) {
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    delete(&store, "a").await;
    let at = |revision| store.get_at(&pod("a"), revision).map(|e| e.map(|e| e.record.to_vec()));
    assert_eq!(at(Revision(1)).unwrap(), None);
    assert_eq!(at(first).unwrap().unwrap(), b"1");
    assert_eq!(at(second).unwrap().unwrap(), b"2");
    assert_eq!(at(Revision(4)).unwrap(), None);
    store.compact(second).await.unwrap();
    assert_eq!(at(second).unwrap().unwrap(), b"2");
    let compacted = ReadError::Compacted { requested: first, compacted: second };
    assert_eq!(at(first), Err(compacted));
    assert_eq!(store.list(&List { at: Some(first), ..List::all(pods()) }).unwrap_err(), compacted);
    assert_eq!(store.watch(pods(), first).err(), Some(compacted));
    assert_eq!(store.compact(first).await, Err(compacted));
    assert_eq!(store.compacted(), second);
}

pub(crate) async fn the_future_is_refused(store: Store<Bytes>) {
    let future = ReadError::Future { requested: Revision(9), current: Revision(1) };
    assert_eq!(store.get_at(&pod("a"), Revision(9)).err(), Some(future));
    assert_eq!(store.watch(pods(), Revision(9)).err(), Some(future));
    assert_eq!(store.compact(Revision(9)).await, Err(future));
}

pub(crate) async fn a_watch_sees_each_change_once_in_order_with_what_was_before(store: Store<Bytes>) {
    let mut watch = store.watch(pods(), store.revision()).unwrap();
    assert!(watch.try_next().is_none());
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    delete(&store, "a").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in watch.next().await.unwrap().events {
            let text = |entry: &Option<std::sync::Arc<crate::Entry<Bytes>>>| {
                entry.as_ref().map(|e| String::from_utf8(e.record.to_vec()).unwrap())
            };
            seen.push((event.revision.0, text(&event.previous), text(&event.current)));
        }
    }
    let some = |text: &str| Some(text.to_owned());
    let expected = [(2, None, some("1")), (3, some("1"), some("2")), (4, some("2"), None)];
    assert_eq!(seen, expected);
    assert!(watch.try_next().is_none());
    assert_eq!(watch.progress(), Revision(4));
}

pub(crate) async fn a_watch_from_the_past_catches_up_without_gap(store: Store<Bytes>) {
    for index in 0..2 * limits::WATCH_BATCH_EVENTS_MAX {
        put(&store, &format!("p{}", index % 7), "x").await;
    }
    let from = Revision(5);
    let mut watch = store.watch(pods(), from).unwrap();
    let mut next = from.next();
    while next <= store.revision() {
        let batch = watch.next().await.unwrap();
        assert!(batch.events.len() <= limits::WATCH_BATCH_EVENTS_MAX);
        for event in &batch.events {
            assert_eq!(event.revision, next);
            next = next.next();
        }
        assert_eq!(batch.seen.next(), next);
    }
    put(&store, "last", "x").await;
    assert_eq!(watch.next().await.unwrap().events[0].revision, next);
}

pub(crate) async fn watches_of_a_namespace_and_of_a_key_see_only_theirs(store: Store<Bytes>) {
    let namespace = Scope::Namespace(Resource::new("pods"), CompactString::from("b"));
    let mut of_namespace = store.watch(namespace, Revision(1)).unwrap();
    let mut of_key = store.watch(Scope::Key(pod("a/x")), Revision(1)).unwrap();
    let mut of_all = store.watch(Scope::All, Revision(1)).unwrap();
    let mut of_others = store.watch(Scope::Resource(Resource::new("nodes")), Revision(1)).unwrap();
    for name in ["a/x", "b/x", "a/y", "b/y"] {
        put(&store, name, "1").await;
    }
    let revisions =
        |batch: crate::Batch<Bytes>| batch.events.iter().map(|e| e.revision.0).collect::<Vec<_>>();
    assert_eq!(revisions(of_namespace.next().await.unwrap()), [3, 5]);
    assert_eq!(revisions(of_key.next().await.unwrap()), [2]);
    assert_eq!(revisions(of_all.next().await.unwrap()), [2, 3, 4, 5]);
    assert!(of_others.try_next().is_none());
    drop((of_namespace, of_key));
    put(&store, "a/x", "2").await;
    assert_eq!(revisions(of_all.next().await.unwrap()), [6]);
}

pub(crate) async fn a_transaction_is_never_split_over_batches(store: Store<Bytes>) {
    put(&store, "first", "x").await;
    let many = (0..limits::TRANSACTION_KEYS_MAX).fold(Transaction::new(), |transaction, index| {
        transaction.put(pod(&format!("p{index}")), Expectation::Absent, value("x"))
    });
    commit(&store, many).await;
    put(&store, "last", "x").await;
    let mut watch = store.watch(pods(), Revision(1)).unwrap();
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.events.len(), batch.seen), (limits::TRANSACTION_KEYS_MAX + 1, Revision(3)));
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
}

pub(crate) async fn a_watch_whose_events_were_compacted_is_cut(store: Store<Bytes>) {
    let mut slow = store.watch(pods(), Revision(1)).unwrap();
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    store.compact(Revision(2)).await.unwrap();
    assert_eq!(slow.next().await.unwrap_err(), WatchError::Lagged { seen: Revision(1) });
    assert_eq!(futures::StreamExt::next(&mut slow).await.map(|item| item.is_ok()), None);
}

pub(crate) async fn an_idle_watch_outlives_compaction_and_makes_progress(store: Store<Bytes>) {
    let mut idle = store.watch(Scope::Key(pod("quiet")), Revision(1)).unwrap();
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    assert_eq!(idle.progress(), Revision(3));
    put(&store, "a", "3").await;
    store.compact(Revision(4)).await.unwrap();
    put(&store, "quiet", "1").await;
    let batch = idle.next().await.unwrap();
    assert_eq!((batch.events.len(), batch.seen), (1, Revision(5)));
}

pub(crate) async fn closing_ends_watches_and_refuses_commits(store: Store<Bytes>) {
    let mut watch = store.watch(pods(), Revision(1)).unwrap();
    put(&store, "a", "1").await;
    store.close().await;
    assert_eq!(watch.next().await.unwrap().events.len(), 1, "what happened is still told");
    assert_eq!(watch.next().await.unwrap_err(), WatchError::Closed { seen: Revision(2) });
    let late = Transaction::new().delete(pod("a"), Expectation::Any);
    assert!(matches!(store.commit(late).await, Err(CommitError::Closed)));
    assert!(store.get(&pod("a")).is_some(), "reading goes on");
}
