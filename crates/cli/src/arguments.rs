//! The command line as types. Environment variables are read here and nowhere else.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// A whole cloud in one warm binary: Kubernetes' API, containers, network and names on this machine.
#[derive(Parser, Clone, Debug)]
#[command(name = "ondol", version = VERSION, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Begin with:  ondol up\n\
    Then:        kubectl create deployment hello --image=ondol.local/echo:v1 --replicas=3\n\
    When stuck:  ondol why deployment/hello")]
pub struct Arguments {
    /// Which of several instances on this machine is meant
    #[arg(long, global = true, env = "ONDOL_INSTANCE", default_value = "default", value_name = "NAME")]
    pub instance: String,
    /// Where the instance keeps its data [default: /var/lib/ondol/INSTANCE]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Files that kubectl reads, separated by ':'
    #[arg(long, global = true, env = "KUBECONFIG", hide = true)]
    pub kubeconfig_path: Option<String>,
    /// The user's home, where .kube/config lies
    #[arg(long, global = true, env = "HOME", hide = true)]
    pub home: Option<PathBuf>,
    /// Where the service manager that has started us wants to hear how far we are
    #[arg(long, global = true, env = "NOTIFY_SOCKET", hide = true)]
    pub notify_socket: Option<String>,
    /// This is the process that `up` has put into the background
    #[arg(long, global = true, env = DETACHED, hide = true)]
    pub detached: bool,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// Set to `true` in the environment of the process that `up` puts into the background.
pub const DETACHED: &str = "ONDOL_DETACHED";

/// Our version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What can be done.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// Start everything on this machine: API, controllers, scheduler, node
    ///
    /// Returns when the API and the node are ready, and keeps running in the background. Adds the context `ondol`
    /// to your kubeconfig and makes it current. A second `up` says that it already runs.
    Up(Up),
    /// Run the API with controllers and scheduler, without a node
    ///
    /// Writes one kubeconfig for each --node into the folder `agents` of its data; give it to `ondol agent` there.
    Server(Server),
    /// Run a node that joins a server
    Agent(Agent),
    /// Stop pods and server; data stays unless --wipe
    Down(Down),
    /// Tell version, address, node, memory and pods
    Status(Status),
    /// Show our own log
    Logs(Logs),
    /// Explain what is stuck, since when, and what to do
    ///
    /// Understands deployments, replicasets, pods, services (to whose endpoints it tries to connect), nodes, namespaces
    /// and other built-in kinds, with kubectl's short names. Ends with 1 if there is no such object.
    Why(Why),
    /// Work with the images of this machine
    #[command(subcommand)]
    Image(Image),
    /// Examine or save the data of an instance that is not running
    #[command(subcommand)]
    Store(Store),
    /// Print a short-lived credential (kubectl calls this by itself)
    Credential,
    /// Print a script that completes commands in your shell
    ///
    /// For bash: source <(ondol completion bash)
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Print the version
    Version,
}

/// Where a server listens and what ranges it uses.
#[derive(Args, Clone, Debug, Default)]
pub struct Ranges {
    /// Port of the API [default: 6443; other instances take a free one and keep it]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Range of pods' addresses [default: 10.244.0.0/16; other instances choose and keep one]
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// Range of Services' addresses [default: 10.96.0.0/12; other instances choose and keep one]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<String>,
}

/// `ondol up`
#[derive(Args, Clone, Debug)]
pub struct Up {
    /// Ports and ranges.
    #[command(flatten)]
    pub ranges: Ranges,
    /// Address of the node: node ports and load balancers answer there [default: the bridge's, for this machine only]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// Name of the node [default: the machine's]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Stay in the foreground and log to standard error, for service managers
    #[arg(long)]
    pub foreground: bool,
    /// How long to wait until all is ready, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub wait: u64,
    /// Leave the kubeconfig alone
    #[arg(long)]
    pub no_kubeconfig: bool,
}

