//! The separation of the modules, read from the sources: imports go one way, `unsafe` and the CPU's
//! instructions are in one folder, threads in one file, and no file is long.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path from the crate's `src`, and its code without comments.
struct Source {
    name: String,
    code: String,
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// All Rust files below `folder`, a path from this crate's root.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>();
            Source { name, code: code.join("\n") }
        })
        .collect()
}

/// Whether `word` stands in `code` as a whole identifier (`unsafe`, not `unsafe_code`).
fn mentions(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// No file but those that `may` mentions one of `words`.
#[track_caller]
fn only(sources: &[Source], may: impl Fn(&str) -> bool, words: &[&str]) {
    for Source { name, code } in sources.iter().filter(|s| !may(&s.name)) {
        for word in words {
            assert!(!mentions(code, word), "{name} mentions `{word}`");
        }
    }
}

fn in_isa(name: &str) -> bool {
    name == "isa.rs" || name.starts_with("isa/")
}

#[test]
fn the_walk_finds_the_sources() {
    let names: Vec<String> = sources("src").into_iter().map(|s| s.name).collect();
    for name in ["lib.rs", "oracle.rs", "isa/avx2.rs", "isa/neon.rs", "op/product.rs"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}

/// The definition does not depend on what it judges.
#[test]
fn formats_and_the_oracle_know_no_kernels() {
    let definitions =
        |name: &str| name == "format.rs" || name.starts_with("format/") || name == "oracle.rs";
    let kernels = ["isa", "op", "backend", "panel", "threads"];
    let mut seen = 0;
    for Source { name, code } in sources("src").iter().filter(|s| definitions(&s.name)) {
        seen += 1;
        for module in kernels {
            for path in [format!("crate::{module}"), format!("super::{module}")] {
                assert!(!mentions(code, &path), "{name} uses {path}");
            }
        }
        // `use crate::{a, b}` would hide a name from the search above.
        assert!(!code.contains("crate::{"), "{name}: one `use` per module, please");
        assert!(!mentions(code, "cfg"), "{name} has conditional code");
    }
    assert!(seen > 5);
}

#[test]
fn only_isa_is_unsafe_and_knows_instructions() {
    let words = ["unsafe", "core::arch", "std::arch", "target_feature", "asm", "transmute"];
    only(&sources("src"), in_isa, &words);
}

#[test]
fn only_isa_and_the_table_know_the_architecture() {
    only(&sources("src"), |name| in_isa(name) || name == "backend.rs", &["target_arch"]);
}

#[test]
fn only_threads_knows_rayon() {
    only(&sources("src"), |name| name == "threads.rs", &["rayon"]);
}

fn in_testing(name: &str) -> bool {
    name == "testing.rs" || name.starts_with("testing/")
}

/// The kit judges by the definitions alone, and nothing but the kit needs what it is made of.
#[test]
fn the_kit_knows_no_kernels() {
    let kernels = ["isa", "op", "backend", "panel", "threads", "roofline", "speed"];
    let mut seen = 0;
    for Source { name, code } in sources("src").iter().filter(|s| in_testing(&s.name)) {
        seen += 1;
        for module in kernels {
            assert!(!mentions(code, &format!("crate::{module}")), "{name} uses crate::{module}");
        }
        assert!(!code.contains("crate::{"), "{name}: one `use` per module, please");
    }
    assert!(seen > 5);
    only(&sources("src"), in_testing, &["proptest", "crate::testing"]);
    only(&sources("src"), |name| in_testing(name) || name == "lib.rs", &["testing"]);
}

/// The backends' files know their own architecture only: nothing of the operations.
#[test]
fn isa_knows_no_operations() {
    for Source { name, code } in sources("src").iter().filter(|s| in_isa(&s.name)) {
        for module in ["op", "format", "panel", "backend", "oracle", "activation", "threads"] {
            assert!(!mentions(code, &format!("crate::{module}")), "{name} uses crate::{module}");
        }
    }
}

/// The front door: what other crates may name after `tritlab_kernels::`, besides the names at the root.
/// (`self` renames the crate; the modules that are private stay so.)
const FRONT_DOOR: &[&str] = &[
    "backend",
    "disassembly",
    "format",
    "op",
    "oracle",
    "projection",
    "roofline",
    "self",
    "speed",
    "testing",
    "threads",
    "verify",
];

/// The first segments of every path of ours in `code`.
fn paths_of_ours(code: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, prefix) in code.match_indices("tritlab_kernels::") {
        let rest = &code[at + prefix.len()..];
        let word = |s: &str| -> String {
            s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let Some(list) = rest.strip_prefix('{') else {
            out.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    out.push(word(&list[start..i]));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    out.retain(|name| !name.is_empty());
    out
}

#[test]
fn other_crates_use_the_front_door() {
    let example = "use tritlab_kernels::{Acts, op::{a, b}, panel}; tritlab_kernels::isa::x();";
    assert_eq!(paths_of_ours(example), ["Acts", "op", "panel", "isa"], "the reader of paths works");
    let root =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let exported: String =
        root.lines().filter(|l| l.starts_with("pub use")).collect::<Vec<_>>().join("\n");
    for folder in ["../model", "../python"] {
        for Source { name, code } in sources(folder) {
            for used in paths_of_ours(&code) {
                assert!(
                    FRONT_DOOR.contains(&used.as_str()) || mentions(&exported, &used),
                    "{folder}/{name} uses tritlab_kernels::{used}, which is not the front door"
                );
                assert!(
                    used != "testing" || (folder, name.as_str()) == ("../python", "src/testing.rs"),
                    "{folder}/{name} uses the kit, which a build without it lacks"
                );
            }
            // Asking what the CPU has is fine, for a report; using it is not.
            for word in ["core::arch", "std::arch::x86_64", "std::arch::aarch64", "target_feature"]
            {
                assert!(!mentions(&code, word), "{folder}/{name} mentions `{word}`");
            }
        }
    }
}

#[test]
fn files_are_short_and_named() {
    for folder in ["src", "tests", "examples", "../benches"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut paths = Vec::new();
        walk(&root, &mut paths);
        for path in paths {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 600, "{} has {lines} lines", path.display());
            assert!(path.file_name().is_some_and(|n| n != "mod.rs"), "{}", path.display());
        }
    }
}
