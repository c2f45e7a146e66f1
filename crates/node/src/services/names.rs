//! Names of Services, as the name server answers them.

use std::sync::Arc;

use api::names::NAMESPACES;
use base::Stop;
use net::dns;
use tracing::{info, warn};

use super::Services;

impl Services {
    /// Publishes the names if they have changed, and starts the server if it has not begun before.
    pub(super) async fn apply_names(&mut self, stop: &Stop) -> bool {
        let Some(config) = &self.settings.dns else { return true };
        let zone = self.zone();
        if self.applied.zone.as_deref() == Some(&zone) {
            return true;
        }
        match &self.applied.names {
            Some(server) => server.publish(zone.clone()),
            None => {
                let (clock, random) = (self.clock.clone(), self.random.clone());
                let started =
                    dns::Server::start(config, zone.clone(), &self.tasks, stop.clone(), clock, random);
                match started.await {
                    Ok(server) => {
                        info!(addresses = ?server.addresses(), "names are answered");
                        self.applied.names = Some(server);
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "the name server does not start");
                        return false;
                    }
                }
            }
        }
        let zone = Arc::new(zone);
        self.memory.tell(zone.clone());
        self.applied.zone = Some(zone);
        true
    }

    fn zone(&self) -> dns::Zone {
        let mut zone = dns::Zone::new(&self.settings.domain);
        let namespaces = self.world.list(&NAMESPACES, "");
        zone.namespaces = namespaces.iter().map(|namespace| namespace.name().to_owned()).collect();
        let named = self.compiled.iter().filter_map(|(key, compiled)| {
            Some(((key.namespace.to_string(), key.name.to_string()), compiled.name.clone()?))
        });
        zone.services = named.collect();
        zone
    }
}
