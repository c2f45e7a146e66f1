//! Upstream's recorded answers against our gate's: `requests/*.http` are sent in order, each answer must be the one
//! that `cargo xtask twin` recorded from kube-apiserver in `answers/*.jsonl`, but for what `differences.txt` lists
//! with a reason. A listed difference that is gone must be taken off the list.

mod differences;
mod exchange;
mod world;

#[path = "../served/mod.rs"]
mod served;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use differences::Differences;
use exchange::{Answer, Kept};
use world::World;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/twin")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_answers_as_upstream_does() {
    let world = World::open().await;
    let mut listed = Differences::read(&fs::read_to_string(folder().join("differences.txt")).unwrap());
    let mut kept = Kept::default();
    let (mut count, mut equal, mut worded) = (0, 0, 0);
    let mut report = String::new();
    for file in exchange::files(&folder().join("requests")) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let requests = exchange::parse(&name, &fs::read_to_string(&file).unwrap());
        let recorded =
            fs::read_to_string(folder().join("answers").join(format!("{name}.jsonl"))).unwrap_or_default();
        let recorded: BTreeMap<String, Answer> = recorded.lines().map(differences::read).collect();
        for request in requests.into_iter().filter(|request| !request.upstream_only) {
            let ours = world.send(&kept.fill(&request), |body| kept.keep(&request, body)).await;
            count += 1;
            let Some(upstream) = recorded.get(&request.name) else {
                report.push_str(&format!("{}: not recorded; run cargo xtask twin\n", request.name));
                continue;
            };
            let found = differences::between(upstream, &ours);
            equal += usize::from(found.is_empty());
            let is_words = |path: &str| path.starts_with("body") && path.ends_with(".description");
            worded += usize::from(!found.is_empty() && found.iter().all(|(path, _)| is_words(path)));
            for (path, shown) in found {
                if !listed.covers(&request.name, &path) {
                    report.push_str(&format!("{}: {path}: {shown}\n", request.name));
                }
            }
        }
    }
    for line in listed.gone() {
        report.push_str(&format!("differences.txt: this is equal now, take it off the list: {line}\n"));
    }
    let percent = f64::from(equal as u32) / f64::from(count as u32) * 100.0;
    println!(
        "{equal} of {count} whole answers agree ({percent:.2} %), {worded} more but for words of columns"
    );
    world.close().await;
    assert!(report.is_empty(), "{equal} of {count} agree ({percent:.2} %); not listed are\n{report}");
}
