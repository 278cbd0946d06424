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

/// Every test that the docs name as `file::test` is in that file.
#[test]
fn the_docs_name_tests_that_exist() {
    let mut missing = Vec::new();
    for doc in ["README.md", "docs/features.md", "docs/probes.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(doc)).expect(doc);
        let is_word = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
        let named = text.split('`').filter_map(|code| code.split_once("::"));
        let tests = named.filter(|(file, test)| is_word(file) && is_word(test) && test.contains('_'));
        missing.extend(tests.filter(|(file, test)| !has_test(file, test)).map(|test| format!("{doc}: {test:?}")));
    }
    assert!(missing.is_empty(), "tests that the docs name and that are not there: {missing:#?}");
}

#[test]
fn a_test_is_looked_for_in_the_file_that_is_named() {
    assert!(has_test("docs", "a_test_is_looked_for_in_the_file_that_is_named"));
    assert!(!has_test("architecture", "a_test_is_looked_for_in_the_file_that_is_named"));
    assert!(!has_test("no_such_file", "a_test_is_looked_for_in_the_file_that_is_named"));
}

fn has_test(file: &str, test: &str) -> bool {
    let source = fs::read_to_string(Path::new(ROOT).join("tests").join(file).with_extension("rs"));
    source.is_ok_and(|source| source.contains(&format!("fn {test}(")))
}

fn fields() -> String {
    let mut text = String::from(
        "# What becomes of each field\n\n\
         Every field of the xDS messages that are read, in the order in which they are met. *Act*: it is acted on; *on\n\
         clients*: a server lists it as if it were ignored. *Ignore*: it changes nothing, and `Mesh::ignored_fields` lists it when it is set. *Call fails*: the resource is\n\
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
            Verdict::ClientActs => "act, on clients",
            Verdict::Ignore => "ignore",
            Verdict::CallFails => "call fails",
            Verdict::Nack => "NACK",
            other => panic!("docs/fields.md does not know {other:?}"),
        };
        let _ = writeln!(text, "| `{}` | {verdict} | {} |", row.field, row.note);
    }
    text
}
