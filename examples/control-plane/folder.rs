//! A folder of resource files, read again where it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mesh_core::testing::{Resource, Resources};

use crate::decode::Decoder;

/// The files, and what was read of each last.
pub(crate) struct Folder {
    path: PathBuf,
    decoder: Decoder,
    files: BTreeMap<PathBuf, File>,
    generation: u64,
    /// Why the folder itself could not be read.
    unreadable: Option<Problem>,
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
    /// Of its content or its permissions, in seconds and nanoseconds.
    changed: (i64, i64),
    length: u64,
    /// A file that was put in the place of another has another one.
    inode: u64,
}

/// A file that cannot be served, or a folder that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        Self { path, decoder, files: BTreeMap::new(), generation: 0, unreadable: None }
    }

    /// Counts the changes of what is to be served.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Reads what changed. What is wrong is reported once, and what was there before stays.
    pub(crate) fn read(&mut self) -> Vec<Problem> {
        let mut found = BTreeMap::new();
        if let Err(problem) = list(&self.path, &mut found) {
            let is_known = self.unreadable.replace(problem.clone()).as_ref() == Some(&problem);
            return if is_known { Vec::new() } else { vec![problem] };
        }
        self.unreadable = None;
        let before = self.files.len();
        self.files.retain(|path, _| found.contains_key(path));
        if self.files.len() != before {
            self.generation += 1;
        }
        let problems = found.into_iter().filter_map(|(path, stamp)| self.read_file(path, stamp));
        problems.collect()
    }

    fn read_file(&mut self, path: PathBuf, stamp: Stamp) -> Option<Problem> {
        let file = self.files.entry(path.clone()).or_default();
        if file.stamp.as_ref() == Some(&stamp) {
            return None;
        }
        let first = file.stamp.replace(stamp).is_none();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(problem(&path, error)),
        };
        if text == file.text && !first {
            return None;
        }
        file.text = text;
        // Most editors empty a file before they write it: nothing is taken away for that.
        if file.text.trim().is_empty() && !file.resources.is_empty() {
            return Some(problem(&path, "is empty; remove it if nothing of it is to be served any more"));
        }
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
fn list(folder: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> Result<(), Problem> {
    let unreadable = |error: io::Error| problem(folder, format!("read the folder: {error}"));
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
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
    Stamp { changed: (metadata.ctime(), metadata.ctime_nsec()), length: metadata.len(), inode: metadata.ino() }
}

fn problem(path: &Path, text: impl ToString) -> Problem {
    Problem { file: path.display().to_string(), text: text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: greeter\n";

    #[test]
    fn what_is_wrong_is_said_once_and_what_was_there_stays() {
        let parent = tempfile::tempdir().unwrap();
        let (path, away) = (parent.path().join("resources"), parent.path().join("away"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cluster.yaml"), CLUSTER).unwrap();
        let mut folder = Folder::new(path.clone(), Decoder::new().unwrap());
        assert_eq!(folder.read(), []);
        assert_eq!(folder.generation(), 1);

        fs::rename(&path, &away).unwrap();
        let said = folder.read();
        assert_eq!((said.len(), &said[0].file), (1, &path.display().to_string()));
        assert!(said[0].text.starts_with("read the folder: "), "{}", said[0]);
        assert_eq!((folder.read(), folder.generation()), (Vec::new(), 1));
        fs::rename(&away, &path).unwrap();
        assert_eq!((folder.read(), folder.generation()), (Vec::new(), 1));

        fs::write(path.join("cluster.yaml"), "\n").unwrap();
        assert!(folder.read()[0].text.starts_with("is empty"), "as it is for a moment when it is written anew");
        assert_eq!((folder.read(), folder.generation()), (Vec::new(), 1));

        fs::write(path.join("cluster.yaml"), CLUSTER.replace("name", "nam")).unwrap();
        let said = folder.read();
        assert!(said[0].to_string().contains("cluster.yaml: Cluster: "), "{}", said[0]);
        assert_eq!((folder.read(), folder.generation()), (Vec::new(), 1));
    }
}
