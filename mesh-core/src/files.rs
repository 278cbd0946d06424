//! Files that are read while a mesh runs: whole, and those that a control plane names below allowed folders alone.
//!
//! A control plane names files by path (`filename` of a `DataSource`). It is another's word about this machine: a path is
//! looked at twice, as text when the resource is decoded, which refuses it by its field, and as what it leads to whenever
//! it is read.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::BoxError;

/// A file that is larger is none of ours; the largest bundles of roots have some 300 KiB.
pub(crate) const MAX_SIZE: u64 = 16 << 20;

/// The folders below which files are read that a control plane names; by default none. Clones share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllowedFolders(Arc<Vec<PathBuf>>);

/// A file that a control plane named, and may have named.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NamedFile {
    path: Arc<Path>,
    allowed: AllowedFolders,
}

impl AllowedFolders {
    /// Also those below `folder`. A relative one is below the working directory of now.
    pub(crate) fn allow(&mut self, folder: &Path) {
        // It fails for an empty path, and without a working directory: what is not absolute allows nothing.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Arc::make_mut(&mut self.0).push(folder);
    }

    /// The file of this path, if it is one of those. Looks at the text alone, and opens nothing.
    ///
    /// # Errors
    ///
    /// Why it is not and what to do, in words that follow the path.
    pub(crate) fn named(&self, path: &str) -> Result<NamedFile, String> {
        let file = Path::new(path);
        if !file.is_absolute() || file.components().any(|part| part == Component::ParentDir) {
            return Err("is not an absolute path without `..`: write the path that it stands for".to_owned());
        }
        match self.0.iter().any(|folder| is_below(file, folder)) {
            true => Ok(NamedFile { path: file.into(), allowed: self.clone() }),
            false => Err(format!("is below {}", self.none())),
        }
    }

    fn none(&self) -> String {
        let there_are = match &self.0[..] {
            [] => "there is none".to_owned(),
            folders => format!("there are {}", list(folders)),
        };
        format!(
            "none of the folders whose files a control plane may name ({there_are}): allow its folder by \
             `MeshBuilder::allow_files_below`, or use a certificate provider"
        )
    }
}

impl NamedFile {
    /// What it holds now. Symbolic links are followed, and must end below a folder that is allowed; that
    /// may be reached by links itself.
    ///
    /// # Errors
    ///
    /// When it leads elsewhere or cannot be read.
    pub(crate) fn read(&self) -> Result<Vec<u8>, BoxError> {
        // The path without links: what they lead to from now on is not looked at.
        read(&self.locate()?).map_err(|error| format!("{self}: {error}").into())
    }

    /// Where it is now, without symbolic links: below a folder that is allowed. Blocks.
    ///
    /// # Errors
    ///
    /// When it leads elsewhere or is not there.
    pub(crate) fn locate(&self) -> Result<PathBuf, BoxError> {
        let at = self.path.canonicalize().map_err(|error| format!("{self}: {error}"))?;
        let folders = &self.allowed.0;
        let leads_into = |folder: &PathBuf| folder.canonicalize().is_ok_and(|folder| is_below(&at, &folder));
        if !folders.iter().any(leads_into) {
            return Err(format!("{self}: it leads to {}, which is below {}", at.display(), self.allowed.none()).into());
        }
        Ok(at)
    }
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl fmt::Debug for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

fn is_below(file: &Path, folder: &Path) -> bool {
    folder.is_absolute() && file != folder && file.starts_with(folder)
}

fn list(folders: &[PathBuf]) -> String {
    let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    folders.join(", ")
}

/// The whole of a regular file of at most [`MAX_SIZE`] bytes. Blocks.
///
/// # Errors
///
/// When it is anything else, or cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, BoxError> {
    read_up_to(path, MAX_SIZE)
}

