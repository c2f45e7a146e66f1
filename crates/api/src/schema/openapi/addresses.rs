//! The documents of what is no resource: where discovery, version and keys are.

use super::paths::{OBJECTS, group_word, responses, tag};
use super::{Dialect, root};
use crate::json;
use crate::table::{kinds, types};
use crate::value::Value;

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The resources of a group and version.
    Version(&'static str, &'static str),
    /// The versions of a group; those of the core if it is empty.
    Group(&'static str),
    /// The groups.
    Groups,
    /// The version of the server.
    ServerVersion,
    /// The keys that sign tokens.
    Keys,
    /// Who issues tokens.
    Issuer,
}

impl Subject {
    /// All of them, in no order that means anything.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let of_group = |group: &'static crate::table::Group| {
            let versions = group.versions.iter().map(|version| Self::Version(group.name, version));
            versions.chain([Self::Group(group.name)])
        };
        let others = [Self::Groups, Self::ServerVersion, Self::Keys, Self::Issuer];
        kinds().groups().iter().flat_map(of_group).chain(others)
    }

    /// The path below `/openapi/v3/`, which is also that of what is described.
    pub(super) fn path(self) -> String {
        match self {
            Self::Version(group, version) => root(group, version)[1..].to_owned(),
            Self::Group("") => "api".to_owned(),
            Self::Group(group) => format!("apis/{group}"),
            Self::Groups => "apis".to_owned(),
            Self::ServerVersion => "version".to_owned(),
            Self::Keys => "openid/v1/jwks".to_owned(),
            Self::Issuer => ".well-known/openid-configuration".to_owned(),
        }
    }

    /// The type of the answer; none for a text.
    pub(super) fn answer(self) -> Option<&'static str> {
        match self {
            Self::Version(..) => Some("meta/v1.APIResourceList"),
            Self::Group("") => Some("meta/v1.APIVersions"),
            Self::Group(_) => Some("meta/v1.APIGroup"),
            Self::Groups => Some("meta/v1.APIGroupList"),
            Self::ServerVersion | Self::Keys | Self::Issuer => None,
        }
    }

    /// The path with the one operation that it has.
    pub(super) fn operation(self, dialect: Dialect) -> (String, Value) {
        let (id, tag, words) = match self {
            Self::Version(group, version) => (
                format!("get{}{}APIResources", group_word(group), version.replacen('v', "V", 1)),
                format!("{}_{version}", tag(group)),
                "what resources there are",
            ),
            Self::Group("") => {
                ("getCoreAPIVersions".to_owned(), "core".to_owned(), "what versions there are")
            }
            Self::Group(group) => {
                (format!("get{}APIGroup", group_word(group)), tag(group), "what versions the group has")
            }
            Self::Groups => ("getAPIVersions".to_owned(), "apis".to_owned(), "what groups there are"),
            Self::ServerVersion => {
                ("getCodeVersion".to_owned(), "version".to_owned(), "which version the server is of")
            }
            Self::Keys => (
                "getServiceAccountIssuerOpenIDKeyset".to_owned(),
                "openid".to_owned(),
                "the keys by which tokens of service accounts are verified",
            ),
            Self::Issuer => (
                "getServiceAccountIssuerOpenIDConfiguration".to_owned(),
                "WellKnown".to_owned(),
                "who issues the tokens of service accounts, as OpenID Connect discovers it",
            ),
        };
        let gives: &[&str] = match self {
            Self::ServerVersion | Self::Issuer => &["application/json"],
            Self::Keys => &["application/jwk-set+json"],
            _ => OBJECTS,
        };
        let answer = match self {
            Self::ServerVersion => SERVER_VERSION.to_owned(),
            _ => {
                let ty = self.answer().and_then(|name| types().find(name));
                ty.map(|ty| types().openapi_name(types().get(ty))).unwrap_or_default()
            }
        };
        let mut get = json!({"description": words, "operationId": id, "tags": (vec![tag])});
        if dialect == Dialect::V2 && !matches!(self, Self::Keys | Self::Issuer) {
            get.set(&["consumes"], gives.to_vec());
        }
        responses(dialect, &["200"], gives, &answer, &mut get);
        let mut out = Value::object();
        out.set(&["get"], get);
        (format!("/{}/", self.path()), out)
    }
}

/// The name of the schema of the server's version, which is no type of the API.
const SERVER_VERSION: &str = "io.k8s.apimachinery.pkg.version.Info";

/// That schema with its name.
pub(super) fn server_version(dialect: Dialect) -> (String, Value) {
    let needed = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    let others = ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];
    let mut out =
        json!({"description": "What a server says of the version that it is of.", "type": "object"});
    for name in needed.iter().chain(&others) {
        out.set(&["properties", name, "type"], "string");
        if dialect == Dialect::V3 && needed.contains(name) {
            out.set(&["properties", name, "default"], "");
        }
    }
    out.set(&["required"], needed.to_vec());
    (SERVER_VERSION.to_owned(), out)
}
