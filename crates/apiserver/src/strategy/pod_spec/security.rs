//! Users, groups and profiles.

use std::collections::HashSet;

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{text, volumes, windows};
use crate::strategy::words;

/// How long the name of a setting of the kernel may be.
const SYSCTL_NAME_BYTES: usize = 253;
/// How long the name of a profile of the kernel may be.
const APP_ARMOR_BYTES: usize = 4095;
/// What such a name looks like, in upstream's words.
const SYSCTL_NAME: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

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
    sysctls(context, &path.child("sysctls"), causes);
    seccomp(context, &path.child("seccompProfile"), causes);
    windows::options(context, path, causes);
    app_armor(context, &path.child("appArmorProfile"), causes);
}

fn sysctls(context: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let is_part = |part: &str| {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends = (part.bytes().next(), part.bytes().last());
        part.bytes().all(|byte| is_letter(byte) || matches!(byte, b'-' | b'_'))
            && matches!(ends, (Some(first), Some(last)) if is_letter(first) && is_letter(last))
    };
    let mut seen = HashSet::new();
    for (index, sysctl) in context.array_at(&["sysctls"]).iter().enumerate() {
        let (name, path) = (text(sysctl, "name"), path.index(index).child("name"));
        // The table says that a name is needed.
        if name.is_empty() {
            continue;
        }
        if name.len() > SYSCTL_NAME_BYTES || !name.split(['.', '/']).all(is_part) {
            let why =
                format!("must have at most {SYSCTL_NAME_BYTES} characters and match regex {SYSCTL_NAME}");
            causes.push(cause::invalid(path, name, &why));
        } else if !seen.insert(name) {
            causes.push(cause::duplicate(path, name));
        }
    }
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
    windows::options(context, path, causes);
    app_armor(context, &path.child("appArmorProfile"), causes);
}

/// The table knows the types.
fn app_armor(context: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(profile) = context.get("appArmorProfile").filter(|profile| !profile.is_null()) else { return };
    let path = path.child("localhostProfile");
    match (text(profile, "type"), profile.str_at(&["localhostProfile"])) {
        ("Localhost", None | Some("")) => {
            causes.push(cause::required(path, "must be set when AppArmor type is Localhost"));
        }
        ("Localhost", Some(local)) => {
            if local.trim() != local {
                causes.push(cause::invalid(&path, local, "must not be padded with whitespace"));
            }
            if local.len() > APP_ARMOR_BYTES {
                causes.push(cause::too_long(&path, APP_ARMOR_BYTES));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(local)) => {
            causes.push(cause::invalid(path, local, "can only be set when AppArmor type is Localhost"));
        }
        _ => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn settings_of_the_kernel_have_names() {
        let context = json!({"sysctls": [
            {"name": "net.ipv4/tcp_syncookies"}, {"name": "../x"}, {"name": "a..b"}, {"name": "net.ipv4/tcp_syncookies"}
        ]});
        let mut causes = Vec::new();
        sysctls(&context, &Path::root("s"), &mut causes);
        let fields: Vec<(&str, &str)> =
            causes.iter().map(|cause| (cause.field.as_str(), cause.reason.as_str())).collect();
        let invalid = "FieldValueInvalid";
        assert_eq!(
            fields,
            [("s[1].name", invalid), ("s[2].name", invalid), ("s[3].name", "FieldValueDuplicate")]
        );
    }
}
