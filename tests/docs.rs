//! The docs that can be derived are derived: a test fails when they are not what the code says.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use mesh_core::{Verdict, verdicts};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn the_table_of_fields_is_what_the_decoders_do() {
    let path = Path::new(ROOT).join("docs/fields.md");
    let rendered = fields();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &rendered).expect("docs/fields.md is written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == rendered, "docs/fields.md is not current: run UPDATE_DOCS=1 cargo test -p mesh-tests docs");
}

/// Every test that the docs name is there.
#[test]
fn the_docs_name_tests_that_exist() {
    let mut sources = String::new();
    for entry in fs::read_dir(Path::new(ROOT).join("tests")).expect("tests") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).expect("source"));
        }
    }
    let mut missing = Vec::new();
    for doc in ["README.md", "docs/probes.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(doc)).expect(doc);
        let names = text.split('`').filter_map(|code| code.split_once("::")).map(|(_, name)| name);
        let is_test = |name: &&str| {
            name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        };
        for name in names.filter(is_test) {
            if !sources.contains(&format!("fn {name}(")) {
                missing.push(format!("{doc}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "tests that the docs name and that are not there: {missing:#?}");
}

fn fields() -> String {
    let mut text = String::from(
        "# What becomes of each field\n\n\
         Every field of the xDS messages that a client reads, in the order in which they are met. *Act*: it is acted on.\n\
         *Ignore*: it changes nothing, and `Mesh::ignored_fields` lists it when it is set. *Call fails*: the resource is\n\
         accepted, and calls that meet the field fail, as in gRPC. *NACK*: a resource that sets it is refused. A field of\n\
         a message type that is ignored or refused stands for all it contains.\n",
    );
    let mut message = "";
    for row in verdicts() {
        if row.message != message {
            message = row.message;
            let _ = write!(text, "\n## {message}\n\n| field | verdict | |\n|---|---|---|\n");
        }
        let verdict = match row.verdict {
            Verdict::Act => "act",
            Verdict::Ignore => "ignore",
            Verdict::CallFails => "call fails",
            Verdict::Nack => "NACK",
            other => panic!("docs/fields.md does not know {other:?}"),
        };
        let _ = writeln!(text, "| `{}` | {verdict} | {} |", row.field, row.note);
    }
    text
}
