//! What operations and parameters say of themselves. No dependency has upstream's words for them; these are ours, but
//! for parameters that the options of a deletion describe.

use crate::schema::descriptions::Descriptions;

/// The options whose fields some parameters are.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

const PARAMETERS: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "Allow the watch to send bookmarks, which tell how far it is."),
    ("command", "The program that is run, and its arguments one by one."),
    ("container", "The container whose log is read; the only one if none is named."),
    ("continue", "Where the next page begins, as the last one said."),
    ("dryRun", "All: do everything but keep the outcome."),
    ("fieldManager", "Who makes the change, for managedFields; by default the program of the user agent."),
    ("fieldSelector", "A selector to restrict the list of returned objects by their fields."),
    ("fieldValidation", "What happens to fields that are unknown or doubled: Ignore, Warn or Strict."),
    ("follow", "Go on with what the container writes."),
    ("force", "Take fields over from other managers; for apply only."),
    ("insecureSkipTLSVerifyBackend", "Do not check the certificate of the node."),
    ("labelSelector", "A selector to restrict the list of returned objects by their labels."),
    ("limit", "The largest number of objects in an answer."),
    ("limitBytes", "The largest number of bytes of the log."),
    ("name", "Name of the object."),
    ("namespace", "The namespace of the objects."),
    ("path", "The path that is asked for at the other side."),
    ("ports", "The ports to reach; for clients that speak no SPDY."),
    ("pretty", "Indent the answer; the default for curl, wget and browsers."),
    ("previous", "The log of the container's last run."),
    ("resourceVersion", "The revision that the answer must not be older than, or must be of."),
    ("resourceVersionMatch", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "Begin the watch with an event for each object that is there."),
    (
        "shardSelector",
        "Which part of the objects, by a range of hashes; not served, as without the gate upstream.",
    ),
    ("sinceSeconds", "Only lines of the last seconds."),
    ("stderr", "Pass the errors of the program on."),
    ("stdin", "Pass the client's input to the program."),
    ("stdout", "Pass the output of the program on."),
    ("stream", "Which stream of the container: All, Stdout or Stderr."),
    ("tailLines", "Only so many lines from the end."),
    ("timeoutSeconds", "How long the request may last."),
    ("timestamps", "Begin each line with its time."),
    ("tty", "Give the program a terminal."),
    ("watch", "Watch for changes to the described resources: a stream of events instead of a list."),
];

/// What is said of a parameter.
pub(super) fn parameter<'a>(words: &Descriptions<'a>, name: &str) -> Option<&'a str> {
    let own = PARAMETERS.iter().find(|(known, _)| *known == name).map(|(_, words)| *words);
    own.or_else(|| words.of(DELETE_OPTIONS, name))
}

/// What is said of a member of a type.
pub(super) fn field<'a>(words: &Descriptions<'a>, ty: &str, name: &str) -> Option<&'a str> {
    words.of(ty, name).or_else(|| {
        let is_event = name == "object" && ty.ends_with(".WatchEvent");
        is_event.then_some(
            "The object as it is now, as it was last if it is gone, or a Status if something failed.",
        )
    })
}

/// What an operation does. `below` is none for a collection, else what comes behind the name.
pub(super) fn operation(action: &str, method: &str, kind: &str, below: Option<&str>) -> String {
    let object = match below {
        None | Some("") => kind.to_owned(),
        Some(sub) => format!("{sub} of a {kind}"),
    };
    match action {
        "watch" => format!("watch: {object}; a watch parameter of a list does the same"),
        "watchlist" => format!("watch objects of kind {object}; a watch parameter of a list does the same"),
        "list" => format!("list or watch objects of kind {object}"),
        "post" => format!("create: {object}"),
        "deletecollection" => format!("delete a collection of {object}"),
        "connect" => format!("connect by {} to {object}", method.to_uppercase()),
        "get" => format!("read: {object}"),
        "put" => format!("replace: {object}"),
        other => format!("{other}: {object}"),
    }
}

/// What the items of a list are, by the name of the resource.
pub(super) fn items(resource: &str) -> String {
    format!("List of {resource}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::descriptions::unpack;

    #[test]
    fn parameters_and_operations_are_described() {
        let text = unpack();
        let words = Descriptions::read(&text);
        assert!(parameter(&words, "gracePeriodSeconds").unwrap().contains("duration in seconds"));
        assert!(parameter(&words, "limit").is_some() && parameter(&words, "none").is_none());
        assert_eq!(operation("get", "get", "Pod", Some("log")), "read: log of a Pod");
        assert_eq!(operation("connect", "post", "Pod", Some("exec")), "connect by POST to exec of a Pod");
    }
}
