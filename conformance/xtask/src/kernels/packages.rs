//! Fetches Debian's kernels.
//!
//! ```text
//! ~/.cache/sluice/kernels/apt       lists of the releases that have the kernels, apart from the system's own
//! ~/.cache/sluice/kernels/debs      their packages
//! ~/.cache/sluice/kernels/boot      what is taken out of these, a folder for each version
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use sluice_ebpf_build as ebpf;

use super::unpack;
use crate::shell::{self, find_program};

/// Modules that the self-test needs and Debian does not build in, in the order in which they are inserted.
const MODULES: &[&str] = &["veth", "sch_ingress", "cls_bpf"];

/// Where the kernels are.
const RELEASES: &[(&str, &str)] = &[
    ("http://deb.debian.org/debian-security", "bullseye-security"),
    ("http://deb.debian.org/debian", "bookworm"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
    ("http://deb.debian.org/debian", "bookworm-backports"),
    ("http://deb.debian.org/debian", "sid"),
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists that are older are fetched again: the archive drops a kernel when it has the next.
const LISTS_AGE: Duration = Duration::from_hours(24 * 7);

/// The package that depends on each release's kernel.
const NEWEST_OF_RELEASE: &str = "linux-image-amd64";

/// The series of the newest kernel, whatever it is.
pub(super) const NEWEST: &str = "newest";

/// A kernel to boot.
pub(super) struct Kernel {
    /// Its series, such as 6.1.
    pub(super) series: String,
    /// What is booted.
    pub(super) image: PathBuf,
    /// Its modules, in the order in which they are inserted.
    pub(super) modules: Vec<PathBuf>,
}

/// Finds or fetches a kernel of each of these series.
pub(super) fn kernels(wanted: &[String]) -> Result<Vec<Kernel>> {
    ensure!(
        Path::new(KEYRING).is_file(),
        "{KEYRING} is missing, by which Debian's kernels are checked: install debian-archive-keyring"
    );
    for program in ["apt-get", "dpkg-deb", "tar"] {
        ensure!(find_program(program).is_some(), "{program} is missing: the kernels are Debian's packages");
    }
    let apt = Apt::open()?;
    let offers = apt.offers()?;
    wanted.iter().map(|series| apt.kernel(choose(series, &offers)?)).collect()
}

/// A kernel that a release has.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    series: String,
    package: String,
    version: String,
}

/// Everything that apt needs, apart from the system's own.
struct Apt {
    cache: PathBuf,
}

impl Apt {
    /// Makes the folders, and fetches the lists where they are missing or old.
    fn open() -> Result<Self> {
        let apt = Self { cache: cache()? };
        let own = apt.cache.join("apt");
        for folder in ["state", "lists/partial", "archives/partial"] {
            create(&own.join(folder))?;
        }
        create(&apt.cache.join("debs"))?;
        let sources: Vec<String> = RELEASES
            .iter()
            .map(|(archive, release)| {
                format!("deb [arch=amd64 signed-by={KEYRING}] {archive} {release} main\n")
            })
            .collect();
        apt.write("sources.list", &sources.concat())?;
        // Nothing is installed, as far as this apt knows.
        apt.write("status", "")?;
        let stamp = own.join("updated");
        let age = fs::metadata(&stamp).and_then(|stamp| stamp.modified()).ok();
        let age = age.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        if age.is_none_or(|age| age > LISTS_AGE) {
            println!("fetching the lists of Debian's kernels into {}", own.display());
            match shell::run(apt.command("apt-get").args(["-q", "update", "--error-on=any"])) {
                Ok(()) => apt.write("updated", "")?,
                Err(error) if age.is_some() => println!("{error:#}: going on with the lists of before"),
                Err(error) => {
                    return Err(error)
                        .context("Debian's archive must be reachable; see what apt-get says above");
                }
            }
        }
        Ok(apt)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.cache.join("apt").join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn command(&self, name: &str) -> Command {
        let own = self.cache.join("apt");
        let mut command = Command::new(name);
        shell::clean(&mut command);
        let settings = [
            ("Dir::Etc::sourcelist", own.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
            ("Dir::State", own.join("state")),
            ("Dir::State::lists", own.join("lists")),
            ("Dir::State::status", own.join("status")),
            ("Dir::Cache::archives", own.join("archives")),
            ("Dir::Cache::pkgcache", PathBuf::new()),
            ("Dir::Cache::srcpkgcache", PathBuf::new()),
            ("Acquire::Languages", PathBuf::from("none")),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", PathBuf::from("false")),
            // Its own user cannot write into this one's cache.
            ("APT::Sandbox::User", PathBuf::from("root")),
        ];
        for (name, value) in settings {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        }
        command
    }

    /// What the lists say of a package, in every version.
    fn show(&self, package: &str) -> Result<String> {
        let mut show = self.command("apt-cache");
        show.args(["show", package]);
        let output = show.output().context("cannot start apt-cache")?;
        ensure!(
            output.status.success(),
            "Debian's lists have no {package}: {}. Remove {} and try again",
            String::from_utf8_lossy(&output.stderr).trim(),
            self.cache.join("apt").display()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn offers(&self) -> Result<Vec<Offer>> {
        Ok(offers(&self.show(NEWEST_OF_RELEASE)?))
    }

    /// Fetches a kernel's packages and takes out of them what is needed.
    fn kernel(&self, offer: &Offer) -> Result<Kernel> {
        let boot = self.cache.join("boot").join(format!("{}_{}", offer.package, offer.version));
        // Made complete under another name.
        if !boot.is_dir() {
            let making = self.cache.join(format!("boot/making-{}", std::process::id()));
            create(&making)?;
            let named = format!("{}={}", offer.package, offer.version);
            // From 7.0 on, image and modules are packages of their own.
            let parts = parts(&self.show(&named)?);
            for package in std::iter::once(&offer.package).chain(&parts) {
                let deb = self.fetch(package, &offer.version)?;
                unpack::take_out(&deb, MODULES, &making)?;
            }
            unpack::flatten(MODULES, &making).with_context(|| format!("the packages of {named}"))?;
            fs::rename(&making, &boot).with_context(|| format!("cannot create {}", boot.display()))?;
        }
        Ok(Kernel {
            series: offer.series.clone(),
            image: boot.join("vmlinuz"),
            modules: MODULES.iter().map(|name| boot.join(format!("{name}.ko"))).collect(),
        })
    }

    fn fetch(&self, package: &str, version: &str) -> Result<PathBuf> {
        let debs = self.cache.join("debs");
        let deb = debs.join(format!("{package}_{}_amd64.deb", version.replace(':', "%3a")));
        if !deb.is_file() {
            println!("fetching {package} {version} into {}", debs.display());
            let mut get = self.command("apt-get");
            get.args(["-q", "download"]).arg(format!("{package}={version}")).current_dir(&debs);
            let again = || {
                let lists = self.cache.join("apt/updated");
                format!("if the archive has dropped it, remove {} and try again", lists.display())
            };
            shell::run(&mut get).with_context(again)?;
            ensure!(deb.is_file(), "apt-get ended well, but there is no {}", deb.display());
        }
        Ok(deb)
    }
}

/// The kernel of a series, or the newest of all.
fn choose<'a>(series: &str, offers: &'a [Offer]) -> Result<&'a Offer> {
    let fitting = offers.iter().filter(|offer| series == NEWEST || offer.series == series);
    let best = fitting.max_by_key(|offer| numbers(&offer.version));
    best.with_context(|| {
        let mut known: Vec<&str> = offers.iter().map(|offer| offer.series.as_str()).collect();
        known.dedup();
        format!("Debian has no kernel {series}; choose from {} or {NEWEST}", known.join(", "))
    })
}

/// Reads what apt-cache shows of the package that depends on a release's kernel.
fn offers(shown: &str) -> Vec<Offer> {
    let offer = |paragraph: &str| {
        let version = field(paragraph, "Version")?;
        let package = depends(paragraph).find(|name| name.starts_with("linux-image-"))?;
        let series: Vec<String> = numbers(version).iter().take(2).map(u32::to_string).collect();
        Some(Offer { series: series.join("."), package: package.to_owned(), version: version.to_owned() })
    };
    shown.split("\n\n").filter_map(offer).collect()
}

/// The packages that a kernel's package takes its files from.
fn parts(shown: &str) -> Vec<String> {
    let paragraph = shown.split("\n\n").next().unwrap_or_default();
    let is_part = |name: &&str| ["linux-binary-", "linux-modules-"].iter().any(|part| name.starts_with(part));
    depends(paragraph).filter(is_part).map(str::to_owned).collect()
}

fn depends(paragraph: &str) -> impl Iterator<Item = &str> {
    let all = field(paragraph, "Depends").unwrap_or_default();
    all.split(',').filter_map(|one| one.split_whitespace().next())
}

fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The first numbers of a version.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).take(4).collect()
}

/// Makes a folder and those above it.
pub(super) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// The folder for all of it.
pub(super) fn cache() -> Result<PathBuf> {
    let tools = ebpf::tools_dir()
        .context("HOME is not set: set it, or XDG_CACHE_HOME, to where kernels may be put")?;
    Ok(tools.with_file_name("kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Package: linux-image-amd64
Version: 7.2.13-1
Depends: linux-base-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-amd64 (= 7.2.13-1)

Package: linux-image-amd64
Version: 6.1.176-1
Depends: linux-image-6.1.0-50-amd64 (= 6.1.176-1)

Package: linux-image-amd64
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)
";

    #[test]
    fn newest_kernel_of_a_series_is_chosen() {
        let offers = offers(SHOWN);
        for (series, package) in [
            ("6.1", "linux-image-6.1.0-56-amd64"),
            ("7.2", "linux-image-7.2.13+deb14-amd64"),
            (NEWEST, "linux-image-7.2.13+deb14-amd64"),
        ] {
            assert_eq!(choose(series, &offers).expect(series).package, package);
        }
        let error = choose("4.19", &offers).expect_err("no such kernel").to_string();
        assert_eq!(error, "Debian has no kernel 4.19; choose from 7.2, 6.1 or newest");
    }

    #[test]
    fn packages_with_the_files_are_found() {
        let shown = "Package: linux-image-7\nDepends: dracut | initramfs-tools, linux-binary-7 (= 1), linux-modules-7\n";
        assert_eq!(parts(shown), ["linux-binary-7", "linux-modules-7"]);
        assert!(parts("Package: linux-image-6\nDepends: kmod, linux-base (>= 4.3)\n").is_empty());
    }
}
