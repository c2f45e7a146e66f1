//! Whether this node can run pods: what its condition `Ready` tells.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandbox::Sandboxes;

use crate::network::BridgeNetwork;
use crate::register::Health;

/// The file that is made and removed to see whether a folder can be written.
const TRIAL: &str = ".ondol-writes";

/// Looks at what every start of a pod needs: its network, its sandbox, its folders. Each look is a few calls of the
/// kernel, made when the status is written.
pub fn of(network: BridgeNetwork, sandboxes: Sandboxes, folders: Vec<PathBuf>) -> Health {
    Arc::new(move || {
        network.check()?;
        sandboxes.check().map_err(|error| error.to_string())?;
        folders.iter().try_for_each(|folder| writable(folder))
    })
}

fn writable(folder: &Path) -> Result<(), String> {
    let trial = folder.join(TRIAL);
    match std::fs::write(&trial, "").and_then(|()| std::fs::remove_file(&trial)) {
        // A disk without room is told by the condition DiskPressure; pods that are there go on.
        Err(error) if error.kind() != io::ErrorKind::StorageFull => {
            Err(format!("{} cannot be written: {error}; pods cannot be started", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_gone_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(writable(folder.path()), Ok(()));
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("it is there").count(),
            0,
            "nothing is left in it"
        );
        let gone = folder.path().join("gone");
        let told = writable(&gone).expect_err("it is not there");
        assert!(told.contains("gone cannot be written: No such file"), "{told}");
    }
}
