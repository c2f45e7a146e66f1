//! Who asks.

use api::value::Str;

/// The group of all who may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of all who showed who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of all who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of somebody without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of nodes' agents.
pub const NODES: &str = "system:nodes";
/// How a node's user name begins.
pub const NODE_PREFIX: &str = "system:node:";
/// How a ServiceAccount's user name begins.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Somebody who asks: a name and the groups it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// User name.
    pub name: Str,
    /// Empty, or a ServiceAccount's uid.
    pub uid: Str,
    /// Groups, `system:authenticated` among them for all but anonymous.
    pub groups: Vec<Str>,
    /// What authentication says beyond (`authentication.kubernetes.io/pod-name` and the like).
    pub extra: Vec<(Str, Vec<Str>)>,
}

impl Identity {
    /// An authenticated user in `groups`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<Str> = groups.iter().map(|group| Str::from(*group)).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The administrator that our own wiring acts as.
    pub fn admin() -> Self {
        Self::new("system:admin", &[MASTERS])
    }

    /// Somebody without credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// The agent of a node.
    pub fn node(name: &str) -> Self {
        Self::new(&format!("{NODE_PREFIX}{name}"), &[NODES])
    }

    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let mut identity = Self::new(
            &format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        );
        identity.uid = uid.into();
        identity
    }

    /// Whether it is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|other| other == group)
    }

    /// The node whose agent this is.
    pub fn node_name(&self) -> Option<&str> {
        if self.is_in(NODES) {
            self.name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty())
        } else {
            None
        }
    }
}
