//! Kinds as they are served.

use std::collections::HashMap;

use super::types::TypeId;

/// All kinds that are served without a custom definition.
#[derive(Debug, Default)]
pub struct Kinds {
    pub(super) all: Vec<KindFacts>,
    pub(super) groups: Vec<Group>,
    pub(super) by_resource: HashMap<(&'static str, &'static str, &'static str), usize>,
    pub(super) by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

/// An API group.
#[derive(Debug)]
pub struct Group {
    /// Its name; empty for the core.
    pub name: &'static str,
    /// Its versions, the preferred one first.
    pub versions: Vec<&'static str>,
}

/// One resource in one version.
#[derive(Debug)]
pub struct KindFacts {
    /// API group; empty for the core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind, as `Pod`.
    pub kind: &'static str,
    /// Plural name in URLs.
    pub resource: &'static str,
    /// Singular name, for command lines.
    pub singular: &'static str,
    /// Its struct.
    pub ty: TypeId,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<&'static str>,
    /// Short names, for command lines.
    pub short_names: Vec<&'static str>,
    /// Groups of resources, for command lines, as `all`.
    pub categories: Vec<&'static str>,
    /// How it is stored; none for what is only asked or answered, as a TokenReview.
    pub storage: Option<Storage>,
    /// What hangs below an object of it.
    pub subresources: Vec<Subresource>,
    /// The columns of its table.
    pub columns: Vec<Column>,
    /// The fields that a field selector may name.
    pub selectable: Vec<&'static str>,
}

/// How objects of a kind are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Group of the stored version (core Events and those of `events.k8s.io` are stored as one).
    pub group: &'static str,
    /// The stored version.
    pub version: &'static str,
    /// The word by which discovery lets clients see that two resources are stored alike.
    pub hash: &'static str,
}

/// What hangs below an object: `pods/log`.
#[derive(Debug)]
pub struct Subresource {
    /// Name in URLs, as `scale`.
    pub name: &'static str,
    /// Group of the kind that it takes and gives.
    pub group: &'static str,
    /// Version of that kind.
    pub version: &'static str,
    /// That kind.
    pub kind: &'static str,
    /// What can be done with it.
    pub verbs: Vec<&'static str>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// OpenAPI type of its cells.
    pub ty: &'static str,
    /// OpenAPI format of its cells; `name` marks the object's name.
    pub format: &'static str,
    /// 0 is always shown, 1 in wide output.
    pub priority: u8,
    /// The field whose description is the column's, as `core/v1.PodSpec.nodeName`; empty if it has words of its own.
    pub field: &'static str,
}

impl Kinds {
    /// All kinds, in upstream's order of groups, versions and resources.
    pub fn iter(&self) -> impl Iterator<Item = &KindFacts> {
        self.all.iter()
    }

    /// The groups, in upstream's order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// What a URL names.
    pub fn by_resource(&self, group: &str, version: &str, resource: &str) -> Option<&KindFacts> {
        self.by_resource.get(&(group, version, resource)).map(|at| &self.all[*at])
    }

    /// What an object says of itself.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&KindFacts> {
        self.by_kind.get(&(group, version, kind)).map(|at| &self.all[*at])
    }

    /// A resource in its group's preferred version.
    pub fn preferred(&self, group: &str, resource: &str) -> Option<&KindFacts> {
        let versions = &self.groups.iter().find(|other| other.name == group)?.versions;
        versions.iter().find_map(|version| self.by_resource(group, version, resource))
    }

    /// The other resources whose objects are stored as this one's are (the two Events, the versions of autoscaling).
    pub fn equivalents<'a>(&'a self, of: &'a KindFacts) -> impl Iterator<Item = &'a KindFacts> {
        self.all
            .iter()
            .filter(|other| of.storage.is_some() && other.storage == of.storage && !std::ptr::eq(*other, of))
    }
}

impl KindFacts {
    /// What hangs below under that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether it has a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}
