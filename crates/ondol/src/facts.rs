//! What an instance chooses at its first start and keeps: ports and address ranges.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cli::arguments::Ranges;
use net::address::Cidr;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// The default instance's.
const API_PORT: u16 = 6443;
const POD_RANGE: &str = "10.244.0.0/16";
const SERVICE_RANGE: &str = "10.96.0.0/12";
/// Other instances take two neighbouring /16s from 10.128.0.0 on: pods the even, Services the odd one.
const FIRST_OCTET: u8 = 128;
const PAIRS: u64 = 56;
/// Other instances' API ports.
const OTHER_PORTS: std::ops::Range<u16> = 16443..18443;
/// A node's share of the pods' range.
pub const NODE_PREFIX: u8 = 24;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Port of the API.
    pub api_port: u16,
    /// Range of pods.
    pub pod_range: String,
    /// Range of Services.
    pub service_range: String,
    /// Kubeconfigs in which there are entries of ours.
    #[serde(default)]
    pub kubeconfigs: Vec<PathBuf>,
    /// Where the data lies; for those who find a copy in the run directory.
    #[serde(default)]
    pub data_dir: PathBuf,
    /// The instance whose data it is.
    #[serde(default)]
    pub instance: String,
}

/// Refuses data that is another instance's: its server may run, and would find its store gone or written by two. Data
/// that was copied elsewhere is whoever's that uses it.
pub fn refuse_others(layout: &Layout) -> anyhow::Result<()> {
    // Damage is no reason not to end or to remove an instance.
    let kept = Facts::read(&layout.facts()).ok().flatten();
    let has_it = kept.filter(|facts| facts.data_dir == layout.data).map(|facts| facts.instance);
    let owner = has_it
        .into_iter()
        .chain(users_of(layout))
        .find(|name| !name.is_empty() && name != layout.instance.name());
    match owner {
        Some(owner) => bail!(
            "{} is the data of instance {owner}, and not of {}: say \"--instance {owner}\", or give another --data-dir",
            layout.data.display(),
            layout.instance
        ),
        None => Ok(()),
    }
}

/// Other instances that run, or have run since the machine was started, with this data.
fn users_of(layout: &Layout) -> Vec<String> {
    let Some(runs) = layout.run.parent().and_then(|root| std::fs::read_dir(root).ok()) else {
        return Vec::new();
    };
    let place = std::fs::canonicalize(&layout.data).unwrap_or_else(|_| layout.data.clone());
    let uses = |run: &std::fs::DirEntry| {
        let facts = Facts::read(&run.path().join("instance.json")).ok().flatten();
        facts.is_some_and(|facts| {
            facts.data_dir == layout.data
                || std::fs::canonicalize(&facts.data_dir).is_ok_and(|own| own == place)
        })
    };
    let others = runs.flatten().filter(|run| run.path() != layout.run && uses(run));
    others.filter_map(|run| run.file_name().into_string().ok()).collect()
}

