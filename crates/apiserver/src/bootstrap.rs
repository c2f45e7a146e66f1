//! What must be there before anybody comes: upstream's bootstrap objects.
//!
//! [`run`] is called at each start. What is missing is made, what was bent is mended, and all else that others wrote
//! stays. It goes through the gate like everybody, so admission, defaults and allocation are the usual ones.

mod objects;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::interface::{Api, DeleteOptions, PatchKind, Target};
use api::json;
use api::names::{
    CONFIG_MAPS, ENDPOINT_SLICES, ENDPOINTS, NAMESPACES, PRIORITY_CLASSES, Resource, SERVICE_CIDRS, SERVICES,
};
use api::status::{Reason, Status};
use api::validation::address::Cidr;
use api::value::Value;

use crate::authn::legacy;
use crate::gate::Gate;
use crate::identity::Identity;

/// The name of the cluster's first ServiceCIDR.
const DEFAULT_CIDR: &str = "kubernetes";
/// Which address of the range the API has, and which the name server, counted from one.
const API_INDEX: u128 = 1;
const DNS_INDEX: u128 = 10;

/// What the objects depend on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where services get their addresses, as `10.96.0.0/16`.
    pub service_range: Cidr,
    /// Where pods reach this server behind the service `kubernetes`. Never a loopback address.
    pub api: SocketAddr,
    /// Where pods reach the name server behind the service `kube-dns`; none where somebody else serves names.
    pub dns: Option<SocketAddr>,
}

/// Why the cluster cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object could not be written.
    #[error("cannot make sure of {what}: {status}; the server's log says more")]
    Write {
        /// Which object.
        what: String,
        /// The gate's answer.
        status: Status,
    },
    /// The state is that of a cluster with another range.
    #[error(
        "this cluster was made with the service range {found}, not {wanted}; start with {found}, or with an empty data \
         directory"
    )]
    Range {
        /// The range of the state.
        found: String,
        /// The range of the configuration.
        wanted: String,
    },
}

impl Config {
    /// The address of the service `kubernetes`.
    pub fn api_service(&self) -> IpAddr {
        crate::strategy::address_of_range(&self.service_range, API_INDEX)
    }

    /// The address of the service `kube-dns`.
    pub fn dns_service(&self) -> IpAddr {
        crate::strategy::address_of_range(&self.service_range, DNS_INDEX)
    }

    fn range(&self) -> String {
        format!("{}/{}", self.service_range.network(), self.service_range.prefix)
    }
}

/// Makes sure that all bootstrap objects are there. Doing it twice changes nothing.
pub async fn run(gate: &Arc<Gate>, config: &Config) -> Result<(), Error> {
    let keeper = Keeper { api: gate.as_user(Identity::admin()) };
    for name in objects::NAMESPACES {
        keeper.ensure(&NAMESPACES, "", &objects::namespace(name), None).await?;
    }
    service_range(&keeper, config, &api::time::seconds(gate.now())).await?;
    for class in objects::priority_classes() {
        keeper.ensure(&PRIORITY_CLASSES, "", &class, None).await?;
    }
    let tracking = objects::token_tracking(&legacy::day(gate.now()));
    keeper.ensure(&CONFIG_MAPS, "kube-system", &tracking, None).await?;
    let (service, address) = (objects::api_service(config), config.api_service());
    keeper.service("default", &service, address).await?;
    let mend = |object: &Value, parts: &[&str]| objects::parts(object, parts);
    let endpoints = objects::api_endpoints(config);
    keeper.ensure(&ENDPOINTS, "default", &endpoints, Some(mend(&endpoints, &["subsets"]))).await?;
    let slice = objects::api_slice(config);
    keeper.ensure(&ENDPOINT_SLICES, "default", &slice, Some(mend(&slice, &["endpoints", "ports"]))).await?;
    if let Some(dns) = config.dns {
        let service = objects::dns_service(config);
        keeper.service("kube-system", &service, config.dns_service()).await?;
        let slice = objects::dns_slice(dns);
        let mended = mend(&slice, &["endpoints", "ports"]);
        keeper.ensure(&ENDPOINT_SLICES, "kube-system", &slice, Some(mended)).await?;
    }
    Ok(())
}

