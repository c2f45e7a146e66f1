//! Changes one by one lead to the same table as loading it whole.

use std::net::SocketAddr;
use std::sync::Arc;

use base::Random;
use net::address::Protocol;
use net::instance::Instance;
use net::rules::{Affinity, Compiled, Endpoint, Rules, Ruleset, ServiceKey, TrafficPolicy, VirtualService};

use crate::space::{Space, ruleset};

/// A Service drawn by chance from a space so small that Services often claim the same addresses.
fn draw(random: &Random) -> VirtualService {
    let endpoint = |n: u64| Endpoint {
        address: SocketAddr::from(([10, 244, 0, n as u8], 8080 + (n % 2) as u16)),
        local: !n.is_multiple_of(3),
    };
    let policy = || if random.chance(1, 3) { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    VirtualService {
        protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][random.below(3) as usize],
        port: 80,
        cluster_addresses: vec![[10, 96, 0, random.below(12) as u8].into()],
        external_addresses: if random.chance(1, 4) { vec![[192, 0, 2, 9].into()] } else { vec![] },
        node_port: random.chance(1, 3).then(|| 30_000 + random.below(4) as u16),
        endpoints: (0..random.below(5)).map(|_| endpoint(random.below(9))).collect(),
        affinity: match random.below(4) {
            0 => Affinity::ClientIp { timeout_s: 10 + random.below(2) as u32 },
            _ => Affinity::None,
        },
        internal_policy: policy(),
        external_policy: policy(),
    }
}

fn step(random: &Random, ruleset: &mut Ruleset) {
    for _ in 0..=random.below(3) {
        let key = ServiceKey(format!("service-{}", random.below(10)));
        if random.chance(1, 4) {
            ruleset.services.remove(&key);
        } else {
            ruleset.services.insert(key, Arc::new(draw(random)));
        }
    }
}

#[test]
fn changes_lead_to_the_same_table_as_loading_it() {
    let node = Space::new();
    node.run(|| {
        for seed in 0..6 {
            let random = Random::seeded(seed);
            let mut rules = Rules::open(&Instance::new("sequence").expect("a name")).expect("opened");
            let mut current = ruleset();
            rules.replace(&current).expect("loaded");
            for number in 0..40 {
                let mut new = current.clone();
                step(&random, &mut new);
                rules.update(&current, &new).unwrap_or_else(|e| panic!("seed {seed}, step {number}: {e}"));
                current = new;
                let loaded = rules.loaded().expect("dumped");
                assert_eq!(loaded, Some(Compiled::new(&current)), "seed {seed}, step {number}");
            }
            let (elements, programs) = (rules.loaded().expect("dumped"), rules.programs().expect("dumped"));
            rules.replace(&current).expect("loaded whole");
            assert_eq!(rules.loaded().expect("dumped"), elements, "seed {seed}");
            assert_eq!(rules.programs().expect("dumped"), programs, "seed {seed}");
        }
    });
}
