//! Finds the numbers of users in an image's own `/etc/passwd` and `/etc/group`. It blocks on the file system: call it
//! beside the runtime's threads.

use std::io;

use crate::inside;
use crate::spec::{Root, User};

/// Who was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Numbers to run with; the groups are those that `/etc/group` lists the user in.
    pub user: User,
    /// The home directory, if the user is listed.
    pub home: Option<String>,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The name is not in the image.
    #[error("the image has no user {0}; give a number (runAsUser), or add the user to the image")]
    NoUser(String),
    /// The group is not in the image.
    #[error("the image has no group {0}; give a number (runAsGroup), or add the group to the image")]
    NoGroup(String),
    /// The root file system cannot be looked at.
    #[error("cannot read the users of the image")]
    Io(#[from] io::Error),
}

/// Looks up `USER[:GROUP]`, each a name or number; empty is root. Blocking.
pub fn lookup(root: &Root, wanted: &str) -> Result<Found, LookupError> {
    let (passwd, group) = (inside::read(root, "/etc/passwd")?, inside::read(root, "/etc/group")?);
    find(wanted, &passwd, &group)
}

fn find(wanted: &str, passwd: &str, group: &str) -> Result<Found, LookupError> {
    let (user, group_name) = wanted.split_once(':').unwrap_or((wanted, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 4
            && (fields[0] == user || (number.is_some() && fields[2].parse() == Ok(number.unwrap_or(0))))
    });
    let (uid, gid, name, home) = match (&entry, number) {
        (Some(fields), _) => {
            let uid = fields[2].parse().map_err(|_| LookupError::NoUser(user.to_owned()))?;
            let home = fields.get(5).filter(|home| !home.is_empty()).map(ToString::to_string);
            (uid, fields[3].parse().unwrap_or(0), fields[0], home)
        }
        (None, Some(number)) => (number, 0, "", None),
        (None, None) => return Err(LookupError::NoUser(user.to_owned())),
    };
    let groups =
        group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 3);
    let groups: Vec<Vec<&str>> = groups.collect();
    if !group_name.is_empty() {
        let listed =
            groups.iter().find(|fields| fields[0] == group_name).and_then(|fields| fields[2].parse().ok());
        let gid = listed
            .or_else(|| group_name.parse().ok())
            .ok_or_else(|| LookupError::NoGroup(group_name.to_owned()))?;
        return Ok(Found { user: User { uid, gid, groups: Vec::new() }, home });
    }
    let member = |fields: &&Vec<&str>| {
        !name.is_empty()
            && fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name))
    };
    let listed = groups.iter().filter(member).filter_map(|fields| fields[2].parse().ok());
    let supplementary = listed.filter(|number| *number != gid).collect();
    Ok(Found { user: User { uid, gid, groups: supplementary }, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:web,root\nbad:x\n";

    fn check(wanted: &str, uid: u32, gid: u32, groups: &[u32]) {
        let found = find(wanted, PASSWD, GROUP).unwrap();
        assert_eq!(
            (found.user.uid, found.user.gid, found.user.groups.as_slice()),
            (uid, gid, groups),
            "{wanted}"
        );
    }

    #[test]
    fn names_and_numbers_are_found() {
        check("", 0, 0, &[50]);
        check("web", 33, 34, &[50]);
        check("33", 33, 34, &[50]);
        check("web:logs", 33, 50, &[]);
        check("web:7", 33, 7, &[]);
        check("1000", 1000, 0, &[]);
        check("1000:2000", 1000, 2000, &[]);
    }

    #[test]
    fn unknown_names_are_said() {
        assert!(matches!(find("who", PASSWD, GROUP), Err(LookupError::NoUser(name)) if name == "who"));
        assert!(matches!(find("web:who", PASSWD, GROUP), Err(LookupError::NoGroup(name)) if name == "who"));
    }

    proptest::proptest! {
        #[test]
        fn hostile_files_never_panic(wanted in ".{0,20}", passwd in "[a-z0-9:,\n-]{0,200}", group in "[a-z0-9:,\n-]{0,200}") {
            let _ = find(&wanted, &passwd, &group);
        }
    }
}
