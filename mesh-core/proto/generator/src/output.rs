//! A folder of generated files, compared with what is checked in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Files are generated into a temporary folder and replace those of the target folder at once.
pub(crate) struct Output {
    target: PathBuf,
    staging: TempDir,
}

/// A file whose checked-in content is not what the generator writes.
pub(crate) struct Change {
    path: PathBuf,
    kind: &'static str,
}

type Files = BTreeMap<OsString, Vec<u8>>;

impl Output {
    pub(crate) fn new(target: PathBuf) -> io::Result<Self> {
        Ok(Self { target, staging: TempDir::new()? })
    }

    /// Where to generate.
    pub(crate) fn staging(&self) -> &Path {
        self.staging.path()
    }

    /// What [`publish`](Self::publish) would write or remove.
    pub(crate) fn changes(&self) -> io::Result<Vec<Change>> {
        let (old, new) = (read(&self.target)?, read(self.staging())?);
        let change = |name: &OsString, kind| Change { path: self.target.join(name), kind };
        let written = new.iter().filter_map(|(name, content)| match old.get(name) {
            None => Some(change(name, "missing")),
            Some(found) if found != content => Some(change(name, "differs")),
            Some(_) => None,
        });
        let removed = old.keys().filter(|name| !new.contains_key(*name));
        Ok(written.chain(removed.map(|name| change(name, "left over"))).collect())
    }

    /// Makes the target folder hold exactly the generated files.
    pub(crate) fn publish(self) -> io::Result<()> {
        fs::create_dir_all(&self.target)?;
        for change in self.changes()? {
            if change.kind == "left over" {
                fs::remove_file(change.path)?;
            }
        }
        for (name, content) in read(self.staging())? {
            fs::write(self.target.join(name), content)?;
        }
        Ok(())
    }
}

/// The generated files of a folder; `.proto` files may be beside them.
fn read(folder: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    if !folder.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let generated = path.extension().is_some_and(|kind| kind == "rs" || kind == "bin");
        if let (true, Some(name)) = (generated, path.file_name()) {
            files.insert(name.to_owned(), fs::read(&path)?);
        }
    }
    Ok(files)
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.path.display())
    }
}