impl Facts {
    /// What was kept, if anything.
    pub fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let facts = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged, which tells the instance's ports and ranges: restore it, or remove it and give \
                 --api-port, --pod-cidr and --service-cidr as they were",
                path.display()
            )
        });
        facts.map(Some)
    }

    /// What was kept, or choices that fit this machine; what the user asks for wins where nothing depends on the
    /// former choice.
    pub fn load_or_choose(layout: &Layout, wanted: &Ranges) -> anyhow::Result<Self> {
        refuse_others(layout)?;
        let kept = Self::read(&layout.facts())?;
        let mut facts = match kept.clone() {
            Some(kept) => kept,
            None => Self::choose(layout, wanted)?,
        };
        if let Some(port) = wanted.api_port {
            facts.api_port = port;
        }
        for (given, held, flag) in [
            (&wanted.pod_cidr, &mut facts.pod_range, "--pod-cidr"),
            (&wanted.service_cidr, &mut facts.service_range, "--service-cidr"),
        ] {
            let Some(given) = given else { continue };
            let range: Cidr = given.parse().with_context(|| format!("{flag} is not usable"))?;
            let given = range.network().to_string();
            if kept.is_some() && *held != given {
                bail!(
                    "this instance has used {held} since its first start, so {flag} cannot become {given}: pods and \
                     Services have addresses of it. Start without {flag}, or \"ondol down --wipe\" first"
                );
            }
            *held = given;
        }
        facts.data_dir.clone_from(&layout.data);
        layout.instance.name().clone_into(&mut facts.instance);
        Ok(facts)
    }

    fn choose(layout: &Layout, wanted: &Ranges) -> anyhow::Result<Self> {
        let facts = |api_port, pod_range: String, service_range: String| Self {
            api_port,
            pod_range,
            service_range,
            kubeconfigs: Vec::new(),
            data_dir: layout.data.clone(),
            instance: layout.instance.name().to_owned(),
        };
        if layout.instance.name() == "default" {
            return Ok(facts(API_PORT, POD_RANGE.to_owned(), SERVICE_RANGE.to_owned()));
        }
        let others = others(layout);
        let hash = hash(layout.instance.name());
        let taken = taken(&routes(), &others);
        let Some((pods, services)) = pair(hash, &taken) else {
            if wanted.pod_cidr.is_some() && wanted.service_cidr.is_some() {
                return Ok(facts(port(hash, &others)?, POD_RANGE.to_owned(), SERVICE_RANGE.to_owned()));
            }
            bail!("no free pair of /16 ranges is left in 10.128.0.0/9; give --pod-cidr and --service-cidr");
        };
        Ok(facts(port(hash, &others)?, pods.to_string(), services.to_string()))
    }

    /// Keeps it, in the data folder and, for others to see, in the run folder.
    pub fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        for path in [layout.facts(), layout.run.join("instance.json")] {
            wire::tls::write_private(&path, &text)?;
        }
        Ok(())
    }

    /// Range of pods.
    pub fn pods(&self) -> anyhow::Result<Cidr> {
        self.pod_range.parse().context("the kept range of pods is damaged; give --pod-cidr")
    }

    /// Range of Services.
    pub fn services(&self) -> anyhow::Result<Cidr> {
        self.service_range.parse().context("the kept range of Services is damaged; give --service-cidr")
    }
}

/// What other instances on this machine have chosen, running or not.
fn others(layout: &Layout) -> Vec<Facts> {
    let folders =
        Layout::roots().into_iter().filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
    folders
        .filter(|folder| folder.file_name().to_str() != Some(layout.instance.name()))
        .filter_map(|folder| Facts::read(&folder.path().join("instance.json")).ok().flatten())
        // One that was killed, and whose data somebody has removed by hand, claims nothing any more.
        .filter(|facts| facts.data_dir.as_os_str().is_empty() || facts.data_dir.exists())
        .collect()
}

fn taken(routes: &[Route], others: &[Facts]) -> Vec<Cidr> {
    let chosen = others.iter().flat_map(|facts| [&facts.pod_range, &facts.service_range]);
    routes.iter().map(|route| route.range).chain(chosen.filter_map(|range| range.parse().ok())).collect()
}

/// Two /16s that touch nothing that is taken, beginning where the name's hash says.
fn pair(hash: u64, taken: &[Cidr]) -> Option<(Cidr, Cidr)> {
    (0..PAIRS).find_map(|step| {
        let octet = FIRST_OCTET + 2 * u8::try_from((hash + step) % PAIRS).ok()?;
        let range = |octet| Cidr::new(IpAddr::V4(Ipv4Addr::new(10, octet, 0, 0)), 16).ok();
        let (pods, services) = (range(octet)?, range(octet + 1)?);
        let free = !taken.iter().any(|range| overlap(range, &pods) || overlap(range, &services));
        free.then_some((pods, services))
    })
}

fn port(hash: u64, others: &[Facts]) -> anyhow::Result<u16> {
    let count = u64::from(OTHER_PORTS.end - OTHER_PORTS.start);
    let candidates = (0..count).map(|step| OTHER_PORTS.start + ((hash + step) % count) as u16);
    candidates
        .into_iter()
        .find(|port| {
            let claimed = others.iter().any(|facts| facts.api_port == *port);
            !claimed && TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).is_ok()
        })
        .context("no port is free for the API; give --api-port")
}

/// FNV-1a: the same name begins at the same place on every machine.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
        >> 8
}

/// Whether two ranges share an address.
pub fn overlap(a: &Cidr, b: &Cidr) -> bool {
    a.contains(b.network().address()) || b.contains(a.network().address())
}

