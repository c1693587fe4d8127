//! Images: a few public ones, and what scripts add.

use super::model::{Image, Tags};
use super::{moment, show};
use crate::call::{Call, Outcome};
use crate::filters::{Filters, maybe, one};
use crate::ids::{Kind, mix};
use crate::region::Region;
use crate::xml::{Node, group, items, show as shown, text};
use jiff::Timestamp;

/// Public images: name, architecture, owner, alias.
const PUBLIC: [(&str, &str, &str, Option<&str>); 4] = [
    ("al2023-ami-2023.9.20261101.0-kernel-6.1-x86_64", "x86_64", "137112412989", Some("amazon")),
    ("al2023-ami-2023.9.20261101.0-kernel-6.1-arm64", "arm64", "137112412989", Some("amazon")),
    ("debian-13-amd64-20261101-2284", "x86_64", "136693071363", None),
    ("debian-13-arm64-20261101-2284", "arm64", "136693071363", None),
];

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let owners = call.form.list("Owner");
    let owned = |it: &Image| {
        owners.iter().any(|owner| {
            *owner == it.owner
                || Some(*owner) == it.owner_alias.as_deref()
                || (*owner == "self" && it.owner == region.account)
        })
    };
    let holds = |filters: &Filters, id: &str, it: &Image| {
        (owners.is_empty() || owned(it))
            && filters.hold(&it.tags, |name| match name {
                "architecture" => one(&it.architecture),
                "image-id" => one(id),
                "name" => one(&it.name),
                "owner-id" => one(&it.owner),
                "owner-alias" => maybe(it.owner_alias.as_ref()),
                "state" => one("available"),
                "root-device-type" => one("ebs"),
                "virtualization-type" => one("hvm"),
                "is-public" => one(it.public),
                _ => Vec::new(),
            })
    };
    let (found, token) = call.describe(&region.images, "ImageId", |id| Kind::Image.missing(id), holds)?;
    let mut answer = vec![items("imagesSet", found.into_iter().map(|(id, it)| nodes(id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn nodes(id: &str, it: &Image) -> Vec<Node> {
    let root = vec![
        text("deviceName", &it.root_device),
        group(
            "ebs",
            vec![
                text("snapshotId", &it.root_snapshot),
                shown("volumeSize", it.root_size),
                shown("deleteOnTermination", true),
                text("volumeType", "gp3"),
                shown("encrypted", false),
            ],
        ),
    ];
    let mut nodes = vec![
        text("imageId", id),
        text("imageLocation", format!("{}/{}", it.owner, it.name)),
        text("imageState", "available"),
        text("imageOwnerId", &it.owner),
        shown("isPublic", it.public),
        items("productCodes", []),
        text("architecture", &it.architecture),
        text("imageType", "machine"),
        text("name", &it.name),
        text("description", &it.description),
        text("rootDeviceType", "ebs"),
        text("rootDeviceName", &it.root_device),
        items("blockDeviceMapping", [root]),
        text("virtualizationType", "hvm"),
        text("hypervisor", "xen"),
        shown("enaSupport", true),
        text("sriovNetSupport", "simple"),
        text("creationDate", moment(it.created)),
        text("platformDetails", "Linux/UNIX"),
        text("usageOperation", "RunInstances"),
        text("bootMode", "uefi-preferred"),
        text("imdsSupport", "v2.0"),
        show::tags(&it.tags),
    ];
    nodes.extend(it.owner_alias.as_ref().map(|alias| text("imageOwnerAlias", alias)));
    nodes
}

impl Region {
    /// The images that every account sees; identifiers depend on the region and the name alone.
    pub(crate) fn put_public_images(&mut self, now: Timestamp) {
        for (name, architecture, owner, alias) in PUBLIC {
            let id = self.image_id(name);
            self.put_image(&id, name, architecture, (owner, alias), now);
        }
    }

    fn image_id(&self, name: &str) -> String {
        let text = format!("{}{name}", self.name);
        let hash = text.bytes().fold(7u64, |hash, byte| mix(hash ^ u64::from(byte)));
        format!("ami-0{hash:016x}")
    }

    /// Adds an image of the account, for scripts; its identifier.
    pub(crate) fn add_image(&mut self, name: &str, architecture: &str, now: Timestamp) -> String {
        let id = self.image_id(name);
        let account = self.account.clone();
        self.put_image(&id, name, architecture, (&account, None), now);
        id
    }

    fn put_image(&mut self, id: &str, name: &str, architecture: &str, owner: (&str, Option<&str>), now: Timestamp) {
        let image = Image {
            name: name.to_owned(),
            description: name.to_owned(),
            owner: owner.0.to_owned(),
            owner_alias: owner.1.map(str::to_owned),
            architecture: architecture.to_owned(),
            root_device: "/dev/xvda".to_owned(),
            root_snapshot: id.replacen("ami-", "snap-", 1),
            root_size: 8,
            created: now,
            public: owner.0 != self.account,
            tags: Tags::new(),
        };
        self.images.insert(id, image, now);
    }
}
