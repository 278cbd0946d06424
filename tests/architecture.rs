//! The repository keeps to its own map: ARCHITECTURE.md states the module order, and imports follow it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn imports_point_up_the_module_order() {
    let order = module_order();
    let mut wrong = Vec::new();
    for (module, file) in modules() {
        let rank = *order.get(&module).unwrap_or_else(|| panic!("module `{module}` is missing in the module order"));
        for (line, imported) in imports(&file) {
            let allowed = imported == module || order.get(&imported).is_some_and(|other| *other < rank);
            if !allowed {
                wrong.push(format!("{}:{line}: `{module}` imports `{imported}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_finds_an_import_that_points_the_wrong_way() {
    let order = module_order();
    assert!(order["error"] < order["xds"] && order["xds"] < order["resource"]);
    assert_eq!(order["route"], order["balance"], "layers share a line");
    let found = names_in("use crate::{mesh::Mesh, stack};\nlet x = crate::balance::pick();\n/// crate::docs\n");
    assert_eq!(found, [(1, "mesh".into()), (1, "stack".into()), (2, "balance".into())]);
}

#[test]
fn generated_types_stay_at_the_edges() {
    let edges = ["xds", "resource", "testing"];
    let user = |(module, file): &(String, PathBuf)| {
        !edges.contains(&module.as_str()) && fs::read_to_string(file).expect("source").contains("mesh_xds_proto")
    };
    let wrong: Vec<_> = modules().into_iter().filter(user).collect();
    assert!(wrong.is_empty(), "generated types are used in {wrong:?}");
}

#[test]
fn every_layer_is_a_folder_of_the_same_shape() {
    for layer in ["discover", "route", "timeout", "cluster", "balance"] {
        for file in ["mod.rs", "layer.rs"] {
            let path = Path::new(ROOT).join("mesh-core/src").join(layer).join(file);
            assert!(path.is_file(), "{} is missing", path.display());
        }
    }
}

/// Each module's line in the block of ARCHITECTURE.md.
fn module_order() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let block = text.split("```text module-order\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut order = BTreeMap::new();
    for (rank, line) in block.expect("a block `module-order`").lines().enumerate() {
        let names = line.split("  ").next().unwrap_or_default();
        for name in names.split('|') {
            order.insert(name.trim().to_owned(), rank);
        }
    }
    order
}

/// Every source file of mesh-core with the top module it belongs to; tests aside.
fn modules() -> Vec<(String, PathBuf)> {
    let source = Path::new(ROOT).join("mesh-core/src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    let with_module = |file: PathBuf| {
        let top = file.strip_prefix(&source).ok()?.components().next()?;
        let module = Path::new(top.as_os_str()).file_stem()?.to_str()?.to_owned();
        let is_test =
            file.components().any(|part| part.as_os_str().to_str().is_some_and(|name| name.starts_with("tests")));
        (module != "lib" && !is_test).then_some((module, file))
    };
    files.into_iter().filter_map(with_module).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}

fn imports(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).expect("source");
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    names_in(product)
}

/// The modules that follow `crate::` in code, with their lines.
fn names_in(text: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for rest in line.split("crate::").skip(1) {
            let list = rest.strip_prefix('{').map_or(vec![rest], |list| list.split(',').collect());
            for name in list {
                let name: String = name
                    .trim()
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_')
                    .collect();
                if !name.is_empty() {
                    names.push((number + 1, name));
                }
            }
        }
    }
    names
}