/// A route of the machine, other than the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub range: Cidr,
    /// Through which link.
    pub link: String,
}

/// The IPv4 routes of this network namespace.
pub fn routes() -> Vec<Route> {
    parse_routes(&std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default())
}

/// The link of the default route.
pub fn default_link() -> Option<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
    let line = text.lines().skip(1).find(|line| line.split_whitespace().nth(1) == Some("00000000"))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn parse_routes(text: &str) -> Vec<Route> {
    let number = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::swap_bytes);
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (link, to, mask) = (words.first()?, number(words.get(1)?)?, number(words.get(7)?)?);
        let prefix = u8::try_from(mask.count_ones()).ok().filter(|prefix| *prefix > 0)?;
        let range = Cidr::new(IpAddr::V4(Ipv4Addr::from(to)), prefix).ok()?;
        Some(Route { range, link: (*link).to_owned() })
    };
    text.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        br0\t0000F40A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    #[test]
    fn routes_are_read_without_the_default_one() {
        let routes = parse_routes(TABLE);
        let shown: Vec<String> =
            routes.iter().map(|route| format!("{} {}", route.link, route.range)).collect();
        assert_eq!(shown, ["eth0 192.0.2.0/24", "br0 10.244.0.0/16"]);
    }

    #[test]
    fn a_pair_avoids_what_is_taken_and_is_the_same_each_time() {
        let (first, _) = pair(hash("a"), &[]).unwrap();
        assert_eq!(pair(hash("a"), &[]).unwrap().0, first);
        let (second, services) = pair(hash("a"), &[first]).unwrap();
        assert!(!overlap(&first, &second) && !overlap(&first, &services));
        assert!(pair(3, &["10.0.0.0/8".parse().unwrap()]).is_none());
    }

    #[test]
    fn ranges_overlap_in_both_directions() {
        let range = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(overlap(&range("10.0.0.0/8"), &range("10.1.0.0/16")));
        assert!(overlap(&range("10.1.0.0/16"), &range("10.0.0.0/8")));
        assert!(!overlap(&range("10.1.0.0/16"), &range("10.2.0.0/16")));
    }

    #[test]
    fn a_damaged_file_is_named_and_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instance.json");
        assert_eq!(Facts::read(&path).unwrap(), None);
        std::fs::write(&path, "garbage").unwrap();
        let error = Facts::read(&path).unwrap_err();
        assert!(error.to_string().contains("instance.json is damaged"), "{error}");
    }

    #[test]
    fn a_range_in_use_cannot_change() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout {
            instance: net::instance::Instance::new("t-facts").unwrap(),
            data: folder.path().join("data"),
            run: folder.path().join("run").join("t-facts"),
        };
        let facts = Facts::load_or_choose(&layout, &Ranges::default()).unwrap();
        facts.write(&layout).unwrap();
        assert_eq!(Facts::load_or_choose(&layout, &Ranges::default()).unwrap(), facts);
        let other = Ranges { pod_cidr: Some("10.9.0.0/16".to_owned()), ..Ranges::default() };
        let error = Facts::load_or_choose(&layout, &other).unwrap_err();
        assert!(error.to_string().contains("down --wipe"), "{error}");
    }

    #[test]
    fn the_data_of_another_instance_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = |name: &str, data: &str| {
            let run = folder.path().join("run").join(name);
            let instance = net::instance::Instance::new(name).unwrap();
            Layout { instance, data: folder.path().join(data), run }
        };
        let (one, two) = (layout("t-one", "data"), layout("t-two", "data"));
        one.make().unwrap();
        Facts::load_or_choose(&one, &Ranges::default()).unwrap().write(&one).unwrap();
        refuse_others(&one).unwrap();
        let told = refuse_others(&two).unwrap_err().to_string();
        assert!(
            told.contains("is the data of instance t-one, and not of t-two: say \"--instance t-one\""),
            "{told}"
        );
        assert!(Facts::load_or_choose(&two, &Ranges::default()).is_err());
        // Its name is gone, and it runs.
        std::fs::remove_file(one.facts()).unwrap();
        assert!(refuse_others(&two).is_err());
        std::os::unix::fs::symlink(&one.data, folder.path().join("link")).unwrap();
        assert!(refuse_others(&layout("t-two", "link")).is_err());
        refuse_others(&layout("t-two", "elsewhere")).unwrap();
    }
}