/// `ondol server`
#[derive(Args, Clone, Debug)]
pub struct Server {
    /// Ports and ranges.
    #[command(flatten)]
    pub ranges: Ranges,
    /// Address at which nodes and pods reach this server; it also listens there
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_address: Option<IpAddr>,
    /// A node that may join, with the address of its agent (may be repeated)
    #[arg(long = "node", value_name = "NAME=ADDRESS")]
    pub nodes: Vec<String>,
    /// How long a node may take to join with what was written for it; then start the server again to write it anew
    ///
    /// A node that has joined has certificates of its own, which it renews itself.
    #[arg(long, default_value_t = 24, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub invitation_hours: u32,
    /// Leave the kubeconfig alone
    #[arg(long)]
    pub no_kubeconfig: bool,
}

/// `ondol agent`
#[derive(Args, Clone, Debug)]
pub struct Agent {
    /// The file that `ondol server --node` has written for this node
    #[arg(long = "kubeconfig", value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Address of the API, if it is not the file's
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Address of the node [default: the one that the server was told]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
}

/// `ondol down`
#[derive(Args, Clone, Debug)]
pub struct Down {
    /// How long pods may take to end, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub timeout: u64,
    /// Also remove all data, images and every other trace
    #[arg(long)]
    pub wipe: bool,
    /// Do not ask before wiping
    #[arg(long, requires = "wipe")]
    pub yes: bool,
}

/// How to print.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For machines.
    Json,
}

/// `ondol status`
#[derive(Args, Clone, Debug)]
pub struct Status {
    /// Print for machines
    #[arg(short, long)]
    pub output: Option<Output>,
}

/// `ondol logs`
#[derive(Args, Clone, Debug)]
pub struct Logs {
    /// Go on as the log grows
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last so many lines
    #[arg(long, default_value_t = 200, value_name = "LINES")]
    pub tail: usize,
}

/// `ondol why`
#[derive(Args, Clone, Debug)]
pub struct Why {
    /// What to explain, as deployment/web, pod/web-1, service/web, node/here
    #[arg(value_name = "KIND/NAME")]
    pub what: String,
    /// Its name, if only the kind was given before: pod web-1
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Where it is [default: the namespace of the instance's context in the kubeconfig]
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// `ondol image`
#[derive(Subcommand, Clone, Debug)]
pub enum Image {
    /// Fetch an image from its registry
    Pull {
        /// As nginx:1.29 or ghcr.io/owner/name:tag
        image: String,
        /// Name and password for the registry, as NAME:PASSWORD
        #[arg(long, env = "ONDOL_REGISTRY_CREDENTIALS", hide_env_values = true)]
        credentials: Option<String>,
    },
    /// Read images from an OCI layout or what docker save wrote
    Import {
        /// The archive, or the folder of a layout; - for standard input
        file: PathBuf,
        /// Name for the image, if the archive holds one
        #[arg(long)]
        name: Option<String>,
    },
    /// Show all images
    List {
        /// Print for machines
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Give an image another name
    Tag {
        /// Name or id
        image: String,
        /// The new name
        name: String,
    },
    /// Write images as one archive that docker load reads as well
    Save {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
        /// The file; - for standard output
        #[arg(short, long, default_value = "-")]
        output: PathBuf,
    },
    /// Remove names of images, and images without a name
    Remove {
        /// Names
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Show an image in detail
    Inspect {
        /// Name or id
        image: String,
    },
}

/// `ondol store`
#[derive(Subcommand, Clone, Debug)]
pub enum Store {
    /// Tell what a store's folder holds and what is damaged
    Inspect {
        /// As /var/lib/ondol/default/store
        folder: PathBuf,
    },
    /// Write what can be saved of a damaged store as a new one
    Salvage {
        /// The damaged store; it stays as it is
        folder: PathBuf,
        /// An empty folder for the new one
        target: PathBuf,
        /// Also take what lies behind the damage, at the risk of missing changes in between
        #[arg(long)]
        everything: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound_and_every_verb_has_help() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
        }
    }

    #[test]
    fn the_instance_can_stand_anywhere() {
        let arguments = Arguments::try_parse_from(["ondol", "down", "--wipe", "--instance", "x"]).unwrap();
        assert_eq!(arguments.instance, "x");
        assert!(Arguments::try_parse_from(["ondol", "down", "--yes"]).is_err());
    }
}
