//! Runs the pod process: from a sealed file in memory, without ever forking the agent.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The program, built by `build.rs`.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pod-process"));

/// The program as a file that nobody can change, shared by all pods of this agent.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Puts the program into memory and seals it.
    pub fn load() -> io::Result<Self> {
        const NAME: &str = "pod-process";
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know the flag that says that it will be executed.
        let file = memfd_create(NAME, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(NAME, flags))?;
        let mut file = File::from(file);
        file.write_all(PROGRAM)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&file, seals)?;
        // A descriptor open for writing would make execution fail with "text file busy".
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(Self(File::open(path)?.into()))
    }

    /// Starts it for the sandbox `id` with `socket` as its input, and errors going to a file in `directory`.
    ///
    /// Nothing here makes the standard library fork: it uses `posix_spawn`, whose cost does not grow with the
    /// agent's memory.
    pub fn start(&self, id: &str, directory: &Path, socket: OwnedFd) -> io::Result<Child> {
        let errors =
            OpenOptions::new().create(true).append(true).mode(0o600).open(directory.join("errors.log"))?;
        let child = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
            .arg0(format!("ondol-pod {id}"))
            .env_clear()
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()?;
        // Containers are started later, when they are asked for, and inherit it.
        if let Some(given) = base::descriptors::given() {
            let pod = Some(rustix::process::Pid::from_child(&child));
            if let Err(error) = rustix::process::prlimit(pod, rustix::process::Resource::Nofile, given) {
                tracing::warn!(id, %error, "a pod may have as many files open as the agent");
            }
        }
        Ok(child)
    }
}
