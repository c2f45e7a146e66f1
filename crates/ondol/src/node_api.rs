//! The API as the node of `ondol up` sees it: in process, but for what the gate judges by a name in a selector.
//!
//! A node may watch single ConfigMaps and Secrets, which it names by `metadata.name=...`. Over HTTPS the gate reads
//! that name from the selector; in process it has the collection alone and refuses. These watches are few and small,
//! so they take the road that every other node takes.

use std::sync::Arc;

use api::interface::{Answer, Api, Call, Collection, Watch, WatchStream};
use api::names::{CONFIG_MAPS, SECRETS};
use api::status::Status;
use futures::future::BoxFuture;

/// One identity over two roads.
pub struct NodeApi {
    /// In process.
    pub near: Arc<dyn Api>,
    /// Over HTTPS.
    pub far: Arc<dyn Api>,
}

impl NodeApi {
    fn road(&self, collection: &Collection) -> &Arc<dyn Api> {
        let by_name = collection.resource == CONFIG_MAPS || collection.resource == SECRETS;
        if by_name { &self.far } else { &self.near }
    }
}

impl Api for NodeApi {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        match &call {
            Call::List(collection, _) => self.road(collection).call(call),
            _ => self.near.call(call),
        }
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        self.road(&watch.collection).watch(watch)
    }
}
