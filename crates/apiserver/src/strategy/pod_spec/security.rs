//! Users, groups and profiles.

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{text, volumes};
use crate::strategy::words;

fn ids(context: &Value, fields: &[&str], path: &Path, causes: &mut Vec<Cause>) {
    for field in fields {
        if let Some(id) = context.int_at(&[field]) {
            let wrong = names::is_user_or_group_id(id);
            causes.extend(wrong.iter().map(|why| cause::invalid(path.child(field), id, why)));
        }
    }
}

pub(super) fn pod(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(context) = spec.get("securityContext").filter(|context| !context.is_null()) else { return };
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], path, causes);
    for (index, group) in
        context.array_at(&["supplementalGroups"]).iter().filter_map(Value::as_int).enumerate()
    {
        let wrong = names::is_user_or_group_id(group);
        let path = path.child("supplementalGroups").index(index);
        causes.extend(wrong.iter().map(|why| cause::invalid(&path, group, why)));
    }
    seccomp(context, &path.child("seccompProfile"), causes);
}

pub(super) fn container(context: &Value, spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    ids(context, &["runAsUser", "runAsGroup"], path, causes);
    let own_users = spec.bool_at(&["hostUsers"]) == Some(false);
    if text(context, "procMount") == "Unmasked" && !own_users {
        let why = "`hostUsers` must be false to use `Unmasked`";
        causes.push(cause::invalid(path.child("procMount"), "Unmasked", why));
    }
    seccomp(context, &path.child("seccompProfile"), causes);
    let forbids = context.bool_at(&["allowPrivilegeEscalation"]) == Some(false);
    if forbids && context.bool_at(&["privileged"]) == Some(true) {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        causes.push(cause::invalid(path, context.clone(), why));
    }
    let adds = context.array_at(&["capabilities", "add"]);
    if forbids && adds.iter().any(|capability| capability.as_str() == Some("CAP_SYS_ADMIN")) {
        let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        causes.push(cause::invalid(path, context.clone(), why));
    }
}

fn seccomp(context: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(profile) = context.get("seccompProfile").filter(|profile| !profile.is_null()) else { return };
    let local = profile.str_at(&["localhostProfile"]);
    let path = path.child("localhostProfile");
    match (text(profile, "type"), local) {
        ("Localhost", None) => {
            causes.push(cause::required(path, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(local)) => volumes::descending(local, &path, causes),
        (_, Some(_)) => {
            let members =
                [("Type", profile.get("type")), ("LocalhostProfile", profile.get("localhostProfile"))];
            let why = "can only be set when seccomp type is Localhost";
            causes.push(words::shown("FieldValueInvalid", &path, "Invalid value", &members, why));
        }
        (_, None) => {}
    }
}
