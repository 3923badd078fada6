//! Whether the daemon's user may use what it needs: the GPU's devices, the socket, the folder of the journal.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::library::Trouble;

/// Who is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Subject {
    pub name: String,
    pub user: u32,
    pub groups: Vec<u32>,
}

/// What the subject may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Rights {
    /// Devices of a GPU that may be used.
    pub devices: Vec<PathBuf>,
    pub troubles: Vec<Trouble>,
}

impl Subject {
    /// The user who asks; for root, who may everything, the service's user where there is one.
    pub(super) fn of_process(etc: &Path) -> Self {
        let user = rustix::process::geteuid().as_raw();
        if user == 0
            && let Some(service) = Self::named("moed", etc)
        {
            return service;
        }
        let own = rustix::process::getgroups().unwrap_or_default();
        let mut groups: Vec<u32> = own.into_iter().map(rustix::process::Gid::as_raw).collect();
        groups.push(rustix::process::getegid().as_raw());
        Self { name: if user == 0 { "root".to_owned() } else { format!("user {user}") }, user, groups }
    }

    /// A user of the system's files.
    fn named(name: &str, etc: &Path) -> Option<Self> {
        let users = std::fs::read_to_string(etc.join("passwd")).ok()?;
        let fields: Vec<&str> =
            users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
        let (user, group) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        let mut groups = vec![group];
        let text = std::fs::read_to_string(etc.join("group")).unwrap_or_default();
        groups.extend(text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let member = fields.get(3)?.split(',').any(|member| member == name);
            if member { fields[2].parse::<u32>().ok() } else { None }
        }));
        Some(Self { name: name.to_owned(), user, groups })
    }

    /// Whether the permission bits let the subject read and write.
    fn may_write(&self, path: &Path) -> bool {
        let Ok(meta) = std::fs::metadata(path) else { return false };
        let bits = match () {
            () if self.user == 0 => return true,
            () if meta.uid() == self.user => meta.mode() >> 6,
            () if self.groups.contains(&meta.gid()) => meta.mode() >> 3,
            () => meta.mode(),
        };
        bits & 0o6 == 0o6
    }
}

/// Where rights are looked at.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub dev: PathBuf,
    pub etc: PathBuf,
    /// The journal's folder.
    pub state: PathBuf,
    /// The daemon's socket, where it should be.
    pub socket: PathBuf,
}

/// Devices that CUDA opens: on a Jetson, on a PC, and the render nodes that JetPack 6 wants too.
const DEVICES: [&str; 5] = ["nvmap", "nvhost-", "nvgpu", "nvidia", "dri/renderD"];
/// Devices of one kind; a board has a few dozen.
const DEVICES_MAX: usize = 256;

/// Looks at them.
pub(super) fn look(subject: &Subject, places: &Places) -> Rights {
    let mut rights = Rights::default();
    for device in devices(&places.dev) {
        if subject.may_write(&device) {
            rights.devices.push(device);
            continue;
        }
        let group = std::fs::metadata(&device).map(|meta| group_name(meta.gid(), &places.etc)).unwrap_or_default();
        let hint = if group == "root" {
            "a rule of udev should give it to a group; NVIDIA's packages bring one".to_owned()
        } else {
            format!("`SupplementaryGroups={group}` in a drop-in of the unit, or `adduser {} {group}`", subject.name)
        };
        let what = format!("`{}` belongs to group `{group}`, and {} may not use it", device.display(), subject.name);
        rights.troubles.push(Trouble::new(what, hint));
    }
    // A folder that is not there yet is made by systemd, or where its parent lets the user.
    let nearest = places.state.ancestors().find(|folder| folder.exists());
    if places.state.exists() && nearest.is_some_and(|folder| !subject.may_write(folder)) {
        rights.troubles.push(Trouble::new(
            format!("the journal's folder `{}` may not be written by {}", places.state.display(), subject.name),
            format!("`chown -R {} {}`, or another `journal.dir`", subject.name, places.state.display()),
        ));
    }
    if let Ok(meta) = std::fs::symlink_metadata(&places.socket) {
        use std::os::unix::fs::FileTypeExt;
        if !meta.file_type().is_socket() {
            rights.troubles.push(Trouble::new(
                format!("`{}` is there and is no socket", places.socket.display()),
                "move it away: moed replaces nothing but a socket that nobody listens on",
            ));
        }
    }
    rights
}

fn devices(dev: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [dev.to_path_buf(), dev.join("dri"), dev.join("nvgpu/igpu0")] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| {
            let name = path.strip_prefix(dev).unwrap_or(path).to_string_lossy().into_owned();
            DEVICES.iter().any(|start| name.starts_with(start)) && !path.is_dir()
        }));
    }
    found.sort();
    found.truncate(DEVICES_MAX);
    found
}

fn group_name(group: u32, etc: &Path) -> String {
    let text = std::fs::read_to_string(etc.join("group")).unwrap_or_default();
    let named = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(group)).then(|| fields[0].to_owned())
    });
    named.unwrap_or_else(|| group.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn places(folder: &Path) -> Places {
        for name in ["dev/dri", "etc", "state"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let at = |name: &str| folder.join(name);
        Places { dev: at("dev"), etc: at("etc"), state: at("state"), socket: at("moed.sock") }
    }

    fn put(path: &Path, mode: u32) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_device_that_the_user_may_not_open_is_named_with_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        put(&places.dev.join("nvmap"), 0o660);
        put(&places.dev.join("dri/renderD128"), 0o666);
        put(&places.dev.join("null"), 0o600);
        let group = fs::metadata(places.dev.join("nvmap")).unwrap().gid();
        fs::write(places.etc.join("group"), format!("video:x:{group}:\nmoed:x:997:\nother:x:5:a,moed\n")).unwrap();
        fs::write(places.etc.join("passwd"), "root:x:0:0::/root:/bin/sh\nmoed:x:998:997::/:/bin/false\n").unwrap();
        fs::set_permissions(&places.state, fs::Permissions::from_mode(0o777)).unwrap();
        let stranger = Subject::named("moed", &places.etc).unwrap();
        assert_eq!((stranger.user, stranger.groups.as_slice()), (998, [997, 5].as_slice()));
        let rights = look(&stranger, &places);
        assert_eq!(rights.devices, [places.dev.join("dri/renderD128")]);
        assert_eq!(rights.troubles.len(), 1, "{rights:?}");
        assert!(rights.troubles[0].what.contains("group `video`, and moed may not use it"), "{rights:?}");
        assert!(rights.troubles[0].hint.contains("SupplementaryGroups=video"), "{rights:?}");
        let member = Subject { groups: vec![group], ..stranger };
        assert!(look(&member, &places).troubles.is_empty());
    }

    #[test]
    fn a_closed_journal_folder_and_a_file_at_the_sockets_place_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        fs::set_permissions(&places.state, fs::Permissions::from_mode(0o700)).unwrap();
        put(&places.socket, 0o644);
        let subject = Subject { name: "moed".to_owned(), user: 65_533, groups: vec![65_533] };
        let rights = look(&subject, &places);
        assert_eq!(rights.troubles.len(), 2, "{rights:?}");
        assert!(rights.troubles[0].what.contains("may not be written by moed"), "{rights:?}");
        assert!(rights.troubles[1].what.contains("is no socket"), "{rights:?}");
    }
}
