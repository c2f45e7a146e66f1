use std::fmt::Write as _;

use api::json;
use api::value::Value;
use net::address::Protocol;
use serde::de::DeserializeOwned;

use super::*;

fn typed<T: DeserializeOwned>(tree: &Value) -> T {
    serde_json::from_slice(&tree.to_bytes()).expect("the test's object is right")
}

fn slice(endpoints: Value, ports: Value) -> EndpointSlice {
    typed(&json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints, "ports": ports}))
}

fn on(node: &str, address: &str, ready: bool, leaving: bool) -> Value {
    json!({
        "addresses": [address],
        "nodeName": node,
        "conditions": {"ready": ready, "serving": (ready || leaving), "terminating": leaving}
    })
}

fn service_of(spec: Value, status: Value) -> Service {
    typed(&json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec, "status": status}))
}

/// What was compiled, a line each.
fn show(compiled: &Compiled) -> String {
    let mut text = String::new();
    for (key, service) in &compiled.rules {
        let endpoints: Vec<String> = service
            .endpoints
            .iter()
            .map(|e| format!("{}{}", e.address, if e.local { " here" } else { "" }))
            .collect();
        let _ = writeln!(
            text,
            "{key} {}/{} inside {:?} outside {:?} node {:?} {:?} -> {}",
            service.protocol.name(),
            service.port,
            service.cluster_addresses,
            service.external_addresses,
            service.node_port,
            service.affinity,
            endpoints.join(", ")
        );
    }
    for (port, target) in &compiled.loopback {
        let _ = writeln!(text, "127.0.0.1:{}/{} -> {target}", port.port, port.protocol.name());
    }
    let _ = match &compiled.name {
        None => Ok(()),
        Some(dns::Service::ExternalName(target)) => writeln!(text, "name -> {target}"),
        Some(dns::Service::Cluster { addresses, ports }) => {
            let ports: Vec<String> = ports.iter().map(|p| format!("{}={}", p.name, p.port)).collect();
            writeln!(text, "name {addresses:?} {}", ports.join(" "))
        }
        Some(dns::Service::Headless { endpoints }) => endpoints.iter().try_for_each(|e| {
            let ports: Vec<String> = e.ports.iter().map(|p| format!("{}={}", p.name, p.port)).collect();
            writeln!(text, "name {} {} {}", e.hostname.as_deref().unwrap_or("-"), e.address, ports.join(" "))
        }),
    };
    text
}

fn check(service: &Service, slices: &[EndpointSlice], expect: &str) {
    let dns = Some("10.244.0.1:53".parse().expect("an address"));
    let facts = Facts { node: "n1".into(), dns, ..Facts::default() };
    assert_eq!(show(&compile::service(&facts, service, slices)), expect);
}

