//! Builds the images of the local cluster into a folder: the same as `up` does, by hand.

use std::path::PathBuf;

use clap::Parser;
use timonel_images::{Built, Progress, all_images, build_all, build_named};

/// Builds container images from Debian packages, without a registry.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the archives go.
    #[arg(long, required_unless_present = "list")]
    out: Option<PathBuf>,
    /// Where packages and finished images are kept between runs.
    #[arg(long, required_unless_present = "list")]
    cache: Option<PathBuf>,
    /// Prints the references of all images and ends.
    #[arg(long)]
    list: bool,
    /// Images to build, by reference or archive name; all when none is named.
    images: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (Some(out), Some(cache), false) = (&arguments.out, &arguments.cache, arguments.list) else {
        all_images().iter().for_each(|image| println!("{}", image.reference));
        return Ok(());
    };
    let mut show = |progress: Progress| eprintln!("{}", describe(&progress));
    let built = if arguments.images.is_empty() {
        build_all(out, cache, &mut show)?
    } else {
        build_named(&arguments.images, out, cache, &mut show)?
    };
    for Built { reference, digest, bytes, path, .. } in built {
        println!("{reference}\t{digest}\t{bytes}\t{}", path.display());
    }
    Ok(())
}

fn describe(progress: &Progress) -> String {
    match progress {
        Progress::ReadingIndex => "reading the package index".to_owned(),
        Progress::Updating => "fetching a newer package index".to_owned(),
        Progress::Downloading { packages, bytes } => format!("downloading {packages} packages, {bytes} bytes"),
        Progress::Packing { reference } => format!("packing {reference}"),
        Progress::Finished(built) if built.changed => format!("wrote {}", built.path.display()),
        Progress::Finished(built) => format!("{} is in place", built.path.display()),
    }
}
