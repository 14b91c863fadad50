//! Layers: dependencies point down only, areas do not see each other, unsafe code has few homes.
//!
//! The rules are in DESIGN's words in ARCHITECTURE.md; which crate is of which layer stands in layers.toml.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::check::metadata::{self, Crate};
use crate::check::tidy::{self, Source};
use crate::workspace::Workspace;

/// A crate may use its own layer and those before it.
const ORDER: [&str; 8] = ["lib", "spec", "api", "logic", "hw", "core", "image", "host"];
/// Layers whose crates forbid unsafe code to themselves.
const SAFE: [&str; 4] = ["lib", "spec", "api", "logic"];
/// Areas that meet only in the kernel.
const SEPARATE_AREAS: [&str; 4] = ["drivers", "vmm", "vmfs", "net"];

/// layers.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layers {
    /// The layer of every crate.
    pub(crate) crates: BTreeMap<String, String>,
    /// Who else may have unsafe code.
    #[serde(rename = "unsafe")]
    unsafe_code: UnsafeCode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnsafeCode {
    /// Beginnings of paths, relative to the root.
    modules: Vec<String>,
}

impl Layers {
    /// Reads layers.toml.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let text = fs::read_to_string(workspace.root().join("layers.toml"))
            .context("cannot read layers.toml")?;
        toml::from_str(&text).context("in layers.toml")
    }

    /// The layer of a crate.
    pub(crate) fn of(&self, name: &str) -> Option<&str> {
        self.crates.get(name).map(String::as_str)
    }
}

/// Checks all rules; the error lists every breach.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let layers = Layers::read(workspace)?;
    let crates = metadata::crates(workspace)?;
    let sources = tidy::sources(workspace)?;
    let mut breaches = dependencies(&layers, &crates);
    breaches.extend(unsafe_code(&layers, &crates, &sources));
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("{}", breaches.join("\n"))
}

fn dependencies(layers: &Layers, crates: &[Crate]) -> Vec<String> {
    let mut breaches = Vec::new();
    let rank = |name: &str| {
        let layer = layers.of(name)?;
        ORDER.iter().position(|known| *known == layer)
    };
    for name in layers.crates.keys() {
        if !crates.iter().any(|member| member.name == *name) {
            breaches.push(format!("layers.toml names {name}, which is no crate"));
        }
    }
    for member in crates {
        let Some(own_rank) = rank(&member.name) else {
            breaches.push(format!("layers.toml gives {} no layer", member.name));
            continue;
        };
        for used in &member.uses {
            let edge = format!("{} uses {used}", member.name);
            if rank(used).is_some_and(|rank| rank > own_rank) {
                breaches.push(format!("{edge}, which is of a higher layer"));
            }
            if layers.of(&member.name) == Some("hw") && layers.of(used) == Some("logic") {
                breaches.push(format!("{edge}: hw is mechanism and uses no logic"));
            }
            let other_area = crates
                .iter()
                .find(|other| other.name == *used)
                .map_or_else(String::new, Crate::area);
            let apart = |area: &str| SEPARATE_AREAS.contains(&area);
            if member.area() != other_area && apart(&member.area()) && apart(&other_area) {
                breaches.push(format!("{edge}: the areas meet in the kernel only"));
            }
        }
    }
    breaches
}

