//! The storm's way to the server: a client that takes no 500 for ordinary.

use std::sync::Arc;

use api::interface::{Answer, Api, Call, Watch, WatchStream};
use api::status::Status;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::record::Record;

/// A client whose answers are recorded as far as they are faults.
pub struct Recorded {
    /// The client itself.
    pub api: Arc<dyn Api>,
    /// Where faults go.
    pub record: Arc<Record>,
}

/// A server that is killed gives no answer, and one that starts says 503; but who asks as we do never gets a 500.
fn is_fault(status: &Status) -> bool {
    status.code >= 500 && !matches!(status.code, 503 | 504)
}

impl Api for Recorded {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        async move {
            let what = format!("{call:?}");
            let answer = self.api.call(call).await;
            if let Err(status) = &answer
                && is_fault(status)
            {
                self.record.fault(format!("the server answered {}: {status}; to {what}", status.code));
            }
            answer
        }
        .boxed()
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        self.api.watch(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::status::Reason;

    #[test]
    fn a_500_is_a_fault_and_what_a_killed_server_leaves_is_none() {
        let is = |reason| is_fault(&Status::new(reason, "no"));
        assert!(is(Reason::InternalError) && is_fault(&Status::internal("it panicked")));
        assert!(!is(Reason::ServiceUnavailable) && !is(Reason::Timeout) && !is(Reason::NotFound));
    }
}
