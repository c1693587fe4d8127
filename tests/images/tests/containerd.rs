//! The archives in the hands of containerd itself, and the packages of Debian in the hands of the build.
//!
//! Skips, saying so, where containerd, apt or the rights of root are missing.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use timonel_images::{Built, FileSpec, ImageSpec, LayerSpec, Owner, Process, build, build_named};

/// How long containerd may take to answer on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A containerd of the test's own, without CRI, in a mount namespace of its own.
struct Containerd {
    process: Child,
    socket: PathBuf,
}

impl Containerd {
    fn start(folder: &Path) -> Option<Self> {
        let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !is_there("containerd") || !is_there("ctr") || !is_root() {
            eprintln!("skipped: needs containerd, ctr and root");
            return None;
        }
        let socket = folder.join("c.sock");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
            folder.join("root"),
            folder.join("state"),
        );
        fs::write(folder.join("config.toml"), config).unwrap();
        let process = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "containerd", "--config"])
            .arg(folder.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let containerd = Self { process, socket };
        let deadline = Instant::now() + START_LIMIT;
        while !containerd.ctr(&["version"]).0 {
            assert!(Instant::now() < deadline, "containerd: {}", fs::read_to_string(folder.join("log")).unwrap());
        }
        Some(containerd)
    }

    fn ctr(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(&self.socket)
            .args(["--namespace", "k8s.io", "--connect-timeout", "2s"])
            .args(arguments)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn sample(text: &str) -> ImageSpec {
    let layer = |files| LayerSpec { files, ..LayerSpec::default() };
    ImageSpec {
        reference: "timonel.io/test/sample:7".to_owned(),
        layers: vec![
            layer(vec![FileSpec::directory("data", 0o750, Owner { uid: 999, gid: 999 }), FileSpec::text("note", text)]),
            layer(vec![FileSpec::link("data/link", "/note")]),
        ],
        process: Process { entrypoint: vec!["/none".to_owned()], ..Process::default() },
    }
}

fn built(spec: ImageSpec, out: &Path, cache: &Path) -> Built {
    build(&[spec], out, cache, &mut |_| {}).unwrap().remove(0)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: needs {program}");
    }
    found
}

#[test]
fn containerd_imports_an_archive_under_its_name_with_its_digest_and_files() {
    if !has("dpkg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = built(sample("hello"), &folder.path().join("out"), &folder.path().join("cache"));
    let Some(containerd) = Containerd::start(folder.path()) else { return };
    let (imported, said) = containerd.ctr(&["images", "import", image.path.to_str().unwrap()]);
    assert!(imported, "{said}");
    let (_, list) = containerd.ctr(&["images", "ls"]);
    let line =
        list.lines().find(|line| line.starts_with("timonel.io/test/sample:7 ")).unwrap_or_else(|| panic!("{list}"));
    assert!(line.contains(&image.digest), "{line}");
    let (checked, state) = containerd.ctr(&["images", "check"]);
    assert!(checked && state.contains("complete (3/3)"), "manifest, configuration and layers are all there: {state}");
}

#[test]
fn archives_are_written_when_they_change_and_only_then() {
    if !has("dpkg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (out, cache) = (folder.path().join("out"), folder.path().join("cache"));
    let first = built(sample("one"), &out, &cache);
    assert!(first.changed);
    assert_eq!(first.path, out.join("sample-7.tar"));
    assert!(!built(sample("one"), &out, &cache).changed, "it is in place");

    let second = built(sample("two"), &out, &cache);
    assert!(second.changed);
    assert_ne!(second.digest, first.digest);

    fs::write(&first.path, "cut short").unwrap();
    assert!(built(sample("two"), &out, &cache).changed, "a damaged archive is replaced");

    let elsewhere = built(sample("one"), &folder.path().join("other"), &folder.path().join("fresh"));
    assert_eq!(elsewhere.digest, first.digest, "another cache gives the same image");
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["sample-7.tar"], "nothing half written stays beside");
}

#[test]
fn an_image_of_debian_packages_has_the_same_digest_from_another_cache() {
    if !has("apt-get") || !has("dpkg-deb") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let build_in = |name: &str| {
        let folder = folder.path().join(name);
        build_named(&["pause-3.10.2".to_owned()], &folder.join("out"), &folder.join("cache"), &mut |_| {})
    };
    let (first, second) = match (build_in("first"), build_in("second")) {
        (Ok(first), Ok(second)) => (first, second),
        // Without a mirror in reach there is nothing to compare; any other failure counts.
        (Err(error), _) | (_, Err(error)) if format!("{error:?}").contains("Failed to fetch") => {
            eprintln!("skipped: no package mirror: {error:?}");
            return;
        }
        (first, second) => panic!("{first:?} {second:?}"),
    };
    assert_eq!(first[0].digest, second[0].digest);
    assert!(first[0].bytes < 2_000_000, "the sandbox image is small: {} bytes", first[0].bytes);
}
