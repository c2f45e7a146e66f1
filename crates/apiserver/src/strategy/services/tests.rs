use api::json;
use api::names::{IP_ADDRESSES, Resource, SERVICE_CIDRS, SERVICES};
use api::value::Value;

use super::*;
use crate::identity::Identity;
use crate::lookups::fake::Fake;

fn cluster(mut others: Vec<(Resource, Value)>) -> Fake {
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}});
    others.push((SERVICE_CIDRS, range));
    Fake::new(others)
}

/// A service as the table leaves it.
fn service(spec: Value) -> Value {
    let mut service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}});
    service.set(&["spec"], spec);
    let ty = api::table::types().of_kind("", "v1", "Service").unwrap();
    api::schema::apply_defaults(ty, &mut service);
    service
}

fn create(spec: Value, lookups: &Fake) -> Result<(Value, Vec<Companion>), String> {
    let context = Context { identity: &Identity::admin(), lookups, subresource: "", dry_run: false };
    let mut service = service(spec);
    Services.prepare_create(&mut service, &context);
    finish(&mut service, None, &context)
}

fn update(spec: Value, old: &Value, lookups: &Fake) -> Result<(Value, Vec<Companion>), String> {
    let context = Context { identity: &Identity::admin(), lookups, subresource: "", dry_run: false };
    let mut service = service(spec);
    Services.prepare_update(&mut service, old, &context);
    finish(&mut service, Some(old), &context)
}

