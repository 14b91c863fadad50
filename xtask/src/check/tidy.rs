//! Rules of the house that no compiler knows: sizes of files, what they open with, arguments for unsafe code.
//!
//! What rustfmt and clippy can judge is left to them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::check::layers::Layers;
use crate::check::metadata::{self, Crate};
use crate::workspace::Workspace;

/// Lines of a source file at most.
const LINES_MAX: usize = 800;
/// Lines of a folder's README.md at most.
const README_LINES_MAX: usize = 20;
/// Words of an argument for safety at least; fewer say nothing.
const SAFETY_WORDS_MIN: usize = 2;
/// Arguments that argue nothing; upper and lower case are the same.
const EMPTY_PHRASES: [&str; 5] = [
    "caller ensured",
    "ensured by the caller.",
    "trivially safe",
    "no safety requirements",
    "this is safe",
];
/// Types that can change behind a shared reference.
const INTERIOR_MUTABLE: [&str; 8] = [
    "Atomic", "Mutex", "SpinLock", "RwLock", "Once", "Cell<", "Lazy", "Lock<",
];
/// Layers that may have such statics; a host tool's are its own affair.
const STATICS_ALLOWED: [&str; 4] = ["hw", "core", "image", "host"];
/// Folders that hold no source.
const NOT_SOURCE: [&str; 2] = ["target", "node_modules"];

/// A Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where, relative to the root.
    pub(crate) path: PathBuf,
    /// All of it.
    pub(crate) text: String,
}

/// Checks all rules; the error lists every breach.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let layers = Layers::read(workspace)?;
    let crates = metadata::crates(workspace)?;
    let sources = sources(workspace)?;
    let mut breaches = Vec::new();
    for source in &sources {
        let owner = crates
            .iter()
            .filter(|member| source.path.starts_with(&member.folder))
            .max_by_key(|member| member.folder.components().count());
        let layer = owner.and_then(|member| layers.of(&member.name));
        breaches.extend(judge(source, layer.unwrap_or("host")));
        if !is_used(source, &sources) {
            breaches.push(format!(
                "{}: no module names this file",
                source.path.display()
            ));
        }
    }
    breaches.extend(readmes(workspace.root(), &crates));
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("{}", breaches.join("\n"))
}

/// All Rust files of the tree, in order of their paths.
pub(crate) fn sources(workspace: &Workspace) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    collect(workspace.root(), Path::new(""), &mut sources)?;
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(sources)
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let directory = root.join(folder);
    let entries =
        fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = folder.join(&name);
        if name.starts_with('.') || NOT_SOURCE.contains(&name.as_str()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(root, &path, sources)?;
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(entry.path())
                .with_context(|| format!("cannot read {}", path.display()))?;
            sources.push(Source { path, text });
        }
    }
    Ok(())
}

fn judge(source: &Source, layer: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let path = source.path.display();
    let count = source.text.lines().count();
    if count > LINES_MAX {
        breaches.push(format!("{path}: {count} lines; {LINES_MAX} are the limit"));
    }
    if !source.text.starts_with("//!") {
        breaches.push(format!("{path}: does not open with //! and what it is"));
    }
    let mut in_tests = false;
    for (index, line) in source.text.lines().enumerate() {
        let place = format!("{path}:{}", index + 1);
        let code = line.trim_start();
        in_tests = in_tests || code.starts_with("#[cfg(test)]");
        if let Some(argument) = code.strip_prefix("// SAFETY:")
            && is_empty_argument(argument)
        {
            breaches.push(format!("{place}: a SAFETY comment that argues nothing"));
        }
        if code.starts_with(concat!("#[", "allow(")) || code.starts_with(concat!("#![", "allow(")) {
            breaches.push(format!("{place}: expect, with a reason, instead of allow"));
        }
        if code.contains(concat!("TO", "DO")) || code.contains(concat!("FIX", "ME")) {
            breaches.push(format!("{place}: what is missing stands in CAVEATS.md"));
        }
        if !in_tests && !STATICS_ALLOWED.contains(&layer) && is_mutable_static(code) {
            breaches.push(format!(
                "{place}: a changing static in a crate of layer {layer}"
            ));
        }
    }
    breaches
}

fn is_empty_argument(argument: &str) -> bool {
    let lower = argument.to_lowercase();
    let words = lower.split_whitespace().count();
    words < SAFETY_WORDS_MIN || EMPTY_PHRASES.iter().any(|phrase| lower.contains(phrase))
}