/// As [`read`], of at most so many bytes.
pub(crate) fn read_up_to(path: &Path, most: u64) -> Result<Vec<u8>, BoxError> {
    // Others, such as a pipe, may block for ever when they are opened.
    if !std::fs::metadata(path)?.is_file() {
        return Err("it is no regular file".into());
    }
    let mut content = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(format!("it has more than {most} bytes").into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    fn allowed(folders: &[&Path]) -> AllowedFolders {
        let mut allowed = AllowedFolders::default();
        folders.iter().for_each(|folder| allowed.allow(folder));
        allowed
    }

    #[test]
    fn s9_a_path_is_taken_below_the_folders_that_code_allows_and_nowhere_else() {
        let here = std::env::current_dir().unwrap();
        let relative = here.join("certs/ca.crt");
        let both = allowed(&[Path::new("/run/certs"), Path::new("certs"), Path::new("")]);
        for (path, problem) in [
            ("/run/certs/ca.crt", None),
            ("/run/certs/deep/er/ca.crt", None),
            ("/run//certs/./ca.crt", None),
            (relative.to_str().unwrap(), None),
            ("/run/certs", Some("is below none of the folders")),
            ("/run/certs/", Some("is below none of the folders")),
            ("/run/certs-of-others/ca.crt", Some("is below none of the folders")),
            ("/run/certs/../secrets/key", Some("without `..`")),
            ("/run/certs/a/../ca.crt", Some("without `..`")),
            ("/etc/passwd", Some("(there are /run/certs, ")),
            ("run/certs/ca.crt", Some("not an absolute path")),
            ("certs/ca.crt", Some("not an absolute path")),
            ("", Some("not an absolute path")),
            ("/", Some("none of the folders")),
        ] {
            let found = both.named(path).map(drop);
            match problem {
                None => assert_eq!(found, Ok(()), "{path}"),
                Some(problem) => {
                    assert!(found.as_ref().is_err_and(|found| found.contains(problem)), "{path}: {found:?}")
                }
            }
        }
        let none = AllowedFolders::default().named("/run/certs/ca.crt").unwrap_err();
        assert!(none.contains("(there is none)") && none.contains("`MeshBuilder::allow_files_below`"), "{none}");
    }

    #[cfg(unix)]
    #[test]
    fn s9_a_link_is_followed_within_the_allowed_folders_and_not_out_of_them() {
        use std::os::unix::fs::symlink;

        let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let at = |name: &str| inside.path().join(name);
        fs::write(outside.path().join("secret"), "secret").unwrap();
        fs::create_dir(at("..2026")).unwrap();
        fs::write(at("..2026/ca.crt"), "roots").unwrap();
        symlink("..2026", at("..data")).unwrap();
        symlink("..data/ca.crt", at("ca.crt")).unwrap();
        symlink(outside.path().join("secret"), at("out")).unwrap();
        symlink(outside.path(), at("folder")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        let linked = TempDir::new().unwrap();
        symlink(inside.path(), linked.path().join("certs")).unwrap();
        let folder = linked.path().join("certs");
        let read = |allowed: &AllowedFolders, folder: &Path, name: &str| {
            let file = allowed.named(folder.join(name).to_str().unwrap()).unwrap();
            file.read().map_err(|error| error.to_string())
        };
        for (allowed, folder) in [(allowed(&[inside.path()]), inside.path()), (allowed(&[&folder]), &folder)] {
            assert_eq!(read(&allowed, folder, "ca.crt").as_deref(), Ok(&b"roots"[..]), "as Kubernetes mounts it");
            for name in ["out", "folder/secret"] {
                let error = read(&allowed, folder, name).unwrap_err();
                let path = folder.join(name);
                assert!(error.starts_with(&format!("{}: it leads to ", path.display())), "{error}");
                assert!(error.contains("`MeshBuilder::allow_files_below`"), "{error}");
            }
            assert!(read(&allowed, folder, "dangling").unwrap_err().contains("No such file"));
        }
        let both = allowed(&[inside.path(), outside.path()]);
        assert_eq!(read(&both, inside.path(), "out").as_deref(), Ok(&b"secret"[..]));
    }

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused() {
        let folder = TempDir::new().unwrap();
        let (pipe, large) = (folder.path().join("pipe"), folder.path().join("large"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        File::create(&large).unwrap().set_len(MAX_SIZE + 1).unwrap();
        for (path, problem) in [(pipe, "no regular file"), (large, "more than 16777216 bytes")] {
            let (sender, receiver) = mpsc::channel();
            std::thread::spawn(move || sender.send(read(&path).unwrap_err().to_string()));
            let error = receiver.recv_timeout(Duration::from_secs(10)).expect("it does not block");
            assert!(error.contains(problem), "{error}");
        }
    }
}
