//! A look at an object's text before a tree of it is made.

use api::object::Object;

/// Whether a key or a whole value is written in the object: most objects lack what a controller looks for, and of these
/// no tree need be read. A word that a user has written somewhere else counts too, so a tree has the last word.
pub fn mentions(object: &Object, word: &str) -> bool {
    let quoted = format!("\"{word}\"");
    memchr::memmem::find(object.body(), quoted.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;

    #[test]
    fn keys_and_whole_values_are_mentioned_and_parts_of_words_are_not() {
        let tree = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"hostPort": "word"}});
        let pod = Object::from_tree(&tree).unwrap();
        assert!(mentions(&pod, "hostPort") && mentions(&pod, "word"));
        assert!(!mentions(&pod, "host") && !mentions(&pod, "hostPorts"));
    }
}
