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
    for doc in ["README.md", "docs/features.md", "docs/identity.md", "docs/probes.md"] {
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
    assert!(!has_test("docs", "has_test"), "it is no test");
    assert!(!has_test("no_such_file", "a_test_is_looked_for_in_the_file_that_is_named"));
}

fn has_test(file: &str, test: &str) -> bool {
    let source = fs::read_to_string(Path::new(ROOT).join("tests").join(file).with_extension("rs"));
    source.is_ok_and(|source| source.split_once(&format!("fn {test}(")).is_some_and(|(before, _)| is_test(before)))
}

/// Whether what follows is run as a test: an attribute right before it says so.
fn is_test(before: &str) -> bool {
    let lines = before.lines().rev().skip(usize::from(!before.ends_with('\n')));
    lines.take_while(|line| line.trim_start().starts_with("#[")).any(|line| line.contains("test"))
}

/// What is no doc test is compiled in `snippets.rs`.
#[test]
fn the_rust_of_the_docs_is_compiled() {
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    let compiled = squeezed(include_str!("snippets.rs"));
    let mut pieces = 0;
    for doc in ["README.md", "docs/identity.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(doc)).expect(doc);
        let blocks = text.split("```rust").skip(1).filter_map(|block| block.split_once("```")?.0.split_once('\n'));
        for (_, piece) in blocks.filter(|(kind, _)| *kind != ",no_run") {
            assert!(compiled.contains(&squeezed(piece)), "{doc}: not in snippets.rs: {piece}");
            pieces += 1;
        }
    }
    assert_eq!(pieces, 5);
}

/// Each thing that is supported is shown by a test, of the public API or beside the code.
#[test]
fn each_row_of_the_features_names_a_test() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/features.md")).expect("the features");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| | what |"));
    let silent = rows.filter(|row| {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        !shown_by.contains("::") && !shown_by.contains("unit tests of `")
    });
    assert_eq!(silent.collect::<Vec<_>>(), Vec::<&str>::new(), "rows without a test");
}

/// Load balancing, resilience and identity as gRPC specifies them.
#[test]
fn each_grfc_on_balancing_resilience_and_identity_has_a_row() {
    const PROPOSALS: [u32; 42] = [
        6, 9, 28, 29, 31, 32, 33, 36, 37, 39, 41, 42, 44, 48, 50, 51, 52, 55, 56, 58, 59, 60, 61, 62, 63, 65, 68, 69,
        74, 76, 82, 87, 91, 92, 97, 100, 101, 102, 103, 105, 113, 114,
    ];
    let text = fs::read_to_string(Path::new(ROOT).join("docs/features.md")).expect("the features");
    let mut named = std::collections::HashSet::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let first = row.split(" | ").next().unwrap_or_default();
        named.extend(first.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned));
    }
    let missing: Vec<_> =
        PROPOSALS.iter().chain(&[106, 115]).filter(|number| !named.contains(&format!("A{number}"))).collect();
    assert_eq!(missing, Vec::<&u32>::new(), "proposals without a row");
}

fn fields() -> String {
    let mut text = String::from(
        "# What becomes of each field\n\n\
         Every field of the xDS messages that are read, in the order in which they are met. *Act*: it is acted on; *on\n\
         clients*: a server lists it as if it were ignored. *Ignore*: it changes nothing, and `Mesh::ignored_fields` lists it when it is set. *Call fails*: the resource is\n\
         accepted, and calls that meet the field fail, as in gRPC. *NACK*: a resource that sets it is refused. A field of\n\
         a message type that is ignored or refused stands for all it contains. Without the cargo feature of mesh-core's that a\n\
         field names, it is ignored.\n",
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
        let feature = row.feature.map(|feature| format!("feature `{feature}`"));
        let notes = Some(row.note.to_owned()).filter(|note| !note.is_empty()).into_iter().chain(feature);
        let _ = writeln!(text, "| `{}` | {verdict} | {} |", row.field, notes.collect::<Vec<_>>().join("; "));
    }
    text
}
