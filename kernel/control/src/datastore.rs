//! Requests about datastores, and the paths in them: `DATASTORE:PATH`.
//!
//! Whether a datastore or a file is there is for the one who carries a request out.

use crate::command::{Matches, Request};
use crate::error::CommandError;
use crate::settings::bad;
use alloc::string::{String, ToString};
use core::fmt;

/// The name under which files of the boot archive can be read.
pub const BOOT_STORE: &str = "boot";
/// Bytes of a datastore's name.
const STORE_NAME_LEN_MAX: usize = 63;
/// Bytes of a path.
const PATH_LEN_MAX: usize = 1024;
/// Records that `datastore test` writes if nothing is said.
const RECORDS_DEFAULT: u32 = 100;

/// The name of a datastore: 1 to 63 of `a-z 0-9 - _ .`, the first a letter or digit, and not `boot`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreName(String);

impl StoreName {
    /// Checks a name; `None` if it is none.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let first = name.bytes().next()?;
        let is_name = first.is_ascii_alphanumeric()
            && name.len() <= STORE_NAME_LEN_MAX
            && name.bytes().all(good)
            && name != BOOT_STORE;
        is_name.then(|| Self(name.to_string()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file or directory: which datastore, and its path there without slashes at the ends; empty for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePath {
    /// The datastore's name, or [`BOOT_STORE`].
    pub store: String,
    /// Names separated by single slashes.
    pub path: String,
}

impl StorePath {
    /// Reads `DATASTORE:PATH`; `None` if the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (store, path) = text.split_once(':')?;
        let known = store == BOOT_STORE || StoreName::new(store).is_some();
        let path = path.trim_matches('/');
        let good = path.len() <= PATH_LEN_MAX
            && !path.chars().any(char::is_control)
            && (path.is_empty() || path.split('/').all(|name| !name.is_empty()));
        (known && good).then(|| Self {
            store: store.to_string(),
            path: path.to_string(),
        })
    }

    /// Returns the directory's path and the last name; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(&str, &str)> {
        let split = self.path.rsplit_once('/');
        let (directory, name) = split.unwrap_or(("", &self.path));
        (!name.is_empty()).then_some((directory, name))
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.store, self.path)
    }
}

/// What can be asked about datastores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatastoreRequest {
    /// List those that are mounted.
    List,
    /// Show all about one.
    Info(StoreName),
    /// Make one.
    Create {
        /// The device or partition.
        device: String,
        /// Its name.
        name: StoreName,
        /// Whatever is on the device may go.
        force: bool,
        /// Other hosts will mount it as well.
        shared: bool,
    },
    /// List a directory.
    Ls(StorePath),
    /// Make a directory.
    Mkdir(StorePath),
    /// Copy a file.
    Cp {
        /// Which.
        from: StorePath,
        /// To where; nothing may be there.
        to: StorePath,
    },
    /// Move a file or directory within its datastore.
    Mv {
        /// Which.
        from: StorePath,
        /// To where; nothing may be there.
        to: StorePath,
    },
    /// Remove a file or an empty directory.
    Rm(StorePath),
    /// Look for damage.
    Check(StoreName),
    /// Write records that are numbered, each durable before it is told.
    Test {
        /// The file; made anew if it is not there.
        path: StorePath,
        /// How many.
        records: u32,
    },
}

fn path(matches: &Matches, index: usize) -> Result<StorePath, CommandError> {
    let text = matches.argument(index);
    StorePath::parse(text).ok_or_else(|| bad("a path", text, "write it as DATASTORE:PATH"))
}

fn name(text: &str) -> Result<StoreName, CommandError> {
    let rule = "a name is 1 to 63 of the characters a-z 0-9 - _ . and starts with a letter or a digit; \
        `boot` is the boot archive";
    StoreName::new(text).ok_or_else(|| bad("NAME", text, rule))
}

fn ask(request: DatastoreRequest) -> Result<Request, CommandError> {
    Ok(Request::Datastore(request))
}

pub(crate) fn build_list(_: &Matches) -> Result<Request, CommandError> {
    ask(DatastoreRequest::List)
}

pub(crate) fn build_info(matches: &Matches) -> Result<Request, CommandError> {
    ask(DatastoreRequest::Info(name(matches.argument(0))?))
}

pub(crate) fn build_create(matches: &Matches) -> Result<Request, CommandError> {
    ask(DatastoreRequest::Create {
        name: name(matches.argument(0))?,
        device: matches.argument(1).to_string(),
        force: matches.has("force"),
        shared: matches.has("shared"),
    })
}

pub(crate) fn build_ls(matches: &Matches) -> Result<Request, CommandError> {
    let text = matches.argument(0);
    // The root may be named without its colon.
    let root = StoreName::new(text).map(|name| StorePath {
        store: name.0,
        path: String::new(),
    });
    let place = match root {
        Some(root) => root,
        None if text == BOOT_STORE => StorePath {
            store: text.to_string(),
            path: String::new(),
        },
        None => path(matches, 0)?,
    };
    ask(DatastoreRequest::Ls(place))
}

pub(crate) fn build_mkdir(matches: &Matches) -> Result<Request, CommandError> {
    ask(DatastoreRequest::Mkdir(path(matches, 0)?))
}

pub(crate) fn build_cp(matches: &Matches) -> Result<Request, CommandError> {
    let (from, to) = (path(matches, 0)?, path(matches, 1)?);
    ask(DatastoreRequest::Cp { from, to })
}

pub(crate) fn build_mv(matches: &Matches) -> Result<Request, CommandError> {
    let (from, to) = (path(matches, 0)?, path(matches, 1)?);
    ask(DatastoreRequest::Mv { from, to })
}

pub(crate) fn build_rm(matches: &Matches) -> Result<Request, CommandError> {
    ask(DatastoreRequest::Rm(path(matches, 0)?))
}

pub(crate) fn build_check(matches: &Matches) -> Result<Request, CommandError> {
    ask(DatastoreRequest::Check(name(matches.argument(0))?))
}

pub(crate) fn build_test(matches: &Matches) -> Result<Request, CommandError> {
    ask(DatastoreRequest::Test {
        path: path(matches, 0)?,
        records: matches.number("records")?.unwrap_or(RECORDS_DEFAULT),
    })
}

#[cfg(test)]
mod tests {
    use super::{StoreName, StorePath};

    #[test]
    fn paths_name_a_datastore_and_a_place() {
        let path = StorePath::parse("main:/images/vmlinuz/").unwrap();
        assert_eq!(
            (path.store.as_str(), path.path.as_str()),
            ("main", "images/vmlinuz")
        );
        assert_eq!(path.split(), Some(("images", "vmlinuz")));
        assert_eq!(StorePath::parse("main:a").unwrap().split(), Some(("", "a")));
        assert_eq!(StorePath::parse("main:").unwrap().split(), None);
        for bad in ["main", "Main:a", ":a", "main:a//b", "main:a\n", "-x:a"] {
            assert_eq!(StorePath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_boot_archive_is_no_datastore() {
        assert!(StoreName::new("boot").is_none() && StoreName::new("boot2").is_some());
        assert!(StorePath::parse("boot:images/demo.elf").is_some());
    }
}
