//! The sandbox of a pod: what isolates it from others, and its place in the network.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use sandbox::{Resources, Sandbox, Scope};

use crate::pod::container::{hostname, shares};
use crate::pod::desired::Desired;
use crate::pod::layout::ETC;
use crate::pod::machine::Part;
use crate::pod::quality::{Quality, milli, units};
use crate::pod::worker::{RETRY, Worker};

impl Worker {
    pub(super) async fn create_sandbox(self: &Arc<Self>, desired: &Desired) {
        match self.try_create_sandbox(desired).await {
            Ok(sandbox) => self.adopt(sandbox),
            Err(why) => {
                self.context.network.release(&self.uid);
                self.note(
                    None,
                    true,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {why}"),
                );
                let retry_at = self.context.clock.now() + RETRY;
                self.change(|live| live.sandbox = Part::Failed(retry_at));
            }
        }
    }

    async fn try_create_sandbox(self: &Arc<Self>, desired: &Desired) -> Result<Sandbox, String> {
        let spec = desired.pod.spec.as_ref().ok_or("the pod has no spec")?;
        let scope = |host: Option<bool>| if host == Some(true) { Scope::Host } else { Scope::Own };
        let on_host = spec.host_network == Some(true);
        let sysctls = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
        let sandbox = self
            .context
            .sandboxes
            .create(sandbox::Spec {
                id: self.uid.to_string(),
                hostname: hostname(&desired.object, &desired.pod),
                network: scope(spec.host_network),
                ipc: scope(spec.host_ipc),
                uts: scope(spec.host_network),
                sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
                cgroup_parent: Quality::of(&desired.pod).cgroup().to_owned(),
                resources: pod_resources(spec),
                annotation: format!("{}/{}", desired.object.namespace(), desired.object.name()),
                ..sandbox::Spec::default()
            })
            .await
            .map_err(|error| base::with_causes(&error))?;
        let ips = if on_host {
            self.context.settings.host_ips.clone()
        } else {
            match self.connect(&sandbox).await {
                Ok(ips) => ips,
                Err(why) => {
                    // A sandbox without a network is of no use; the next attempt makes both anew.
                    let _ = sandbox.remove().await;
                    return Err(why);
                }
            }
        };
        let (directory, kept) = (self.directory(), ips.clone());
        let written = tokio::task::spawn_blocking(move || {
            // Names of an earlier sandbox lead to its address; the first container has them made anew.
            match std::fs::remove_dir_all(directory.join(ETC)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            crate::agent::write_addresses(&directory, &kept)
        })
        .await;
        if let Ok(Err(error)) = written {
            let _ = sandbox.remove().await;
            return Err(error.to_string());
        }
        self.live().ips = ips;
        Ok(sandbox)
    }

    async fn connect(&self, sandbox: &Sandbox) -> Result<Vec<IpAddr>, String> {
        let netns = std::fs::File::open(sandbox.netns_path()).map_err(|error| error.to_string())?;
        self.context.network.attach(&self.uid, netns.as_fd()).await
    }
}

/// Limits of the whole pod: the sum of its containers' limits, where all have one; shares for all requests.
fn pod_resources(spec: &core::PodSpec) -> Resources {
    let amounts = |name: &str, limits: bool| -> (i64, bool) {
        let of = |container: &core::Container| {
            let resources = container.resources.as_ref();
            let list = resources.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
            list.and_then(|list| list.get(name))
                .map(|text| if name == "cpu" { milli(text) } else { units(text) })
        };
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let running: Vec<Option<i64>> = spec.containers.iter().chain(sidecars).map(of).collect();
        let starting = spec.init_containers.iter().flatten().filter_map(of).max().unwrap_or_default();
        let all = !running.is_empty() && running.iter().all(|amount| amount.is_some_and(|amount| amount > 0));
        (running.iter().flatten().sum::<i64>().max(starting), all)
    };
    let (cpu_request, _) = amounts("cpu", false);
    let ((cpu_limit, cpu_all), (memory_limit, memory_all)) = (amounts("cpu", true), amounts("memory", true));
    Resources {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota_us: cpu_all.then(|| cpu_limit.unsigned_abs() * 100).map(|quota| quota.max(1000)),
        cpu_period_us: cpu_all.then_some(100_000),
        memory_bytes: memory_all.then(|| memory_limit.unsigned_abs()),
        pids: None,
        huge_pages: Vec::new(),
    }
}
