//! Services: linked fields, addresses and node ports.
//!
//! A service is a union told apart by `type`, whose members depend on one another; [`fields`] guesses what a client
//! meant as upstream does, [`validate`] judges, [`addresses`] and [`ports`] give and take back what is scarce.

pub(crate) mod addresses;
mod fields;
mod ports;
#[cfg(test)]
mod tests;
mod update;
mod validate;
mod warnings;

use api::status::{Cause, Status};
use api::value::Value;

use super::{Companion, Context, Strategy};

pub(super) struct Services;

impl Strategy for Services {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "services")]
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::all(new)
    }

    fn prepare_create(&self, object: &mut Value, context: &Context<'_>) {
        object.set(&["status"], api::json!({"loadBalancer": {}}));
        fields::normalize_created(object);
        fields::default_families(object, None, &addresses::Ranges::read(context.lookups));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        if !context.subresource.is_empty() {
            return;
        }
        fields::keep_allocated(new, old);
        fields::normalize_updated(new, old);
        fields::default_families(new, Some(old), &addresses::Ranges::read(context.lookups));
        fields::drop_unneeded(new, old);
    }

    fn validate(&self, object: &Value, context: &Context<'_>) -> Vec<Cause> {
        let causes = validate::families(object, &addresses::Ranges::read(context.lookups));
        // Of a policy that is none the table tells, and upstream then says no more.
        let known = ["", "SingleStack", "PreferDualStack", "RequireDualStack"];
        if !known.contains(&fields::text(object, "ipFamilyPolicy")) && !fields::is_external_name(object) {
            return causes;
        }
        if causes.is_empty() { validate::service(object) } else { causes }
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<Cause> {
        // What contradicts itself is not compared with what was there before.
        let is_wrong = || !validate::families(new, &addresses::Ranges::read(context.lookups)).is_empty();
        if !context.subresource.is_empty() || is_wrong() { Vec::new() } else { update::service(new, old) }
    }

    fn validate_status(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        validate::status(new)
    }

    fn allocate(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        context: &Context<'_>,
    ) -> Result<Vec<Companion>, Status> {
        let companions = addresses::allocate(new, old, context.lookups)?;
        ports::allocate(new, old, context)?;
        Ok(companions)
    }

    fn release(&self, old: &Value, _context: &Context<'_>) -> Vec<Companion> {
        addresses::release(fields::addresses(old).into_iter())
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn is_exclusive(&self) -> bool {
        true
    }
}
