//! The files of one attempt on the node. They outlive the agent, so that the next one knows of a running container what
//! the pod process does not: of which image it is, who runs it, and whether its hook was told.

use std::io;
use std::path::{Path, PathBuf};

use image::Digest;
use serde::{Deserialize, Serialize};

/// Where the containers of a pod have their files, in its directory.
const CONTAINERS: &str = "containers";
/// Ending of the writable directory of an attempt.
const ROOT: &str = "root";

/// What an attempt is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The name of its image, as the pod had it.
    pub image: String,
    /// The image as it was resolved, as the status shows it.
    pub image_id: String,
    /// The image's manifest, which must not be collected while the attempt runs.
    pub manifest: Digest,
    /// The signal that the image wants to be told to end with.
    pub stop_signal: Option<String>,
    /// User, group and supplementary groups.
    pub user: (u32, u32, Vec<u32>),
}

/// Where the files of one attempt are.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
    number: u32,
}

impl Records {
    /// Those of attempt `number` of a container, below the directory of its pod.
    pub fn of(pod: &Path, container: &str, number: u32) -> Self {
        Self { folder: pod.join(CONTAINERS).join(container), number }
    }

    /// The folder that all attempts of the container share.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the container writes its last words to.
    pub fn termination(&self) -> PathBuf {
        self.file("termination")
    }

    /// What the attempt writes is below this.
    pub fn writable(&self) -> PathBuf {
        self.file(ROOT)
    }

    /// The number of the attempt that a writable directory of this name is of.
    pub fn number_of_writable(name: &str) -> Option<u32> {
        name.strip_suffix(ROOT)?.strip_suffix('.')?.parse().ok()
    }

    /// Writes down what the attempt is made of, before it is started. Blocking.
    pub fn keep(&self, kept: &Kept) -> io::Result<()> {
        std::fs::write(self.file("made-of"), serde_json::to_vec(kept)?)
    }

    /// What an agent wrote down. Blocking, small.
    pub fn kept(&self) -> Option<Kept> {
        serde_json::from_slice(&std::fs::read(self.file("made-of")).ok()?).ok()
    }

    /// Writes down that the hook of the start has succeeded. The page cache keeps that if the agent is killed, and the
    /// attempt itself does not outlive the machine. Blocking.
    pub fn hook_has_succeeded(&self) -> io::Result<()> {
        std::fs::write(self.file("hooked"), "")
    }

    /// Whether the hook of the start has succeeded. Blocking, small.
    pub fn has_hook_succeeded(&self) -> bool {
        self.file("hooked").exists()
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_by_the_next_agent() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::of(folder.path(), "web", 3);
        std::fs::create_dir_all(records.folder()).expect("a folder");
        let kept = Kept {
            image: "web:1".into(),
            image_id: "web@sha256:1".into(),
            manifest: Digest::of(b"manifest"),
            stop_signal: Some("SIGQUIT".into()),
            user: (1, 2, vec![3]),
        };
        assert_eq!((records.kept(), records.has_hook_succeeded()), (None, false));
        records.keep(&kept).expect("written");
        records.hook_has_succeeded().expect("written");
        let again = Records::of(folder.path(), "web", 3);
        assert_eq!((again.kept(), again.has_hook_succeeded()), (Some(kept), true));
        let next = Records::of(folder.path(), "web", 4);
        assert_eq!((next.kept(), next.has_hook_succeeded()), (None, false), "each attempt has its own");
    }

    #[test]
    fn writable_directories_are_known_by_their_names() {
        let name = Records::of(Path::new("/pods/p"), "web", 3).writable();
        let name = name.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(Records::number_of_writable(name), Some(3));
        for other in ["3.termination", "root", ".root", "x.root", "3root"] {
            assert_eq!(Records::number_of_writable(other), None, "{other}");
        }
    }
}
