//! How long it takes to load Services, to change one, and to attach a pod. Plain: it prints what it measured.

#[path = "../tests/kernel/space.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod space;
#[path = "../tests/kernel/sys.rs"]
mod sys;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use net::address::Protocol;
use net::instance::Instance;
use net::link::{Attachment, BridgeSpec, Network};
use net::rules::{Endpoint, Rules, Ruleset, ServiceKey, diff};

const SERVICES: u32 = 1000;
const ENDPOINTS: u32 = 3;
const ROUNDS: usize = 50;
const PODS: usize = 40;

fn main() {
    space::Space::new().run(|| {
        let clock = Clock::system();
        rules(&clock);
        attach(&clock);
    });
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (best, median, worst) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {median:?}, best {best:?}, worst {worst:?} of {}", times.len());
}

fn measure<R>(clock: &Clock, action: impl FnOnce() -> R) -> (Duration, R) {
    let start = clock.monotonic();
    let result = action();
    (clock.monotonic() - start, result)
}

fn service_of(number: u32, shift: u32) -> Arc<net::rules::VirtualService> {
    let mut service = space::service(Protocol::Tcp, &[]);
    let high = (number / 250) as u8;
    let low = (number % 250) as u8;
    service.cluster_addresses = vec![[10, 96, high, low].into()];
    service.endpoints = (0..ENDPOINTS)
        .map(|n| {
            let at = number * ENDPOINTS + n + if n == 0 { shift } else { 0 };
            Endpoint {
                address: SocketAddr::from(([10, 244, (at / 250) as u8, (at % 250) as u8], 8080)),
                local: true,
            }
        })
        .collect();
    Arc::new(service)
}

fn rules(clock: &Clock) {
    let mut rules = Rules::open(&Instance::new("bench").expect("a name")).expect("opened");
    let mut ruleset = Ruleset { services: Default::default(), frame: space::ruleset().frame };
    for number in 0..SERVICES {
        ruleset.services.insert(ServiceKey(format!("default/service-{number}:http")), service_of(number, 0));
    }
    let mut loads = Vec::new();
    for _ in 0..ROUNDS {
        net::rules::remove_tables(&Instance::new("bench").expect("a name")).expect("removed");
        loads.push(measure(clock, || rules.replace(&ruleset).expect("loaded")).0);
    }
    report("load 1,000 Services with 3 endpoints", loads);
    let replaces =
        (0..ROUNDS).map(|_| measure(clock, || rules.replace(&ruleset).expect("loaded")).0).collect();
    report("replace them atomically", replaces);
    let (mut changes, mut diffs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u32 {
        let number = round * 7 % SERVICES;
        let mut new = ruleset.clone();
        let key = ServiceKey(format!("default/service-{number}:http"));
        new.services.insert(key, service_of(number, 10_000 + round));
        diffs.push(measure(clock, || diff(&ruleset, &new)).0);
        changes.push(measure(clock, || rules.update(&ruleset, &new).expect("updated")).0);
        ruleset = new;
    }
    report("change one endpoint", changes);
    report("of which finding the difference", diffs);
    rules.replace(&ruleset).expect("loaded");
    let syncs = (0..ROUNDS).map(|_| measure(clock, || rules.sync(&ruleset).expect("synced")).0).collect();
    report("compare with what the kernel has", syncs);
}

fn attach(clock: &Clock) {
    let instance = Instance::new("bench").expect("a name");
    let network = Network::open(&instance).expect("opened");
    let spec = BridgeSpec {
        addresses: vec!["10.244.0.1/16".parse().expect("a range")],
        routes: vec![],
        mtu: space::MTU,
    };
    network.ensure_bridge(&spec).expect("made");
    let pods: Vec<space::Space> = (0..PODS).map(|_| space::Space::new()).collect();
    let times = pods
        .iter()
        .enumerate()
        .map(|(number, pod)| {
            let (addresses, gateways) = ([space::pod_address(number)], [spec.addresses[0].address()]);
            let key = number.to_string();
            let attachment = Attachment {
                key: &key,
                netns: pod.fd(),
                addresses: &addresses,
                gateways: &gateways,
                mtu: space::MTU,
            };
            measure(clock, || network.attach(&attachment).expect("attached")).0
        })
        .collect();
    report("attach a pod", times);
    let (time, ()) = measure(clock, || network.remove_all(&Default::default()).expect("removed"));
    println!("remove {PODS} pods and the bridge: {time:?}");
}
