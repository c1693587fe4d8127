//! The images of ours, as data: what each holds and runs.

mod shop;

use crate::spec::{FileSpec, ImageSpec, LayerSpec, Process};
use crate::tree::{Owner, Select};

/// The names under which the shell image's one program is called.
const BUSYBOX_LINKS: &str = include_str!("busybox.links");

/// Every image that the nodes of a local cluster are given.
#[must_use]
pub fn all_images() -> Vec<ImageSpec> {
    vec![pause(), busybox(), shop::app(), shop::redis(), shop::varnish(), shop::postgres()]
}

/// The image with this reference or archive name (without `.tar`).
#[must_use]
pub fn image_named(name: &str) -> Option<ImageSpec> {
    let is_it = |spec: &ImageSpec| spec.reference == name || spec.archive_name().strip_suffix(".tar") == Some(name);
    all_images().into_iter().find(is_it)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The process that holds a pod's namespaces: reaps what is left to it and ends when asked. Static, nothing else in it.
fn pause() -> ImageSpec {
    let layer = LayerSpec {
        packages: words("catatonit"),
        select: Select { keep: words("usr/bin/catatonit"), drop: Vec::new() },
        ..LayerSpec::default()
    };
    let process =
        Process { entrypoint: words("/usr/bin/catatonit -P"), user: "65535:65535".to_owned(), ..Process::default() };
    ImageSpec { reference: "registry.k8s.io/pause:3.10.2".to_owned(), layers: vec![layer], process }
}

/// A shell and the usual small tools in one static program.
fn busybox() -> ImageSpec {
    let mut files: Vec<FileSpec> =
        BUSYBOX_LINKS.split_whitespace().map(|name| FileSpec::link(&format!("bin/{name}"), "busybox")).collect();
    files.extend(users(&[]));
    files.extend(folders());
    files.extend(merged_links());
    let layer = LayerSpec {
        packages: words("busybox-static"),
        select: Select { keep: words("usr/bin/busybox"), drop: Vec::new() },
        files,
        ..LayerSpec::default()
    };
    let process = Process { command: words("sh"), ..Process::default() };
    ImageSpec { reference: "timonel.io/busybox:1".to_owned(), layers: vec![layer], process }
}

/// The user table with root, nobody, and one's own.
fn users(own: &[(&str, u32, &str)]) -> Vec<FileSpec> {
    let mut passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n".to_owned();
    let mut group = "root:x:0:\nnogroup:x:65534:\n".to_owned();
    for (name, id, home) in own {
        passwd.push_str(&format!("{name}:x:{id}:{id}:{name}:{home}:/bin/sh\n"));
        group.push_str(&format!("{name}:x:{id}:\n"));
    }
    vec![FileSpec::text("etc/passwd", &passwd), FileSpec::text("etc/group", &group)]
}

/// The folders that programs take for granted.
fn folders() -> Vec<FileSpec> {
    let mut folders: Vec<FileSpec> = ["dev", "etc", "proc", "run", "sys", "var", "var/lib", "var/log"]
        .into_iter()
        .map(|path| FileSpec::directory(path, 0o755, Owner::ROOT))
        .collect();
    folders.push(FileSpec::directory("root", 0o700, Owner::ROOT));
    folders.push(FileSpec::directory("tmp", 0o1777, Owner::ROOT));
    folders.push(FileSpec::directory("var/tmp", 0o1777, Owner::ROOT));
    folders
}

/// `/bin` and its like as links into `/usr`, as Debian has them.
fn merged_links() -> Vec<FileSpec> {
    ["bin", "lib", "lib64", "sbin"].into_iter().map(|name| FileSpec::link(name, &format!("usr/{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn references_and_archive_names_are_unique_and_find_their_image() {
        let images = all_images();
        let names: BTreeSet<String> = images.iter().map(ImageSpec::archive_name).collect();
        assert_eq!(names.len(), images.len());
        for image in &images {
            assert_eq!(image_named(&image.reference).as_ref(), Some(image));
            assert_eq!(image_named(image.archive_name().trim_end_matches(".tar")).as_ref(), Some(image));
        }
        assert_eq!(image_named("busybox"), None);
    }

    #[test]
    fn users_have_their_group() {
        let files = users(&[("redis", 999, "/data")]);
        let texts: Vec<&crate::spec::FileKind> = files.iter().map(|file| &file.kind).collect();
        let crate::spec::FileKind::Text(passwd) = texts[0] else { panic!("a file") };
        assert!(passwd.ends_with("redis:x:999:999:redis:/data:/bin/sh\n"), "{passwd}");
        let crate::spec::FileKind::Text(group) = texts[1] else { panic!("a file") };
        assert!(group.ends_with("redis:x:999:\n"), "{group}");
    }
}
