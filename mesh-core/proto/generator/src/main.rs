//! Writes the Rust code that is checked in beside its `.proto` files.
//!
//! `cargo run -p mesh-xds-proto-generator` rewrites it; with `--check` it compares, writes
//! nothing and fails if anything differs. Neither needs a protobuf compiler.

mod descriptors;
mod output;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use prost::Message;
use tonic_prost_build::Config;

use output::Output;

/// Reads from the workspace (first) and writes to a folder (second).
type Generate = fn(&Path, &Path) -> Result<(), Box<dyn Error>>;

/// What is generated, and where it is in the workspace.
const TARGETS: [(&str, Generate); 3] =
    [("mesh-core/proto/src/generated", xds), ("examples/proto/generated", examples), ("benches/proto", benches)];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => return Err(format!("unknown argument `{other}`: only --check").into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize()?;
    let mut current = true;
    for (folder, generate) in TARGETS {
        let output = Output::new(root.join(folder))?;
        generate(&root, output.staging())?;
        for change in output.changes()? {
            current = false;
            eprintln!("{change}");
        }
        if !check {
            output.publish()?;
        }
    }
    Ok(if check && !current { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The messages of xDS; no services, because mesh-core speaks gRPC itself.
fn xds(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut set = descriptors::compile(&root.join("mesh-core/proto/proto"))?;
    fs::write(out.join("fds.bin"), set.encode_to_vec())?;
    descriptors::make_opaque(&mut set);
    config(out)
        .include_file("mod.rs")
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .compile_fds(set)?;
    Ok(())
}

fn examples(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    services(&root.join("examples/proto"), out)
}

fn benches(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    services(&root.join("benches/proto"), out)?;
    // prost names a file after its package; here it is named after the file it comes from.
    Ok(fs::rename(out.join("bench.rs"), out.join("echo.rs"))?)
}

/// Messages, clients and servers. The clients have no `connect`, which would ask for tonic's own
/// transport; the methods of the servers have defaults, so that a test writes those it needs.
fn services(protos: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .out_dir(out)
        .build_transport(false)
        .generate_default_stubs(true)
        .compile_fds_with_config(descriptors::compile(protos)?, config(out))?;
    Ok(())
}

fn config(out: &Path) -> Config {
    let mut config = Config::new();
    config
        .out_dir(out)
        .bytes(["."])
        // A message has one encoding, and errors that list a map's entries have one order.
        .btree_map(["."])
        .disable_comments(["."]);
    config
}
