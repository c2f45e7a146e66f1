//! Starts that the API was never told of.
//!
//! An agent that is killed between a start and the writing of the status leaves a pod whose status knows less than has
//! happened. As long as the pod process lives, it knows; if that was killed, too, the logs do: the pod process opens
//! the log of an attempt before it starts it, so that a number with a log has been used.

use std::collections::BTreeMap;
use std::path::Path;

use api::object::Object;

use crate::pod::live::Live;

/// What the names of logs end with, behind the number of the attempt.
const SUFFIX: &str = ".log";

/// Raises the counts of starts to what the logs of the pod tell.
pub fn count(live: &mut Live, logs: &Path, object: &Object) {
    let folder = logs.join(format!("{}_{}_{}", object.namespace(), object.name(), object.uid()));
    for (name, starts) in logged(&folder) {
        let container = live.containers.entry(name).or_default();
        container.earlier_starts = container.earlier_starts.max(starts);
    }
}

/// How many attempts of each container have a log; a pod that never ran has none.
fn logged(folder: &Path) -> BTreeMap<String, u32> {
    let containers = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let starts = |container: &Path| {
        let files = std::fs::read_dir(container).into_iter().flatten().flatten();
        let number = |name: &str| name.strip_suffix(SUFFIX)?.parse::<u32>().ok();
        files.filter_map(|file| number(file.file_name().to_str()?)).max().map(|latest| latest + 1)
    };
    let counted =
        containers.filter_map(|entry| Some((entry.file_name().into_string().ok()?, starts(&entry.path())?)));
    counted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_log_is_used_up() {
        let folder = tempfile::tempdir().expect("a folder");
        for (container, file) in [("web", "0.log"), ("web", "1.log"), ("web", "1.log.1"), ("init", "junk")] {
            let container = folder.path().join(container);
            std::fs::create_dir_all(&container).expect("a folder");
            std::fs::write(container.join(file), "").expect("a file");
        }
        assert_eq!(logged(folder.path()), BTreeMap::from([("web".to_owned(), 2)]));
        assert!(logged(&folder.path().join("none")).is_empty());
    }
}
