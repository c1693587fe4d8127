//! A machine of its own for one test: new network, mount and process namespaces, and a private containerd in them.
//! Everything ends with the namespaces; only cgroups outlive them, and those are removed.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const IMAGE: &str = "registry.test/busybox:1";
const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
const BUSYBOX: &str = "/bin/busybox";

/// Runs the ignored test `name` of this binary in namespaces of its own; says why when it cannot.
pub(crate) fn inside(name: &str) {
    for tool in ["containerd", "runc", "ctr", "unshare", "ip", "nft"] {
        if !found(tool) {
            println!("skipped: {tool} is not installed");
            return;
        }
    }
    if !rustix::process::geteuid().is_root()
        || !Path::new(BUSYBOX).exists()
        || !Path::new("/usr/lib/cni/bridge").exists()
    {
        println!("skipped: needs root, busybox-static and containernetworking-plugins");
        return;
    }
    let folder = tempfile::Builder::new().prefix("tm-kubelet-").tempdir().expect("folder");
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .status()
        .expect("unshare runs");
    let cgroup = folder.path().file_name().expect("named").to_owned();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        remove_cgroup(&hierarchy.path().join(&cgroup));
    }
    assert!(status.success(), "{name} in its namespaces: {status}");
}

/// Where the outer process tells the inner one its folder; also what shows that namespaces were made.
const FOLDER: &str = "TM_KUBELET_TEST_FOLDER";

fn remove_cgroup(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path());
    }
    let _ = std::fs::remove_dir(folder);
}

fn found(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(tool).exists())
}

/// The private containerd and the folder that everything of the test is in.
#[derive(Debug)]
pub(crate) struct World {
    folder: PathBuf,
    pub(crate) cgroup_root: String,
    containerd: Option<Child>,
}

impl World {
    /// Nothing when this process is not in namespaces of its own.
    pub(crate) fn new() -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os(FOLDER)?);
        run("ip", &["link", "set", "lo", "up"]);
        let cgroup_root = format!("/{}", folder.file_name().expect("named").to_string_lossy());
        let mut world = Self { folder, cgroup_root, containerd: None };
        world.configure();
        world.start_containerd();
        world.import(IMAGE, &["/bin/sh"]);
        world.import(PAUSE, &["/bin/sleep", "infinity"]);
        Some(world)
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.join(below)
    }

    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.path("containerd.sock").display())
    }

    fn configure(&self) {
        let at = |below: &str| self.path(below).display().to_string();
        std::fs::create_dir_all(self.path("cni")).expect("made");
        let network = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "tm-br0", "isGateway": true, "ipMasq": false,
             "ipam": {"type": "host-local", "dataDir": at("ipam"), "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        ]});
        std::fs::write(self.path("cni/10-pods.conflist"), network.to_string()).expect("written");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nrestrict_oom_score_adj = true\nsandbox_image = {PAUSE:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {:?}\n",
            at("root"),
            at("state"),
            at("containerd.sock"),
            at("cni"),
        );
        std::fs::write(self.path("config.toml"), config).expect("written");
    }

    pub(crate) fn start_containerd(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("containerd.log")).expect("log");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(self.path("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd starts");
        self.containerd = Some(child);
        for _ in 0..200 {
            if self.ctr(&["version"]).is_ok() {
                return;
            }
            pause(Duration::from_millis(50));
        }
        panic!("containerd: {}", std::fs::read_to_string(self.path("containerd.log")).unwrap_or_default());
    }

    pub(crate) fn kill_containerd(&mut self) {
        if let Some(mut child) = self.containerd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn ctr(&self, args: &[&str]) -> Result<String, String> {
        let socket = self.path("containerd.sock");
        let done =
            Command::new("ctr").arg("-a").arg(socket).args(["-n", "k8s.io"]).args(args).output().expect("ctr runs");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        if done.status.success() { Ok(text) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
    }

    /// An image with busybox under all its names.
    fn import(&self, name: &str, entrypoint: &[&str]) {
        let root = self.path(&format!("image-{}", entrypoint.len()));
        for below in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(below)).expect("made");
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("copied");
        for applet in [
            "sh", "sleep", "cat", "echo", "ls", "id", "env", "nc", "httpd", "stat", "hostname", "kill", "true",
            "false", "touch",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
        }
        let build = self.path(&format!("build-{}", entrypoint.len()));
        std::fs::create_dir_all(&build).expect("made");
        let layer = build.join("layer.tar");
        run("tar", &["-C", &root.display().to_string(), "-cf", &layer.display().to_string(), "."]);
        let digest = Sha256::digest(std::fs::read(&layer).expect("layer"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}});
        std::fs::write(build.join("config.json"), config.to_string()).expect("written");
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        std::fs::write(build.join("manifest.json"), manifest.to_string()).expect("written");
        let archive = self.path("image.tar").display().to_string();
        run("tar", &["-C", &build.display().to_string(), "-cf", &archive, "manifest.json", "config.json", "layer.tar"]);
        self.ctr(&["images", "import", &archive]).expect("imported");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_containerd();
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect("program runs");
    assert!(status.success(), "{program} {args:?}");
}

fn pause(time: Duration) {
    #[allow(clippy::disallowed_methods, reason = "setting up a machine, outside of any runtime")]
    std::thread::sleep(time);
}