/// Publishes the authority that the gate believes clients by, where servers behind an API of their own look for it
/// (`kube-system/extension-apiserver-authentication`).
pub async fn publish_client_authority(gate: &Arc<Gate>, pem: &str) -> Result<(), Error> {
    let keeper = Keeper { api: gate.as_user(Identity::admin()) };
    let map = objects::client_authority(pem);
    keeper.ensure(&CONFIG_MAPS, "kube-system", &map, Some(objects::parts(&map, &["data"]))).await
}

/// The range cannot change under the services that have addresses of it.
async fn service_range(keeper: &Keeper, config: &Config, now: &str) -> Result<(), Error> {
    let wanted = config.range();
    let object = objects::service_range(&wanted);
    keeper.ensure(&SERVICE_CIDRS, "", &object, None).await?;
    let there = keeper.get(&SERVICE_CIDRS, "", DEFAULT_CIDR).await?.unwrap_or_default();
    let found: Vec<&str> = there.array_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
    if found.first() != Some(&wanted.as_str()) {
        return Err(Error::Range { found: found.join(","), wanted });
    }
    let is_ready = |condition: &Value| {
        condition.str_at(&["type"]) == Some("Ready") && condition.str_at(&["status"]) == Some("True")
    };
    if there.array_at(&["status", "conditions"]).iter().any(is_ready) {
        return Ok(());
    }
    let ready = json!({"status": {"conditions": [{
        "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
        "message": "Kubernetes default Service CIDR is ready"
    }]}});
    let target = Target::new(&SERVICE_CIDRS, "", DEFAULT_CIDR).subresource("status");
    keeper.patch(target, &ready).await
}

/// Writes objects as the administrator.
struct Keeper {
    api: Arc<dyn Api>,
}

fn name_of(object: &Value) -> &str {
    object.str_at(&["metadata", "name"]).unwrap_or_default()
}

fn failed(resource: &Resource, namespace: &str, name: &str) -> impl FnOnce(Status) -> Error + use<> {
    let what = if namespace.is_empty() {
        format!("{} {name}", resource.resource)
    } else {
        format!("{} {namespace}/{name}", resource.resource)
    };
    move |status| Error::Write { what, status }
}

impl Keeper {
    async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Option<Value>, Error> {
        match self.api.get(resource, namespace, name).await {
            Ok(object) => Ok(Some(object.to_tree())),
            Err(status) if status.reason == Reason::NotFound => Ok(None),
            Err(status) => Err(failed(resource, namespace, name)(status)),
        }
    }

    /// Makes an object, or mends it: `mended` is what must be so, as a merge patch.
    async fn ensure(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &Value,
        mended: Option<Value>,
    ) -> Result<(), Error> {
        let name = name_of(object);
        if self.get(resource, namespace, name).await?.is_none() {
            return match self.api.create(resource, namespace, object).await {
                Err(status) if status.reason != Reason::AlreadyExists => {
                    Err(failed(resource, namespace, name)(status))
                }
                _ => Ok(()),
            };
        }
        match mended {
            Some(patch) => self.patch(Target::new(resource, namespace, name), &patch).await,
            None => Ok(()),
        }
    }

    async fn patch(&self, target: Target, patch: &Value) -> Result<(), Error> {
        let error = failed(&target.resource, &target.namespace, &target.name);
        self.api.patch(target, PatchKind::Merge, patch).await.map(|_| ()).map_err(error)
    }

    /// A service whose address is known beforehand. An address never changes, so that a service with another one is
    /// made anew.
    async fn service(&self, namespace: &str, object: &Value, address: IpAddr) -> Result<(), Error> {
        let name = name_of(object);
        if let Some(there) = self.get(&SERVICES, namespace, name).await?
            && there.str_at(&["spec", "clusterIP"]) != Some(&address.to_string())
        {
            self.api
                .delete(&SERVICES, namespace, name, DeleteOptions::default())
                .await
                .map_err(failed(&SERVICES, namespace, name))?;
        }
        let mended = objects::service_parts(object);
        self.ensure(&SERVICES, namespace, object, Some(mended)).await
    }
}
