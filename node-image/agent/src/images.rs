//! Images that the machine brings along as OCI archives: imported at start, and when more are put there.

use crate::layout::Layout;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};
use timonel_kubelet::BroughtImages;
use timonel_runtime::{OnError, Tasks};
use tokio::{process::Command, sync::watch};

/// Between two looks while containerd is still starting.
const SOON: Duration = Duration::from_millis(250);
/// Between two looks at a folder of which everything has been imported.
const LATER: Duration = Duration::from_secs(10);
/// Longest index of an archive that is read.
const MAX_INDEX_BYTES: u64 = 4 << 20;
/// Annotations that name an image in an index, the fuller first.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Imports the archives of `folder` that were not imported before. The receiver says which images they are and
/// whether some are still to come, and wakes after each.
pub(crate) fn import(folder: &Path, layout: &Layout, tasks: &Tasks) -> watch::Receiver<BroughtImages> {
    let (folder, socket, seen) = (folder.to_owned(), layout.containerd_socket(), layout.state().join("images"));
    let (tell, receive) = watch::channel(BroughtImages { coming: true, names: BTreeSet::new() });
    tasks.spawn("images", OnError::Log, async move {
        fs::create_dir_all(&seen)?;
        loop {
            let complete = import_once(&folder, &socket, &seen, &tell).await?;
            if complete {
                tell.send_if_modified(|images| std::mem::replace(&mut images.coming, false));
            }
            tokio::time::sleep(if complete { LATER } else { SOON }).await;
        }
        #[allow(unreachable_code, reason = "names the error type of the loop")]
        Ok::<_, io::Error>(())
    });
    receive
}

/// Imports what is new, the smallest first; whether nothing is left.
async fn import_once(
    folder: &Path,
    socket: &Path,
    seen: &Path,
    tell: &watch::Sender<BroughtImages>,
) -> io::Result<bool> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.extension().is_some_and(|kind| kind == "tar") {
            archives.push((fs::metadata(&path)?.len(), path, name));
        }
    }
    archives.sort();
    let (mut complete, first) = (true, tell.borrow().names.is_empty());
    for (size, path, name) in archives {
        let known = fs::read_to_string(seen.join(&name)).is_ok_and(|known| known == size.to_string());
        if !known {
            let mut command = Command::new("ctr");
            command.arg("--address").arg(socket).args(["-n", "k8s.io", "images", "import"]).arg(&path);
            let output = command.output().await?;
            if !output.status.success() {
                complete = false;
                tracing::debug!(image = ?name, error = %String::from_utf8_lossy(&output.stderr), "not imported");
                continue;
            }
            fs::write(seen.join(&name), size.to_string())?;
        }
        if !known || first {
            match names(&path) {
                Ok(names) => tell.send_modify(|images| images.names.extend(names)),
                Err(error) => tracing::warn!(image = ?name, %error, "the archive's index cannot be read"),
            }
        }
    }
    Ok(complete)
}

/// The images of an OCI archive, by the names under which they are imported.
fn names(archive: &Path) -> io::Result<BTreeSet<String>> {
    let mut archive = tar::Archive::new(File::open(archive)?);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.path()?.as_os_str() != "index.json" {
            continue;
        }
        let index: serde_json::Value = serde_json::from_reader(io::Read::take(entry, MAX_INDEX_BYTES))?;
        let manifests = index["manifests"].as_array().into_iter().flatten();
        let name = |manifest: &serde_json::Value| {
            NAMES.iter().find_map(|key| manifest["annotations"][*key].as_str()).map(str::to_owned)
        };
        return Ok(manifests.filter_map(name).collect());
    }
    Ok(BTreeSet::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_says_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let index = serde_json::json!({"manifests": [
            {"annotations": {"io.containerd.image.name": "reg.io/a:1", "org.opencontainers.image.ref.name": "1"}},
            {"annotations": {"org.opencontainers.image.ref.name": "reg.io/b:1"}},
            {"digest": "sha256:0"}]});
        for (name, text) in [("blobs/sha256/0", "blob".to_owned()), ("index.json", index.to_string())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        assert_eq!(names(&path).unwrap(), ["reg.io/a:1", "reg.io/b:1"].map(str::to_owned).into());
    }
}
