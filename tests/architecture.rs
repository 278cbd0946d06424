//! The repository keeps to its own map: ARCHITECTURE.md states the module order, and imports follow it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn imports_point_up_the_module_order() {
    let order = module_order();
    let exports = exports();
    let mut wrong = Vec::new();
    for (module, file) in modules() {
        let rank = *order.get(&module).unwrap_or_else(|| panic!("module `{module}` is missing in the module order"));
        let source = fs::read_to_string(&file).expect("source");
        for Import { line, path } in imports(&module_path(&file), &source) {
            let imported = path.first().map_or("the whole crate", |first| exports.get(first).unwrap_or(first).as_str());
            let allowed = imported == module || order.get(imported).is_some_and(|other| *other < rank);
            if !allowed {
                wrong.push(format!("{}:{line}: `{module}` imports `{imported}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_finds_imports_however_they_are_written() {
    let order = module_order();
    assert!(order["error"] < order["xds"] && order["xds"] < order["resource"]);
    assert_eq!(order["route"], order["balance"], "layers share a line");
    assert_eq!(exports()["Mesh"], "mesh", "a name at the crate's root belongs to its module");

    let source = r##"
        //! crate::docs
        use crate::{mesh::{Mesh, builder::{self as b}}, stack};
        use super::{
            sibling,
            super::balance::{Pick as P, *},
        };
        pub(crate) use self::child::Thing;
        /* crate::comment /* crate::nested */ */
        #[cfg(test)]
        mod tests { use crate::testing; }
        mod inner {
            use super::super::super::route::Route;
        }
        fn f<'a>(x: &'a str) { let _ = ('"', "crate::text", r#"crate::"raw"#, crate::timeout::new(x)); }
    "##;
    let here = ["xds".to_owned(), "transport".to_owned()];
    let found: Vec<_> =
        imports(&here, source).into_iter().map(|Import { line, path }| (line, path.join("::"))).collect();
    let expected = [
        (3, "mesh::Mesh"),
        (3, "mesh::builder"),
        (3, "stack"),
        (4, "xds::sibling"),
        (4, "balance::Pick"),
        (4, "balance"),
        (8, "xds::transport::child::Thing"),
        (13, "route::Route"),
        (15, "timeout::new"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}

#[test]
fn generated_types_stay_at_the_edges() {
    let edges = ["xds", "resource", "testing", "fuzzing"];
    let user = |(module, file): &(String, PathBuf)| {
        !edges.contains(&module.as_str()) && fs::read_to_string(file).expect("source").contains("mesh_xds_proto")
    };
    let wrong: Vec<_> = modules().into_iter().filter(user).collect();
    assert!(wrong.is_empty(), "generated types are used in {wrong:?}");
}

#[test]
fn every_layer_is_a_folder_of_the_same_shape() {
    for layer in ["discover", "route", "timeout", "filter", "mirror", "retry", "cluster", "balance", "deadline"] {
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
        let inside = file.strip_prefix(&source).ok()?;
        let module = Path::new(inside.iter().next()?).file_stem()?.to_str()?.to_owned();
        let is_test = inside.iter().any(|part| part.to_str().is_some_and(|name| name.starts_with("tests")));
        (module != "lib" && !is_test).then_some((module, file))
    };
    let modules: Vec<_> = files.into_iter().filter_map(with_module).collect();
    assert!(modules.len() > 100, "only {} files are looked at", modules.len());
    modules
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

/// The names at the crate's root, each with the module that it comes from.
fn exports() -> BTreeMap<String, String> {
    let source = fs::read_to_string(Path::new(ROOT).join("mesh-core/src/lib.rs")).expect("lib.rs");
    let mut parser = Parser::new(&source);
    let mut exports = BTreeMap::new();
    while parser.at < parser.tokens.len() {
        if parser.take("use") {
            let mut paths = Vec::new();
            parser.tree(&[], &mut paths);
            exports.extend(paths.into_iter().filter_map(|path| Some((path.last()?.clone(), path.first()?.clone()))));
        } else {
            parser.at += 1;
        }
    }
    exports
}

/// Where a file is in the tree of modules.
fn module_path(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(Path::new(ROOT).join("mesh-core/src")).expect("a source file").with_extension("");
    let parts = inside.iter().map(|part| part.to_str().expect("an ASCII name").to_owned());
    parts.filter(|part| part != "mod").collect()
}

/// A path into the crate, from its root.
#[derive(Debug)]
struct Import {
    line: usize,
    path: Vec<String>,
}

/// What the source of the module `here` takes from the crate, in `use` items and elsewhere; inline tests aside.
fn imports(here: &[String], source: &str) -> Vec<Import> {
    let mut parser = Parser::new(source);
    let mut imports = Vec::new();
    // The inline modules that are open, with the depth of braces outside each.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    while let Some((line, token)) = parser.peek() {
        let module: Vec<String> = here.iter().chain(inline.iter().map(|(name, _)| name)).cloned().collect();
        let mut paths = Vec::new();
        if parser.take("use") {
            parser.tree(&[], &mut paths);
        } else if parser.take_all(&["#", "[", "cfg", "(", "test", ")", "]", "mod"]) {
            parser.skip_item();
        } else if parser.take("mod") {
            let name = parser.next();
            if parser.take("{") {
                inline.push((name, depth));
                depth += 1;
            }
        } else if matches!(token.as_str(), "crate" | "super" | "self") {
            let path = parser.path();
            paths.extend((path.len() > 1).then_some(path));
        } else {
            match parser.next().as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            inline.pop_if(|(_, outside)| *outside == depth);
        }
        let inside = paths.into_iter().filter_map(|path| resolve(&module, path));
        imports.extend(inside.map(|path| Import { line, path }));
    }
    imports
}

/// A path from the crate's root; `None` if it is another crate's, or a child's.
fn resolve(module: &[String], path: Vec<String>) -> Option<Vec<String>> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" | "*" => {}
            "super" => drop(base.pop()),
            _ => base.push(part),
        }
    }
    Some(base)
}

/// Reads Rust as far as paths need it.
struct Parser {
    /// With their lines.
    tokens: Vec<(usize, String)>,
    at: usize,
}

impl Parser {
    fn new(source: &str) -> Self {
        Self { tokens: tokens(source), at: 0 }
    }

    fn peek(&self) -> Option<(usize, String)> {
        self.tokens.get(self.at).cloned()
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens.get(self.at - 1).map(|(_, token)| token.clone()).unwrap_or_default()
    }

    fn take(&mut self, token: &str) -> bool {
        self.take_all(&[token])
    }

    fn take_all(&mut self, tokens: &[&str]) -> bool {
        let found = self.tokens[self.at..].iter().map(|(_, token)| token.as_str()).take(tokens.len());
        let is_there = found.eq(tokens.iter().copied());
        self.at += if is_there { tokens.len() } else { 0 };
        is_there
    }

    /// `a::b::c`.
    fn path(&mut self) -> Vec<String> {
        let mut path = vec![self.next()];
        while self.take("::") {
            path.push(self.next());
        }
        path
    }

    /// The tree of a `use` after `prefix`, as the paths of its leaves.
    fn tree(&mut self, prefix: &[String], paths: &mut Vec<Vec<String>>) {
        let mut path = prefix.to_vec();
        loop {
            if self.take("{") {
                while !self.take("}") {
                    self.tree(&path, paths);
                    self.take(",");
                }
                return;
            }
            path.push(self.next());
            if !self.take("::") {
                break;
            }
        }
        if self.take("as") {
            self.next();
        }
        paths.push(path);
    }

    /// To the end of an item: a semicolon, or the brace that closes it.
    fn skip_item(&mut self) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.next().as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                ";" => {}
                _ => continue,
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// Words, `::` and single characters; without comments, texts and lifetimes.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment(rest)
        } else if let Some(length) = text(rest) {
            length
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push((line, rest[..length].to_owned()));
            length
        } else if rest.starts_with("::") {
            tokens.push((line, "::".to_owned()));
            2
        } else {
            if !first.is_whitespace() {
                tokens.push((line, first.to_string()));
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of a block comment, which may have others inside.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a string, a character or a lifetime at the start.
fn text(rest: &str) -> Option<usize> {
    let plain = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - plain.len();
    if let Some(raw) = plain.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(rest.len() - body.len() + body.find(&end)? + end.len());
    }
    if let Some(body) = plain.strip_prefix('"') {
        return Some(prefix + 1 + closed(body, '"'));
    }
    let body = plain.strip_prefix('\'')?;
    let mut chars = body.chars();
    match (chars.next()?, chars.next()) {
        ('\\', _) => Some(prefix + 1 + closed(body, '\'')),
        (first, Some('\'')) => Some(prefix + 2 + first.len_utf8()),
        _ => Some(prefix + 1 + body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len())),
    }
}

/// To behind the quote that is not escaped.
fn closed(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}
