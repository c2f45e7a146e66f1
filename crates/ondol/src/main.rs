//! The roof: reads the command line and wires the rooms together; nothing else.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod agent;
mod certificates;
mod checks;
mod credential;
mod down;
mod facts;
mod identity;
mod invitation;
mod layout;
mod log;
mod memory;
mod notify;
mod run;
mod salvage;
mod server;
mod turn;
mod up;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use base::Clock;
use clap::{CommandFactory as _, Parser as _};
use cli::admin::Admin;
use cli::arguments::{Agent, Arguments, Server, VERSION, Verb};
use cli::{commands, kubeconfig, output};
use client::Kubeconfig;

use layout::Layout;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are asked for; the rest are mistakes.
        Err(asked) if !asked.use_stderr() => {
            let text = asked.render();
            match std::io::stdout().is_terminal() {
                true => output::text(text.ansi()),
                false => output::text(text),
            }
            return end(Ok(()));
        }
        Err(mistake) => mistake.exit(),
    };
    if arguments.detached {
        // Free of the terminal that `up` was typed in; it fails only for who leads a group already.
        let _ = rustix::process::setsid();
    }
    end(act(&arguments))
}

/// What the caller learns. A verb that has done its work and could not print it has failed too.
fn end(result: anyhow::Result<()>) -> ExitCode {
    match result.and_then(|()| output::finish().context("cannot write to standard output")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: &Arguments) -> anyhow::Result<()> {
    let clock = Clock::system();
    let layout = || Layout::new(&arguments.instance, arguments.data_dir.as_deref());
    let stays = match &arguments.verb {
        Verb::Up(options) => arguments.detached || options.foreground,
        Verb::Server(_) | Verb::Agent(_) => true,
        _ => false,
    };
    if stays {
        // Directories of pods are for users of all sorts, whatever the shell that this was typed in says; what is
        // secret says so itself.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        // Each connection is a file, and a shell allows 1,024 of them.
        base::descriptors::raise();
    }
    log::start(!stays);
    match &arguments.verb {
        Verb::Up(options) => up::up(arguments, options, &clock),
        Verb::Server(options) => serve(arguments, options, &clock),
        Verb::Agent(options) => join(arguments, options, &clock),
        Verb::Down(options) => down::down(arguments, options, &clock),
        Verb::Credential => {
            output::line(credential::credential(&layout()?, &clock)?);
            Ok(())
        }
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "ondol", &mut script);
            output::bytes(&script);
            Ok(())
        }
        Verb::Version => {
            output::line(format_args!("ondol {VERSION} (Kubernetes {})", apiserver::GIT_VERSION));
            Ok(())
        }
        Verb::Store(verb) => salvage::run(verb, server::CODEC),
        Verb::Status(_) | Verb::Logs(_) | Verb::Why(_) | Verb::Image(_) => ask(arguments, &layout()?, &clock),
    }
}

/// Verbs that ask a running instance.
fn ask(arguments: &Arguments, layout: &Layout, clock: &Clock) -> anyhow::Result<()> {
    checks::root()?;
    // Who only asks is not kept from it by a damaged file.
    let kept = facts::Facts::read(&layout.run.join("instance.json")).ok().flatten();
    let data = kept.map(|facts| facts.data_dir).filter(|data| data.is_absolute());
    let log = Layout { data: data.unwrap_or_else(|| layout.data.clone()), ..layout.clone() }.log();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin = Admin::new(&layout.admin_socket());
    let result = runtime.block_on(async {
        match &arguments.verb {
            Verb::Status(options) => commands::status(&admin, options).await,
            Verb::Logs(options) => commands::logs(&log, options, clock).await,
            Verb::Why(options) => {
                let home = arguments.home.clone().unwrap_or_default();
                let known =
                    kubeconfig::namespace(arguments.kubeconfig_path.as_deref(), &home, &layout.context());
                commands::why(&admin, options, known.as_deref().unwrap_or("default"), clock).await
            }
            Verb::Image(verb) => commands::image(&admin, verb).await,
            _ => Ok(()),
        }
    });
    runtime.shutdown_background();
    result
}

fn serve(arguments: &Arguments, options: &Server, clock: &Clock) -> anyhow::Result<()> {
    checks::root()?;
    let layout = Layout::new(&arguments.instance, arguments.data_dir.as_deref())?;
    checks::alone(&layout)?;
    let nodes =
        options.nodes.iter().map(|node| invitation::parse_node(node)).collect::<Result<Vec<_>, _>>()?;
    let kubeconfig = (!options.no_kubeconfig).then(|| up::kubeconfig_path(arguments)).transpose()?;
    if let Some(path) = &kubeconfig {
        kubeconfig::check(path)?;
    }
    let facts = facts::Facts::load_or_choose(&layout, &options.ranges)?;
    checks::ranges(&layout, &facts)?;
    checks::port(facts.api_port)?;
    layout.make()?;
    facts.write(&layout)?;
    if let Some(path) = &kubeconfig {
        up::remember(path, &layout, facts.clone(), options.advertise_address, clock)?;
    }
    let role = run::Role::Server {
        advertised: options.advertise_address,
        nodes,
        invitation_life: std::time::Duration::from_secs(u64::from(options.invitation_hours) * 3600),
    };
    run::run(&layout, Some(&facts), role, clock, &manager(arguments), None)
}

fn join(arguments: &Arguments, options: &Agent, clock: &Clock) -> anyhow::Result<()> {
    checks::root()?;
    let layout = Layout::new(&arguments.instance, arguments.data_dir.as_deref())?;
    checks::alone(&layout)?;
    let begun = run::Begun::at_once(&layout, clock)?;
    let invitation = invitation::read(&options.kubeconfig)?;
    let mut kubeconfig =
        Kubeconfig::read(&options.kubeconfig, None).context("the invitation cannot be used")?;
    if let Some(server) = &options.server {
        kubeconfig.server.clone_from(server);
    }
    checks::kernel()?;
    checks::data(&layout)?;
    layout.make()?;
    // For `down` and for other instances: where the data lies and which ranges are in use.
    let facts = facts::Facts {
        api_port: 0,
        pod_range: invitation.pod_range.clone(),
        service_range: invitation.service_range.clone(),
        kubeconfigs: Vec::new(),
        data_dir: layout.data.clone(),
        instance: layout.instance.name().to_owned(),
    };
    facts::refuse_others(&layout)?;
    facts.write(&layout)?;
    let role = run::Role::Agent {
        invitation: Box::new(invitation),
        kubeconfig: Box::new(kubeconfig),
        address: options.node_ip,
    };
    run::run(&layout, None, role, clock, &manager(arguments), begun)
}

/// The service manager that has started us, if one has.
fn manager(arguments: &Arguments) -> notify::Manager {
    notify::Manager::at(arguments.notify_socket.clone())
}