#[test]
fn only_ready_endpoints_serve_under_the_port_that_their_slice_names() {
    let service = service_of(
        json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "type": "ClusterIP", "ports": [
            {"name": "http", "port": 3306, "targetPort": "web"},
            {"name": "dns", "port": 53, "protocol": "UDP"}
        ]}),
        json!({}),
    );
    let first = slice(
        json!([(on("n1", "10.244.0.5", true, false)), (on("n1", "10.244.0.6", false, false))]),
        json!([{"name": "http", "port": 6000}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
    );
    // The same named port has another number in other pods, so they are in another slice.
    let second =
        slice(json!([(on("n2", "10.244.1.5", true, false))]), json!([{"name": "http", "port": 6001}]));
    check(
        &service,
        &[first, second],
        "shop/web:http tcp/3306 inside [10.96.0.9] outside [] node None None -> 10.244.0.5:6000 here, 10.244.1.5:6001\n\
         shop/web:dns udp/53 inside [10.96.0.9] outside [] node None None -> 10.244.0.5:5353 here\n\
         name [10.96.0.9] http=3306 dns=53\n",
    );
}

#[test]
fn endpoints_that_end_serve_when_no_other_does() {
    let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
    let ports = json!([{"port": 8080}]);
    let leaving = slice(
        json!([(on("n1", "10.244.0.5", false, true)), (on("n1", "10.244.0.6", false, false))]),
        ports.clone(),
    );
    check(
        &service_of(spec.clone(), json!({})),
        &[leaving],
        "shop/web: tcp/80 inside [10.96.0.9] outside [] node None None -> 10.244.0.5:8080 here\n\
         name [10.96.0.9] =80\n",
    );
    check(
        &service_of(spec, json!({})),
        &[],
        "shop/web: tcp/80 inside [10.96.0.9] outside [] node None None -> \nname [10.96.0.9] =80\n",
    );
}

#[test]
fn a_load_balancer_answers_on_its_addresses_node_port_and_loopback() {
    let service = service_of(
        json!({
            "clusterIP": "10.96.0.9", "type": "LoadBalancer", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "externalIPs": ["192.0.2.7"],
            "ports": [{"port": 80, "nodePort": 30080}]
        }),
        json!({"loadBalancer": {"ingress": [{"ip": "172.18.0.1"}, {"ip": "172.18.0.9", "ipMode": "Proxy"}]}}),
    );
    check(
        &service,
        &[slice(json!([(on("n1", "10.244.0.5", true, false))]), json!([{"port": 8080}]))],
        "shop/web: tcp/80 inside [10.96.0.9] outside [172.18.0.1, 192.0.2.7] node Some(30080) \
         ClientIp { timeout_s: 60 } -> 10.244.0.5:8080 here\n\
         127.0.0.1:30080/tcp -> 10.96.0.9:80\n\
         name [10.96.0.9] =80\n",
    );
}

#[test]
fn with_a_local_policy_the_nodes_own_leaving_endpoints_serve_what_comes_from_outside() {
    let service = service_of(
        json!({
            "clusterIP": "10.96.0.9", "type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": [{"port": 80, "nodePort": 30080}]
        }),
        json!({}),
    );
    let endpoints = json!([(on("n1", "10.244.0.5", false, true)), (on("n2", "10.244.1.5", true, false))]);
    check(
        &service,
        &[slice(endpoints, json!([{"port": 8080}]))],
        "shop/web: tcp/80 inside [10.96.0.9] outside [] node None None -> 10.244.1.5:8080\n\
         shop/web: from outside tcp/80 inside [] outside [] node Some(30080) None -> \
         10.244.0.5:8080 here, 10.244.1.5:8080\n\
         127.0.0.1:30080/tcp -> 10.96.0.9:80\n\
         name [10.96.0.9] =80\n",
    );
}

#[test]
fn a_headless_service_is_the_names_of_its_ready_endpoints() {
    let service = service_of(json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({}));
    let mut first = on("n1", "10.244.0.6", true, false);
    first.set(&["hostname"], "db-0");
    let endpoints =
        json!([first, (on("n1", "10.244.0.5", true, false)), (on("n1", "10.244.0.7", false, false))]);
    let both = slice(endpoints, json!([{"name": "sql", "port": 3306}]));
    check(&service, &[both], "name - 10.244.0.5 sql=3306\nname db-0 10.244.0.6 sql=3306\n");
}

#[test]
fn other_names_and_services_without_an_address() {
    let external = json!({"type": "ExternalName", "externalName": "db.example.org."});
    check(&service_of(external, json!({})), &[], "name -> db.example.org\n");
    check(&service_of(json!({"ports": [{"port": 80}]}), json!({})), &[], "");
}

#[test]
fn the_clusters_name_service_leads_to_our_own_server() {
    let mut service = service_of(
        json!({"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}),
        json!({}),
    );
    service.metadata.namespace = Some("kube-system".into());
    service.metadata.name = Some("kube-dns".into());
    check(
        &service,
        &[],
        "kube-system/kube-dns:dns udp/53 inside [10.96.0.10] outside [] node None None -> 10.244.0.1:53 here\n\
         name [10.96.0.10] dns=53\n",
    );
}

#[test]
fn a_restricted_load_balancer_is_closed_and_says_so() {
    let service = service_of(
        json!({
            "clusterIP": "10.96.0.9", "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "ports": [{"port": 80}]
        }),
        json!({"loadBalancer": {"ingress": [{"ip": "172.18.0.1"}]}}),
    );
    let compiled = compile::service(&Facts::default(), &service, &[] as &[EndpointSlice]);
    assert!(compiled.rules[0].1.external_addresses.is_empty());
    assert!(compiled.complaints[0].contains("loadBalancerSourceRanges"));
}

#[test]
fn the_nodes_own_ports_are_not_taken() {
    let service = service_of(
        json!({
            "clusterIP": "10.96.0.9", "type": "LoadBalancer", "externalIPs": ["172.18.0.1", "192.0.2.7"],
            "ports": [{"port": 10250, "name": "a"}, {"port": 80, "name": "b"}]
        }),
        json!({}),
    );
    let own = vec!["172.18.0.1:10250".parse().expect("an address")];
    let facts = Facts { own, ..Facts::default() };
    let compiled = compile::service(&facts, &service, &[] as &[EndpointSlice]);
    let served: Vec<(u16, usize)> = compiled
        .rules
        .iter()
        .map(|(_, service)| (service.port, service.external_addresses.len()))
        .filter(|(_, addresses)| *addresses > 0)
        .collect();
    assert_eq!(served, [(10250, 1), (80, 2)]);
    assert!(compiled.complaints[0].contains("port 10250 of 172.18.0.1"));
}

#[test]
fn balancers_hear_of_the_ready_endpoints_of_this_node() {
    let spec = |kind: &str, policy: &str| {
        json!({
            "clusterIP": "10.96.0.9", "type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": 30777,
            "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]
        })
    };
    let endpoints = json!([
        (on("n1", "10.244.0.5", true, false)),
        (on("n1", "10.244.0.6", false, true)),
        (on("n1", "10.244.0.7", true, false)),
        (on("n2", "10.244.1.5", true, false))
    ]);
    let slices = [slice(endpoints, json!([{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]))];
    let facts = Facts { node: "n1".into(), ..Facts::default() };
    let health = |spec| compile::service(&facts, &service_of(spec, json!({})), &slices).health;
    assert_eq!(health(spec("LoadBalancer", "Local")), Some(Check { port: 30777, endpoints: 2 }));
    assert_eq!(health(spec("LoadBalancer", "Cluster")), None);
    assert_eq!(health(spec("NodePort", "Local")), None);
}

#[test]
fn a_load_balancer_without_an_address_claims_its_ports_at_the_nodes_addresses() {
    let facts = Facts { addresses: vec![[192, 0, 2, 1].into()], ..Facts::default() };
    let claims = |kind: &str, class: Value, status: Value| {
        let ports = json!([{"port": 80, "name": "a"}, {"port": 53, "name": "b", "protocol": "UDP"}]);
        let spec =
            json!({"clusterIP": "10.96.0.9", "type": kind, "loadBalancerClass": class, "ports": ports});
        let compiled = compile::service(&facts, &service_of(spec, status), &[] as &[EndpointSlice]);
        compiled.claims.iter().map(ports::spelled).collect::<Vec<String>>()
    };
    let none = Vec::<String>::new();
    let waiting = claims("LoadBalancer", Value::Null, json!({}));
    assert_eq!(waiting, ["192.0.2.1:80/TCP", "192.0.2.1:53/UDP"]);
    let placed = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    assert_eq!(claims("LoadBalancer", Value::Null, placed), none);
    assert_eq!(claims("LoadBalancer", json!("example.com/x"), json!({})), none);
    assert_eq!(claims("NodePort", Value::Null, json!({})), none);
}

#[test]
fn a_change_of_one_endpoint_shares_all_other_services() {
    let compiled = |last: &[u8]| {
        let rules = |name: &str, last: &[u8]| {
            let endpoints = last.iter().map(|n| net::rules::Endpoint {
                address: SocketAddr::from(([10, 244, 0, *n], 80)),
                local: true,
            });
            let service = VirtualService {
                protocol: Protocol::Tcp,
                port: 80,
                cluster_addresses: Vec::new(),
                external_addresses: Vec::new(),
                node_port: None,
                endpoints: endpoints.collect(),
                affinity: net::rules::Affinity::None,
                internal_policy: net::rules::TrafficPolicy::Cluster,
                external_policy: net::rules::TrafficPolicy::Cluster,
            };
            Compiled { rules: vec![(ServiceKey(name.into()), service)], ..Compiled::default() }
        };
        BTreeMap::from([(Key::new("a", "x"), rules("x", last)), (Key::new("a", "y"), rules("y", &[9]))])
    };
    let none = Taken::new();
    let before = ruleset(&Frame::default(), compiled(&[1, 2, 3]).values(), None, &none);
    let after = ruleset(&Frame::default(), compiled(&[1, 3, 4]).values(), Some(&before), &none);
    let (x, y) = (ServiceKey("x".into()), ServiceKey("y".into()));
    assert!(Arc::ptr_eq(&before.services[&y], &after.services[&y]));
    let places: Vec<String> = after.services[&x].endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(places, ["10.244.0.1:80", "10.244.0.4:80", "10.244.0.3:80"]);
}