fn is_mutable_static(code: &str) -> bool {
    let item = code.split_once("static ").filter(|(before, _)| {
        before.is_empty() || (before.starts_with("pub") && !before.contains("//"))
    });
    item.is_some_and(|(_, item)| {
        let changing = INTERIOR_MUTABLE.iter().any(|name| item.contains(name));
        item.starts_with("mut ") || (item.contains(':') && changing)
    })
}

/// Whether a module names the file; roots of crates are named by Cargo.
fn is_used(source: &Source, sources: &[Source]) -> bool {
    let path = &source.path;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(Path::new(""));
    let in_bin = folder.ends_with("src/bin") || folder.ends_with("tests");
    if in_bin || ["lib", "main", "build"].contains(&&*stem) {
        return true;
    }
    // A folder's module is named one folder above.
    let (name, folder) = match (&*stem, folder.file_name()) {
        ("mod", Some(name)) => (
            name.to_string_lossy().into_owned(),
            folder.parent().unwrap_or(Path::new("")),
        ),
        _ => (stem.into_owned(), folder),
    };
    let declared = format!("mod {name};");
    let parents = [
        folder.join("mod.rs"),
        folder.join("lib.rs"),
        folder.join("main.rs"),
        folder.with_extension("rs"),
    ];
    sources.iter().any(|other| {
        parents.contains(&other.path)
            && other
                .text
                .lines()
                .any(|line| line.trim_end().ends_with(&declared))
    })
}

fn readmes(root: &Path, crates: &[Crate]) -> Vec<String> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for member in crates {
        folders.push(member.folder.clone());
        folders.push(PathBuf::from(member.area()));
    }
    folders.sort();
    folders.dedup();
    let mut breaches = Vec::new();
    for folder in folders {
        let path = folder.join("README.md");
        match fs::read_to_string(root.join(&path)) {
            Err(_) => breaches.push(format!("{} is missing", path.display())),
            Ok(text) if text.lines().count() > README_LINES_MAX => breaches.push(format!(
                "{}: more than {README_LINES_MAX} lines",
                path.display()
            )),
            Ok(_) => {}
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: PathBuf::from(path),
            text: text.to_owned(),
        }
    }

    fn judged(text: &str, layer: &str) -> String {
        judge(&source("a.rs", text), layer).join("\n")
    }

    #[test]
    fn a_file_opens_with_what_it_is_and_ends_in_time() {
        assert!(judged("use x;\n", "lib").contains("does not open"));
        let long = format!("//! X.\n{}", "\n".repeat(LINES_MAX));
        assert!(judged(&long, "lib").contains("801 lines"));
        assert_eq!(judged("//! X.\n", "lib"), "");
    }

    #[test]
    fn arguments_for_safety_argue() {
        for empty in [
            "",
            " safe",
            " Trivially safe here.",
            " the caller ensured it",
        ] {
            assert!(is_empty_argument(empty), "{empty}");
        }
        assert!(!is_empty_argument(" as above."));
        assert!(judged("//! X.\n// SAFETY: ok\n", "hw").contains("a.rs:2"));
    }

    #[test]
    fn logic_has_no_changing_statics() {
        for line in [
            "static A: AtomicU8 = x;",
            "pub(crate) static A: Mutex<u8> = x;",
            "static mut A: u8 = 0;",
        ] {
            let text = format!("//! X.\n{line}\n");
            assert!(judged(&text, "logic").contains("changing static"), "{line}");
            assert_eq!(judged(&text, "hw"), "");
        }
        for line in ["static A: [u8; 2] = x;", "fn a(b: &'static AtomicU8) {}"] {
            assert_eq!(judged(&format!("//! X.\n{line}\n"), "logic"), "", "{line}");
        }
    }

    #[test]
    fn a_file_that_no_module_names_is_dead() {
        let sources = [
            source("k/src/lib.rs", "mod a;\npub(crate) mod b;\n"),
            source("k/src/a.rs", "#[cfg(test)]\nmod tests;\n"),
            source("k/src/a/tests.rs", ""),
            source("k/src/b/mod.rs", "mod c;\n"),
            source("k/src/b/c.rs", ""),
            source("k/src/bin/x.rs", ""),
            source("k/src/dead.rs", ""),
        ];
        let dead: Vec<_> = sources
            .iter()
            .filter(|source| !is_used(source, &sources))
            .map(|source| source.path.clone())
            .collect();
        assert_eq!(dead, [PathBuf::from("k/src/dead.rs")]);
    }
}