fn unsafe_code(layers: &Layers, crates: &[Crate], sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for member in crates {
        let layer = layers.of(&member.name).unwrap_or_default();
        if SAFE.contains(&layer) {
            let root = member.folder.join("src/lib.rs");
            let forbids = sources
                .iter()
                .find(|source| source.path == root)
                .is_some_and(|source| source.text.contains("#![forbid(unsafe_code)]"));
            if !forbids {
                breaches.push(format!(
                    "{} is of layer {layer} and does not say #![forbid(unsafe_code)]",
                    root.display()
                ));
            }
        }
    }
    for source in sources {
        let owner = crates
            .iter()
            .filter(|member| source.path.starts_with(&member.folder))
            .max_by_key(|member| member.folder.components().count());
        let layer = owner.and_then(|member| layers.of(&member.name));
        let path = source.path.to_string_lossy();
        let listed = layers.unsafe_code.modules.iter();
        let allowed = layer == Some("hw") || listed.clone().any(|start| path.starts_with(start));
        if !allowed && opts_in(&source.text) {
            breaches.push(format!(
                "{path} opts in to unsafe code; only hw crates and the modules in layers.toml may"
            ));
        }
    }
    for start in &layers.unsafe_code.modules {
        let used = |source: &&Source| source.path.to_string_lossy().starts_with(start.as_str());
        if !sources
            .iter()
            .filter(used)
            .any(|source| opts_in(&source.text))
        {
            breaches.push(format!(
                "layers.toml allows unsafe code in {start}, where there is none"
            ));
        }
    }
    breaches
}

/// Whether a file lifts the ban on unsafe code, for itself or an item.
fn opts_in(text: &str) -> bool {
    let mut attribute = false;
    text.lines().map(str::trim_start).any(|line| {
        // The name may stand a line below the word that opens the attribute.
        let opens = ["#[expect(", "#![expect(", "#[allow(", "#![allow("];
        attribute = attribute || opens.iter().any(|open| line.starts_with(open));
        let found = attribute && line.contains("unsafe_code");
        attribute = attribute && !line.ends_with(")]");
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn member(name: &str, folder: &str, uses: &[&str]) -> Crate {
        Crate {
            name: name.to_owned(),
            folder: PathBuf::from(folder),
            uses: uses.iter().map(|used| (*used).to_owned()).collect(),
        }
    }

    fn layers(text: &str) -> Layers {
        toml::from_str(text).expect("a good file")
    }

    #[test]
    fn each_kind_of_wrong_dependency_is_found() {
        let layers = layers(
            "[crates]\napi = \"api\"\ndisk = \"logic\"\nnic = \"logic\"\ncpu = \"hw\"\ngone = \"lib\"\n\
             [unsafe]\nmodules = []\n",
        );
        let crates = [
            member("api", "kernel/api", &["disk"]),
            member("disk", "vmfs/disk", &["api", "nic"]),
            member("nic", "net/nic", &["api"]),
            member("cpu", "kernel/cpu", &["nic"]),
            member("new", "kernel/new", &[]),
        ];
        let breaches = dependencies(&layers, &crates).join("\n");
        for wanted in [
            "layers.toml names gone",
            "api uses disk, which is of a higher layer",
            "disk uses nic: the areas",
            "cpu uses nic: hw is mechanism",
            "gives new no layer",
        ] {
            assert!(breaches.contains(wanted), "{breaches}");
        }
        assert_eq!(breaches.lines().count(), 5);
    }

    #[test]
    fn unsafe_code_needs_a_home() {
        let layers = layers(
            "[crates]\na = \"logic\"\nk = \"image\"\n[unsafe]\nmodules = [\"kernel/k/src/cpu\", \"nowhere\"]\n",
        );
        let crates = [member("a", "x/a", &[]), member("k", "kernel/k", &[])];
        let source = |path: &str, text: &str| Source {
            path: PathBuf::from(path),
            text: text.to_owned(),
        };
        let sources = [
            source("x/a/src/lib.rs", "//! A.\n"),
            source(
                "kernel/k/src/cpu.rs",
                "#![expect(unsafe_code, reason = \"x\")]\n",
            ),
            source(
                "kernel/k/src/vm.rs",
                "#![expect(\n    unsafe_code,\n    reason = \"x\"\n)]\n",
            ),
        ];
        let breaches = unsafe_code(&layers, &crates, &sources).join("\n");
        assert!(breaches.contains("x/a/src/lib.rs is of layer logic"));
        assert!(breaches.contains("kernel/k/src/vm.rs opts in"));
        assert!(breaches.contains("allows unsafe code in nowhere"));
        assert_eq!(breaches.lines().count(), 3, "{breaches}");
    }
}
