//! Prints objects of the fleet in the form that was asked for.

use crate::cli::Format;
use anyhow::Context;
use comfy_table::{Table, presets::NOTHING};
use jiff::Timestamp;
use kube::Resource;
use serde::Serialize;

/// Prints `objects`; `row` gives the cells of one under `header`.
pub(crate) fn print<K>(
    format: Format,
    objects: &[K],
    header: &[&str],
    row: impl Fn(&K) -> Vec<String>,
) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    match format {
        Format::Table => {
            let mut table = Table::new();
            table.load_style(NOTHING).set_header(header.iter().copied());
            for object in objects {
                table.add_row(row(object));
            }
            println!("{}", table.trim_fmt());
        }
        Format::Json => println!("{}", serde_json::to_string_pretty(objects).context("JSON")?),
        Format::Yaml => {
            for object in objects {
                print!("---\n{}", serde_saphyr::to_string(object).context("YAML")?);
            }
        }
        Format::Name => {
            for object in objects {
                println!("{}", object.meta().name.as_deref().unwrap_or_default());
            }
        }
    }
    Ok(())
}

/// How long ago, in kubectl's way: one unit, two where it matters.
pub(crate) fn age(object: &impl Resource, now: Timestamp) -> String {
    let Some(created) = &object.meta().creation_timestamp else { return "<unknown>".to_owned() };
    let seconds = now.duration_since(created.0).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
