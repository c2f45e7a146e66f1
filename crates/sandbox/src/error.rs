//! What can go wrong, named by what the caller can do about it.

use std::io;
use std::path::PathBuf;

use crate::protocol::{Failure, reason, stage};

/// A sandbox or the whole manager.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; nothing works until it is there.
    #[error("this machine lacks {what}; {hint}")]
    Machine {
        /// What is missing.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The request cannot be served as it is; sending it again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// The pod process is gone. Remove the sandbox and make another.
    #[error("the pod process of sandbox {0} is gone; remove the sandbox and make it anew")]
    Lost(String),
    /// There is no such container, or it does not run.
    #[error("container {0} does not run")]
    NotRunning(String),
    /// The container was started without what this needs.
    #[error("{0}")]
    NotAvailable(String),
    /// A step of the kernel's failed.
    #[error("{step} failed for {path}")]
    Kernel {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The pod process could not do a step.
    #[error("the pod process failed at {stage} ({detail}): {source}")]
    Pod {
        /// The step.
        stage: &'static str,
        /// The file or word that it is about.
        detail: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pod process speaks otherwise than expected.
    #[error(
        "the pod process of sandbox {0} does not speak this agent's protocol; delete the pod to start it anew"
    )]
    Protocol(String),
}

/// Why a container, or a command in it, was not started. `Display` says it in words for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The specification asks for what is not supported or makes no sense.
    #[error("{0}")]
    Refused(String),
    /// No such program.
    #[error("no such file in the image: {program}; check the command, or PATH of the image")]
    NotFound {
        /// What was asked for.
        program: String,
    },
    /// The program has no permission to be executed.
    #[error("{program} is not executable for this user; set its executable bit (chmod +x) in the image")]
    NotExecutable {
        /// What was asked for.
        program: String,
    },
    /// A directory instead of a program.
    #[error("{program} is a directory, not a program")]
    IsDirectory {
        /// What was asked for.
        program: String,
    },
    /// The dynamic loader is not there.
    #[error(
        "the program needs the loader {loader}, which is not in the image; build it statically, or use an image with that C library"
    )]
    MissingLoader {
        /// The path that the program asks for.
        loader: String,
    },
    /// The script's interpreter is not there.
    #[error("the script's interpreter {interpreter} is not in the image; correct its first line (#!)")]
    MissingInterpreter {
        /// The path after `#!`.
        interpreter: String,
    },
    /// Saved with Windows line ends.
    #[error("the first line of the script {script} ends with CRLF (Windows line ends); save it with LF")]
    CarriageReturn {
        /// The script.
        script: String,
    },
    /// Built for another machine.
    #[error(
        "the program is built for {found}, and this machine is {}; use an image for this architecture",
        std::env::consts::ARCH
    )]
    OtherArchitecture {
        /// What it is built for.
        found: String,
    },
    /// Neither ELF nor a script.
    #[error(
        "{program} is neither an ELF program nor a script; a script needs a first line such as #!/bin/sh"
    )]
    UnknownFormat {
        /// What was asked for.
        program: String,
    },
    /// The working directory cannot be entered.
    #[error("cannot enter the working directory {path}: {}", describe(*errno))]
    WorkingDirectory {
        /// Which one.
        path: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// Another step failed.
    #[error("{stage} failed ({detail}): {}", describe(*errno))]
    Step {
        /// One of [`stage::NAMES`].
        stage: &'static str,
        /// The file or word that it is about.
        detail: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// This attempt ended and was forgotten: start the next one.
    #[error("this attempt has already run; start the next one")]
    AlreadyRan,
    /// The container to run a command in does not run.
    #[error("the container does not run")]
    NotRunning,
    /// The pod process is gone. Remove the sandbox and make another.
    #[error("the pod process is gone; the pod has to be made anew")]
    Lost,
}

fn describe(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl StartError {
    pub(crate) fn from_wire(failure: Failure) -> Self {
        let Failure { stage: step, errno, detail, reason } = failure;
        match reason {
            reason::NOT_FOUND => Self::NotFound { program: detail },
            reason::NOT_EXECUTABLE => Self::NotExecutable { program: detail },
            reason::MISSING_LOADER => Self::MissingLoader { loader: detail },
            reason::MISSING_INTERPRETER => Self::MissingInterpreter { interpreter: detail },
            reason::CARRIAGE_RETURN => Self::CarriageReturn { script: detail },
            reason::OTHER_ARCHITECTURE => Self::OtherArchitecture { found: detail },
            reason::UNKNOWN_FORMAT => Self::UnknownFormat { program: detail },
            reason::IS_DIRECTORY => Self::IsDirectory { program: detail },
            reason::NOT_RUNNING => Self::NotRunning,
            reason::FORGOTTEN => Self::AlreadyRan,
            reason::CLOSING => Self::Lost,
            reason::NOT_UNDERSTOOD => Self::Refused(
                "the pod process is older than this agent and does not know this; delete the pod".into(),
            ),
            _ if step == stage::CWD => Self::WorkingDirectory { path: detail, errno },
            _ => Self::Step { stage: stage_name(step), detail, errno },
        }
    }
}

impl Error {
    pub(crate) fn kernel(step: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Kernel { step, path: path.into(), source: source.into() }
    }

    pub(crate) fn from_wire(failure: Failure, about: &str) -> Self {
        match failure.reason {
            reason::NOT_RUNNING | reason::FORGOTTEN => Self::NotRunning(about.to_owned()),
            reason::NOT_AVAILABLE => Self::NotAvailable(failure.detail),
            reason::NOT_UNDERSTOOD => Self::Protocol(about.to_owned()),
            reason::CLOSING => Self::Lost(about.to_owned()),
            _ => Self::Pod {
                stage: stage_name(failure.stage),
                detail: failure.detail,
                source: describe(failure.errno),
            },
        }
    }
}

fn stage_name(number: u8) -> &'static str {
    stage::NAMES.get(usize::from(number)).copied().unwrap_or("unknown step")
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        match error {
            Error::Lost(_) => Self::Lost,
            Error::NotRunning(_) => Self::NotRunning,
            Error::Kernel { step, path, source } => Self::Step {
                stage: step,
                detail: path.display().to_string(),
                errno: source.raw_os_error().unwrap_or_default(),
            },
            other => Self::Refused(other.to_string()),
        }
    }
}
