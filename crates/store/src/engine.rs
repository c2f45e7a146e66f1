//! What differs between the places where a store keeps its memory.

use futures::future::BoxFuture;

use crate::error::{CommitError, ReadError};
use crate::key::Revision;
use crate::record::Record;
use crate::transaction::{Committed, Transaction};

/// Makes transactions durable and then visible. Reading and watching are the same for all engines and go to the
/// shared state, which an engine feeds.
pub(crate) trait Engine<R: Record>: Send + Sync {
    /// Resolves when the transaction is durable and visible, or will never be.
    fn commit(&self, transaction: Transaction<R>) -> BoxFuture<'_, Result<Committed<R>, CommitError<R>>>;

    /// Resolves when everything that any server had acknowledged before the call is visible here.
    fn current(&self) -> BoxFuture<'_, Result<Revision, CommitError<R>>>;

    /// Forgets history up to a revision.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>>;

    /// Takes no more commits, ends the watches, and resolves when all files are closed.
    fn close(&self) -> BoxFuture<'_, ()>;
}
