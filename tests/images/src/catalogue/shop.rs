//! The images of the example shop: programs from Debian packages over one shared base.
//!
//! No maintainer script runs, so packages that exist only for such scripts are left out, and users, folders and start
//! scripts are ours.

use super::{folders, merged_links, users, words};
use crate::spec::{FileSpec, ImageSpec, LayerSpec, Process};
use crate::tree::{Owner, Select};

/// The user of every program of the shop. One number for all, as each runs alone in its container.
const USER: u32 = 999;
const OWNER: Owner = Owner { uid: USER, gid: USER };

/// Packages that only maintainer scripts use, or whose work the base does otherwise.
const SCRIPTS_ONLY: &str = "adduser debconf dpkg init-system-helpers libc-l10n locales lsb-base netbase openssl passwd \
    perl perl-base readline-common sensible-utils ssl-cert sysvinit-utils tar ucf";

const APP: &str = include_str!("../../../../examples/shop/app/shop.py");
const VARNISH_START: &str = include_str!("../../../../examples/shop/images/varnish-start.sh");
const POSTGRES_START: &str = include_str!("../../../../examples/shop/images/postgres-start.sh");

/// The C library, TLS, a shell, and the folders and links of a Debian system.
fn base() -> LayerSpec {
    let mut files = folders();
    files.extend(merged_links());
    files.push(FileSpec::link("bin/sh", "busybox"));
    for name in words("cat chmod date dirname echo grep head id ls mkdir mv ps rm sleep sync touch wget") {
        files.push(FileSpec::link(&format!("bin/{name}"), "busybox"));
    }
    files.push(FileSpec::link("var/run", "/run"));
    files.push(FileSpec::text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"));
    LayerSpec {
        packages: words("busybox-static libc-bin libc6 libssl3 zlib1g"),
        without: words(SCRIPTS_ONLY),
        select: Select { keep: Vec::new(), drop: words("usr/lib/*/gconv usr/share/doc-base etc/ld.so.conf.d") },
        files,
    }
}

fn image(name: &str, layer: LayerSpec, process: Process) -> ImageSpec {
    let layer = LayerSpec { without: [layer.without, words(SCRIPTS_ONLY)].concat(), ..layer };
    let process = Process { user: format!("{USER}:{USER}"), ..process };
    ImageSpec { reference: format!("timonel.io/shop-{name}:1"), layers: vec![base(), layer], process }
}

/// The three web applications: Python with the clients of Redis and PostgreSQL.
pub(super) fn app() -> ImageSpec {
    let mut files = users(&[("shop", USER, "/nonexistent")]);
    files.push(FileSpec::text("srv/shop.py", APP));
    let layer = LayerSpec {
        packages: words("python3 python3-psycopg2 python3-redis"),
        without: words("libdb5.3 libncursesw6 libnsl2 libreadline8 libsqlite3-0 libtinfo6 libtirpc3 media-types"),
        select: Select {
            keep: Vec::new(),
            drop: words(
                "usr/lib/python3.11/idlelib usr/lib/python3.11/lib2to3 usr/lib/python3.11/pydoc_data \
                 usr/lib/python3.11/unittest usr/share/applications usr/share/pixmaps usr/share/python3",
            ),
        },
        files,
    };
    let process = Process {
        entrypoint: words("python3 /srv/shop.py"),
        environment: words("PYTHONDONTWRITEBYTECODE=1"),
        ..Process::default()
    };
    image("app", layer, process)
}

/// Redis as a cache: nothing on disk.
pub(super) fn redis() -> ImageSpec {
    let mut files = users(&[("redis", USER, "/nonexistent")]);
    files.push(FileSpec::directory("var/lib/redis", 0o700, OWNER));
    let layer = LayerSpec { packages: words("redis-server"), files, ..LayerSpec::default() };
    let process = Process {
        entrypoint: words("redis-server --protected-mode no --appendonly no --dir /var/lib/redis"),
        command: words("--save"),
        ..Process::default()
    };
    // An empty argument is how Redis is told to save nothing.
    let process = Process { command: [process.command, vec![String::new()]].concat(), ..process };
    image("redis", layer, process)
}

/// Varnish, with tcc in the place of gcc.
pub(super) fn varnish() -> ImageSpec {
    let mut files = users(&[("varnish", USER, "/nonexistent")]);
    files.push(FileSpec::script("usr/local/bin/varnish-start", VARNISH_START));
    // The code that Varnish generates asks the C library for the integer types alone; tcc has them beside `size_t`.
    files.push(FileSpec::text("usr/include/stdint.h", "#include <stddef.h>\n"));
    let layer = LayerSpec {
        packages: words("tcc varnish"),
        without: words("gcc libc6-dev"),
        select: Select { keep: Vec::new(), drop: words("usr/bin/i386-tcc usr/lib/*/tcc/i386-libtcc1.a") },
        files,
    };
    let process = Process { entrypoint: words("/usr/local/bin/varnish-start"), ..Process::default() };
    image("varnish", layer, process)
}

/// PostgreSQL without its just-in-time compiler, which is four fifths of it.
pub(super) fn postgres() -> ImageSpec {
    let mut files = users(&[("postgres", USER, "/var/lib/postgresql")]);
    files.push(FileSpec::script("usr/local/bin/postgres-start", POSTGRES_START));
    files.push(FileSpec::directory("var/lib/postgresql", 0o755, OWNER));
    files.push(FileSpec::directory("var/lib/postgresql/data", 0o700, OWNER));
    let layer = LayerSpec {
        packages: words("postgresql-15 tzdata"),
        without: words("libllvm14 libxslt1.1 postgresql-client-common postgresql-common"),
        select: Select {
            keep: Vec::new(),
            drop: words(
                "usr/lib/postgresql/15/lib/bitcode usr/lib/postgresql/15/lib/llvmjit.so \
                 usr/lib/postgresql/15/lib/llvmjit_types.bc usr/lib/postgresql/15/lib/pgxml.so \
                 usr/share/zoneinfo/posix usr/share/zoneinfo/right usr/share/postgresql/15/man",
            ),
        },
        files,
    };
    let process = Process {
        entrypoint: words("/usr/local/bin/postgres-start"),
        environment: words("PGDATA=/var/lib/postgresql/data/pgdata TZ=UTC LC_ALL=C.UTF-8"),
        // The fast way to stop: ends sessions instead of waiting for them.
        stop_signal: "SIGINT".to_owned(),
        ..Process::default()
    };
    image("postgres", layer, process)
}
