//! Runs this executable again under valgrind's callgrind and reads the count.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mesh_benches::Error;
use tempfile::TempDir;

/// Where callgrind writes its files.
pub(crate) struct Callgrind {
    directory: PathBuf,
    /// Removed at the end, unless the files are to be kept.
    _temporary: Option<TempDir>,
}

impl Callgrind {
    /// Checks that valgrind is there. Files go to `keep`, or else are removed in the end.
    pub(crate) fn new(keep: Option<&Path>) -> Result<Self, Error> {
        let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
        match version {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err("valgrind is not installed; instructions are counted with it".into());
            }
            other => other?,
        };
        let temporary = keep.is_none().then(TempDir::new).transpose()?;
        let directory = temporary.as_ref().map(TempDir::path).or(keep).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned(), _temporary: temporary })
    }

    /// Instructions of this executable, run to its end with `arguments`.
    pub(crate) fn instructions(&self, label: &str, arguments: &[String]) -> Result<u64, Error> {
        let file = self.directory.join(format!("callgrind.{label}"));
        let output = Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(std::env::current_exe()?)
            .args(arguments)
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{label} under valgrind: {}: {said}", output.status).into());
        }
        total(&std::fs::read_to_string(&file)?).ok_or_else(|| format!("{}: no totals", file.display()).into())
    }
}

fn total(file: &str) -> Option<u64> {
    let line = file.lines().rev().find_map(|line| line.strip_prefix("totals: "))?;
    line.split_whitespace().next()?.parse().ok()
}
