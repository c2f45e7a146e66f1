//! `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname` of a pod. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use crate::context::Settings;

/// Nameservers and search domains that resolvers read (glibc's and musl's limits, as upstream cuts).
const NAMESERVERS: usize = 3;
const SEARCHES: usize = 32;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.nameservers.extend(words.next()),
                // The last line of each wins.
                Some("search") => resolver.searches = words.collect(),
                Some("options") => resolver.options = words.collect(),
                _ => {}
            }
        }
        resolver
    }

    fn write(mut self) -> String {
        self.nameservers.truncate(NAMESERVERS);
        self.searches.truncate(SEARCHES);
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for nameserver in &self.nameservers {
            text.push_str(&format!("nameserver {nameserver}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// The pod's `resolv.conf` by its `dnsPolicy` and `dnsConfig`.
pub fn resolv_conf(settings: &Settings, namespace: &str, spec: &core::PodSpec) -> String {
    let host = || Resolver::read(&settings.host_resolv_conf);
    let cluster = || {
        let domain = &settings.cluster_domain;
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches.extend(host().searches);
        Resolver {
            nameservers: vec![settings.cluster_dns.to_string()],
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    };
    let on_host_network = spec.host_network == Some(true);
    let mut resolver = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => host(),
        Some("ClusterFirstWithHostNet") => cluster(),
        _ if on_host_network => host(),
        _ => cluster(),
    };
    if let Some(config) = &spec.dns_config {
        add(&mut resolver.nameservers, config.nameservers.iter().flatten().cloned());
        add(&mut resolver.searches, config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|other| other.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    resolver.write()
}

fn add(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// The `/etc/hosts` of a pod in the host's network: the host's own, with the pod's aliases.
pub fn hosts_of_host(own: &str, spec: &core::PodSpec) -> String {
    let mut text = format!("# Kubernetes-managed hosts file (host network).\n{own}");
    add_aliases(&mut text, spec);
    text
}

/// The pod's `/etc/hosts`.
pub fn hosts(hostname: &str, domain: Option<&str>, ips: &[IpAddr], spec: &core::PodSpec) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        .to_owned();
    for ip in ips {
        match domain {
            Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
            None => text.push_str(&format!("{ip}\t{hostname}\n")),
        }
    }
    add_aliases(&mut text, spec);
    text
}

fn add_aliases(text: &mut String, spec: &core::PodSpec) {
    let aliases: Vec<_> = spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            node: "n".into(),
            host_ips: vec![],
            pods_dir: "/".into(),
            logs_dir: "/".into(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            host_resolv_conf: "nameserver 1.1.1.1\nsearch corp.example\noptions timeout:1\n".into(),
            memory_bytes: 1,
            allocatable: Default::default(),
        }
    }

    fn check(policy: &str, host_network: bool, expect: &str) {
        let spec = core::PodSpec {
            dns_policy: Some(policy.to_owned()),
            host_network: Some(host_network),
            ..core::PodSpec::default()
        };
        assert_eq!(resolv_conf(&settings(), "a", &spec), expect);
    }

    #[test]
    fn a_pod_in_the_hosts_network_has_the_hosts_names_and_its_own_aliases() {
        let alias = core::HostAlias { ip: "192.0.2.1".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let spec = core::PodSpec { host_aliases: Some(vec![alias]), ..core::PodSpec::default() };
        assert_eq!(
            hosts_of_host("127.0.0.1 localhost\n", &spec),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n\
             # Entries added by HostAliases.\n192.0.2.1\ta\tb\n"
        );
        let ip = ["10.1.0.5".parse().unwrap()];
        assert!(hosts("web", Some("web.sub.svc"), &ip, &spec).ends_with(
            "10.1.0.5\tweb.web.sub.svc\tweb\n\n# Entries added by HostAliases.\n192.0.2.1\ta\tb\n"
        ));
    }

    #[test]
    fn policies_choose_the_resolver() {
        let cluster = "search a.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";
        let host = "search corp.example\nnameserver 1.1.1.1\noptions timeout:1\n";
        check("ClusterFirst", false, cluster);
        check("ClusterFirst", true, host);
        check("ClusterFirstWithHostNet", true, cluster);
        check("Default", false, host);
        check("None", false, "");
    }
}
