//! Where the unified hierarchy is mounted (`proc_pid_mountinfo(5)`).

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// A cgroup2 mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// Which cgroup is mounted there, as this process's cgroup namespace names it.
    root: PathBuf,
}

impl Mount {
    /// The directory of a cgroup that is named as in `/proc/<pid>/cgroup`; `None` if this mount does not show it.
    pub(super) fn locate(&self, cgroup: &str) -> Option<PathBuf> {
        let inside = Path::new(cgroup).strip_prefix(&self.root).ok()?;
        let climbs = inside.components().any(|part| part.as_os_str() == "..");
        (!climbs).then(|| self.point.join(inside))
    }
}

/// The cgroup2 mount of this process, of several the first that shows the whole hierarchy.
pub(super) fn cgroup2() -> Option<Mount> {
    let mut mounts = parse(&fs::read_to_string("/proc/self/mountinfo").ok()?);
    // One that another mount hides is listed all the same.
    mounts.retain(|mount| {
        statfs(&mount.point).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
    });
    pick(mounts)
}

fn pick(mounts: Vec<Mount>) -> Option<Mount> {
    let whole = mounts.iter().find(|mount| mount.root == Path::new("/")).cloned();
    whole.or_else(|| mounts.into_iter().next())
}

fn parse(mountinfo: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        Some(Mount { root: unescape(fields.next()?), point: unescape(fields.next()?) })
    };
    let above = |mount: &Mount| mount.root.starts_with("/..");
    mountinfo.lines().filter_map(line).filter(|mount| !above(mount)).collect()
}

/// The kernel writes space, tab, line feed and backslash as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        rest = if let Some(code) = code.filter(u8::is_ascii) {
            text.push(char::from(code));
            &after[3..]
        } else {
            text.push('\\');
            after
        };
    }
    text.push_str(rest);
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(root: &str, point: &str) -> Mount {
        Mount { root: root.into(), point: point.into() }
    }

    #[test]
    fn hybrid_unified_nested_and_bound() {
        let text = "\
25 1 0:2 / / rw - ext4 /dev/vda rw
31 25 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/systemd rw shared:5 - cgroup cgroup rw,name=systemd
40 25 0:38 /../.. /outside rw - cgroup2 cgroup2 rw
41 31 0:38 /part /with\\040space\\134 rw shared:6 master:1 - cgroup2 cgroup2 rw
42 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
43 31 0:38 / /run/later rw,relatime - cgroup2 cgroup2 rw
broken line
44 - cgroup2";
        let mounts = parse(text);
        assert_eq!(
            mounts,
            [mount("/part", "/with space\\"), mount("/", "/sys/fs/cgroup/unified"), mount("/", "/run/later")]
        );
        assert_eq!(pick(mounts.clone()), Some(mounts[1].clone()));
        assert_eq!(pick(mounts[..1].to_vec()), Some(mounts[0].clone()));
        assert_eq!(pick(vec![]), None);
    }

    #[test]
    fn a_cgroup_outside_the_mount_is_not_located() {
        let whole = mount("/", "/c");
        assert_eq!(whole.locate("/a/b"), Some("/c/a/b".into()));
        assert_eq!(whole.locate("/../a"), None);
        assert_eq!(whole.locate("a"), None);
        let part = mount("/part", "/c");
        assert_eq!(part.locate("/part/a"), Some("/c/a".into()));
        assert_eq!(part.locate("/other"), None);
    }
}