fn finish(
    service: &mut Value,
    old: Option<&Value>,
    context: &Context<'_>,
) -> Result<(Value, Vec<Companion>), String> {
    let mut causes = Services.validate(service, context);
    causes.extend(old.map(|old| Services.validate_update(service, old, context)).unwrap_or_default());
    if !causes.is_empty() {
        return Err(causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    let companions = Services.allocate(service, old, context).map_err(|status| status.message)?;
    Ok((service.clone(), companions))
}

const PORTS: &str = r#"[{"port": 80}]"#;

fn ports() -> Value {
    api::value::parse(PORTS.as_bytes()).unwrap()
}

fn spec(pairs: &[(&str, Value)]) -> Value {
    let mut spec = Value::object();
    spec.set(&["ports"], ports());
    for (key, value) in pairs {
        spec.set(&[key], value.clone());
    }
    spec
}

#[test]
fn a_service_gets_an_address_of_the_upper_band_and_its_object() {
    let (service, companions) = create(spec(&[]), &cluster(Vec::new())).unwrap();
    let address = service.str_at(&["spec", "clusterIP"]).unwrap();
    let parsed: std::net::Ipv4Addr = address.parse().unwrap();
    assert!(parsed.to_bits() > std::net::Ipv4Addr::new(10, 96, 1, 0).to_bits(), "{address}");
    assert_eq!(service.array_at(&["spec", "clusterIPs"]), [Value::from(address)]);
    assert_eq!(service.array_at(&["spec", "ipFamilies"]), [Value::from("IPv4")]);
    assert_eq!(service.str_at(&["spec", "ipFamilyPolicy"]), Some("SingleStack"));
    let [Companion::Create { resource, object }] = companions.as_slice() else { panic!("{companions:?}") };
    assert_eq!(resource, &IP_ADDRESSES);
    assert_eq!(object.str_at(&["metadata", "name"]), Some(address));
    assert_eq!(object.str_at(&["spec", "parentRef", "name"]), Some("s"));
}

#[test]
fn addresses_that_cannot_be_had_are_refused_as_upstream_does() {
    let taken =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.96.0.9"}});
    let lookups = cluster(vec![(IP_ADDRESSES, taken)]);
    let check = |address: &str, expect: &str| {
        let error = create(spec(&[("clusterIP", address.into())]), &lookups).unwrap_err();
        assert_eq!(error, expect);
    };
    check(
        "10.96.0.9",
        "Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: failed to allocate IP 10.96.0.9: \
         provided IP is already allocated",
    );
    check(
        "1.2.3.4",
        "Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to allocate IP 1.2.3.4: the \
         provided network does not match the current range",
    );
    check(
        "fd00::1",
        "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
    );
    check(
        "nonsense",
        "spec.clusterIPs[0]: Invalid value: \"nonsense\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
    );
}

#[test]
fn headless_services_and_names_get_no_address() {
    let lookups = cluster(Vec::new());
    let selector = json!({"app": "a"});
    let (service, companions) =
        create(spec(&[("clusterIP", "None".into()), ("selector", selector)]), &lookups).unwrap();
    assert_eq!(service.array_at(&["spec", "clusterIPs"]), [Value::from("None")]);
    assert!(companions.is_empty());
    let (service, _) = create(spec(&[("clusterIP", "None".into())]), &lookups).unwrap();
    assert_eq!(service.str_at(&["spec", "ipFamilyPolicy"]), Some("RequireDualStack"));
    assert_eq!(service.array_at(&["spec", "ipFamilies"]).len(), 2);
    let (service, companions) =
        create(json!({"type": "ExternalName", "externalName": "example.org."}), &lookups).unwrap();
    assert_eq!(service.at(&["spec", "clusterIP"]), None);
    assert!(companions.is_empty());
}

#[test]
fn a_change_to_a_name_gives_the_address_back() {
    let lookups = cluster(Vec::new());
    let (old, _) = create(spec(&[("type", "NodePort".into())]), &lookups).unwrap();
    let mut wanted = old.get("spec").unwrap().clone();
    wanted.set(&["type"], "ExternalName");
    wanted.set(&["externalName"], "example.org");
    let (new, companions) = update(wanted, &old, &lookups).unwrap();
    assert_eq!(new.at(&["spec", "clusterIP"]), None);
    assert_eq!(new.array_at(&["spec", "ports"])[0].get("nodePort"), None);
    let address = old.str_at(&["spec", "clusterIP"]).unwrap();
    assert!(
        matches!(companions.as_slice(), [Companion::Delete { name, .. }] if name == address),
        "{companions:?}"
    );
}

#[test]
fn what_an_update_leaves_out_stays() {
    let lookups = cluster(Vec::new());
    let (old, _) = create(spec(&[("type", "NodePort".into())]), &lookups).unwrap();
    let (new, companions) = update(spec(&[("type", "NodePort".into())]), &old, &lookups).unwrap();
    assert_eq!(new.get("spec"), old.get("spec"));
    assert!(companions.is_empty());
    let error = update(spec(&[("clusterIP", "10.96.7.7".into())]), &old, &lookups).unwrap_err();
    assert_eq!(error, "spec.clusterIPs[0]: Invalid value: [\"10.96.7.7\"]: may not change once set");
}

#[test]
fn node_ports_are_of_the_range_and_given_once() {
    let mut other = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]}));
    other.set(&["metadata", "name"], "other");
    let lookups = cluster(vec![(SERVICES, other)]);
    let with = |port: i64| {
        let mut ports = json!([{"port": 80}]);
        ports.as_array_mut().unwrap()[0].set(&["nodePort"], port);
        create(spec(&[("type", "NodePort".into()), ("ports", ports)]), &lookups)
    };
    let refused = |port: i64| with(port).unwrap_err();
    assert_eq!(
        refused(30080),
        "Service \"s\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    assert_eq!(
        refused(80),
        "Service \"s\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid \
         range. The range of valid ports is 30000-32767"
    );
    assert!(with(30081).is_ok());
    let both =
        json!([{"name": "a", "port": 53, "protocol": "TCP"}, {"name": "b", "port": 53, "protocol": "UDP"}]);
    let (service, _) = create(spec(&[("type", "NodePort".into()), ("ports", both)]), &lookups).unwrap();
    let given = fields::node_ports(&service);
    assert_eq!(given[0], given[1]);
    assert!((30086..=32767).contains(&given[0]), "{given:?}");
}

#[test]
fn wrong_services_are_named_as_upstream_does() {
    let lookups = cluster(Vec::new());
    let check = |spec: Value, expect: &str| {
        assert_eq!(create(spec, &lookups).map(|(service, _)| service).unwrap_err(), expect);
    };
    check(json!({}), "spec.ports: Required value");
    check(
        json!({"ports": [{"port": 80}, {"port": 80}]}),
        "spec.ports[0].name: Required value; spec.ports[1].name: Required value; spec.ports[1]: Duplicate value: \
         {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
    );
    check(
        json!({"ports": [{"port": 80, "nodePort": 30000}]}),
        "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
    );
    check(json!({"type": "ExternalName"}), "spec.externalName: Required value");
    check(
        json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}),
        "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
         services",
    );
    check(
        json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
        "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
    );
}
