//! What Kubernetes says of its types and fields, for `kubectl explain` and the headings of tables.
//!
//! The words are upstream's. `build.rs` takes them out of the dependency `k8s-openapi` and packs them; here they are
//! unpacked when somebody asks, and not kept. Of lists it has only what holds for all of them.
//!
//! The packed text: a line for each definition, and behind it a line for each field of it, which begins with a blank
//! and holds the field's name (none for the definition itself) and the number of a text; then the texts, a zero byte
//! before each.

use std::collections::HashMap;
use std::io::Read as _;

/// The packed text.
pub(crate) const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions"));
/// What holds for all lists.
const LIST: &str = "io.k8s.List";
/// A type that says what the members say that every kind has.
const ANY_KIND: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// Descriptions by type and field.
#[derive(Debug)]
pub struct Descriptions<'a>(HashMap<(&'a str, &'a str), &'a str>);

/// Unpacks the text that [`Descriptions::read`] takes; some 600 KB that nobody should keep.
pub fn unpack() -> String {
    let mut text = String::new();
    let read = flate2::read::ZlibDecoder::new(PACKED).read_to_string(&mut text);
    read.expect("build.rs has packed what is unpacked here");
    text
}

impl<'a> Descriptions<'a> {
    /// Reads an unpacked text.
    pub fn read(text: &'a str) -> Self {
        let (index, texts) = text.split_once('\0').unwrap_or((text, ""));
        let texts: Vec<&str> = texts.split('\0').collect();
        let mut found = HashMap::new();
        let mut name = "";
        for line in index.lines() {
            let Some((field, place)) = line.strip_prefix(' ').and_then(|rest| rest.split_once(' ')) else {
                name = line;
                continue;
            };
            let words = place.parse().ok().and_then(|place: usize| texts.get(place));
            found.insert((name, field), *words.expect("build.rs writes a text for every number"));
        }
        Self(found)
    }

    /// What is said of a field of a type, named as OpenAPI names it; with an empty field, of the type.
    pub fn of(&self, ty: &str, field: &str) -> Option<&'a str> {
        if let Some(words) = self.0.get(&(ty, field)) {
            return Some(words);
        }
        if !ty.ends_with("List") || self.0.contains_key(&(ty, "")) {
            return None;
        }
        let home = if matches!(field, "apiVersion" | "kind") { ANY_KIND } else { LIST };
        self.0.get(&(home, field)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_fields_and_lists_are_described() {
        let text = unpack();
        let all = Descriptions::read(&text);
        let pod = "io.k8s.api.core.v1.Pod";
        assert!(all.of(pod, "").unwrap().starts_with("Pod is a collection of containers"));
        assert!(all.of(pod, "spec").unwrap().contains("desired behavior of the pod"));
        assert!(all.of("io.k8s.api.core.v1.Container", "args").unwrap().contains("\"$(VAR_NAME)\""));
        assert!(all.of("io.k8s.apimachinery.pkg.api.resource.Quantity", "").unwrap().contains("\n\n"));
        assert_eq!(all.of("io.k8s.api.core.v1.PodList", "items"), Some("List of objects."));
        assert!(all.of("io.k8s.api.core.v1.PodList", "kind").unwrap().contains("CamelCase"));
        assert_eq!(all.of(pod, "none"), None);
        assert_eq!(all.of("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", "none"), None);
    }

    #[test]
    fn almost_every_field_of_the_table_is_described() {
        let (text, types) = (unpack(), crate::table::types());
        let all = Descriptions::read(&text);
        let (mut fields, mut described) = (0, 0);
        // What no document of upstream shows has no description either.
        for ty in types.iter() {
            let name = types.openapi_name(ty);
            if all.of(&name, "").is_some() {
                fields += ty.fields.len();
                described += ty.fields.iter().filter(|field| all.of(&name, field.name).is_some()).count();
            }
        }
        assert!(fields > 2_500 && described * 100 > fields * 97, "{described} of {fields}");
        assert!(PACKED.len() < 350_000, "{} bytes are too many for the binary", PACKED.len());
    }
}
