//! Finds the numbers of users in an image's own `/etc/passwd` and `/etc/group`.
//!
//! The root is opened as the kernel would show it to the container, and every path is resolved inside it
//! (`RESOLVE_IN_ROOT`), so that a hostile image cannot make us read the host's files. Files are bounded. It blocks
//! on the file system: call it beside the runtime's threads.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use crate::spec::{Root, User};

/// The most that is read of a file in the image.
const MAX_FILE_BYTES: u64 = 1 << 20;

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
    let (passwd, group) = (read_inside(root, "/etc/passwd")?, read_inside(root, "/etc/group")?);
    find(wanted, &passwd, &group)
}

/// Reads a small text file inside the root; empty if it is missing. Blocking.
pub fn read_inside(root: &Root, path: &str) -> io::Result<String> {
    let directory = open_root(root)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(directory.as_fd(), path, flags, Mode::empty(), inside) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The root as a directory: layers become a read-only overlay that is mounted nowhere and ends with its handle.
fn open_root(root: &Root) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &std::path::Path| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let layers = match root {
        Root::Directory(path) => return open(path),
        Root::Overlay { lower, .. } => lower,
    };
    if let [only] = layers.as_slice() {
        return open(only);
    }
    let opened = layers.iter().map(|layer| open(layer)).collect::<io::Result<Vec<_>>>()?;
    // Descriptors are shorter than paths: the kernel takes 256 bytes a value.
    let names: Vec<String> =
        opened.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let one_by_one =
        names.iter().try_for_each(|name| fsconfig_set_string(context.as_fd(), "lowerdir+", name.as_str()));
    if one_by_one.is_err() {
        // Kernels before 6.7 take all layers as one value.
        fsconfig_set_string(context.as_fd(), "lowerdir", names.join(":").as_str())?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
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
