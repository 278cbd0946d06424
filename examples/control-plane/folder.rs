//! A folder of resource files, read again where it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mesh_core::testing::{Resource, Resources};

use crate::decode::Decoder;

/// The files, and what was read of each last.
pub(crate) struct Folder {
    path: PathBuf,
    decoder: Decoder,
    files: BTreeMap<PathBuf, File>,
    generation: u64,
}

#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    text: String,
    resources: Vec<Resource>,
}

/// A file whose stamp is the same has not changed: no need to read it.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// A file that was put in the place of another has another one.
    inode: u64,
}

/// A file that cannot be served.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) file: String,
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.text)
    }
}

impl Folder {
    /// Nothing is read yet.
    pub(crate) fn new(path: PathBuf, decoder: Decoder) -> Self {
        Self { path, decoder, files: BTreeMap::new(), generation: 0 }
    }

    /// Counts the changes of what is to be served.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Reads what changed. A file that is wrong is reported once, and what it held before stays.
    pub(crate) fn read(&mut self) -> io::Result<Vec<Problem>> {
        let mut found = BTreeMap::new();
        list(&self.path, &mut found)?;
        let before = self.files.len();
        self.files.retain(|path, _| found.contains_key(path));
        if self.files.len() != before {
            self.generation += 1;
        }
        let problems = found.into_iter().filter_map(|(path, stamp)| self.read_file(path, stamp));
        Ok(problems.collect())
    }

    fn read_file(&mut self, path: PathBuf, stamp: Stamp) -> Option<Problem> {
        let file = self.files.entry(path.clone()).or_default();
        if file.stamp.as_ref() == Some(&stamp) {
            return None;
        }
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(problem(&path, error)),
        };
        let first = file.stamp.replace(stamp).is_none();
        if text == file.text && !first {
            return None;
        }
        file.text = text;
        match decode(&self.decoder, &path, &file.text) {
            Ok(resources) => {
                file.resources = resources;
                self.generation += 1;
                None
            }
            Err(error) => Some(problem(&path, error)),
        }
    }

    /// All resources; two of one type and name are a problem.
    pub(crate) fn resources(&self) -> Result<Resources, Problem> {
        let mut seen = BTreeSet::new();
        let mut resources = Resources::new();
        for (path, file) in &self.files {
            for resource in &file.resources {
                if !seen.insert((resource.type_url(), resource.name())) {
                    let text = format!("{} `{}` is there twice", resource.type_url(), resource.name());
                    return Err(problem(path, text));
                }
                resources.put(resource.clone());
            }
        }
        Ok(resources)
    }
}

fn decode(decoder: &Decoder, path: &Path, text: &str) -> Result<Vec<Resource>, Box<dyn std::error::Error>> {
    match path.extension().is_some_and(|extension| extension == "json") {
        true => decoder.json(text),
        false => decoder.yaml(text),
    }
}

/// The resource files in `folder` and below.
fn list(folder: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    let unreadable = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry?.path();
        // A file that has gone since is no file; a link counts as what it points to.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            list(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            found.insert(path, stamp(&metadata));
        }
    }
    Ok(())
}

fn stamp(metadata: &Metadata) -> Stamp {
    Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() }
}

fn problem(path: &Path, text: impl ToString) -> Problem {
    Problem { file: path.display().to_string(), text: text.to_string() }
}
