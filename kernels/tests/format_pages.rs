//! The pages in `docs/formats` are what the sources and measurements say today.

#[path = "../examples/format_pages/measure.rs"]
mod measure;
#[path = "../examples/format_pages/pages.rs"]
mod pages;

use std::fs;

#[test]
fn pages_are_up_to_date() {
    let folder = pages::folder();
    let pages = pages::all().unwrap();
    let mut found: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort_unstable();
    let mut expected: Vec<_> = pages.iter().map(|(name, _)| name.clone()).collect();
    expected.sort_unstable();
    assert_eq!(found, expected, "`make docs` writes the pages");
    for (name, text) in &pages {
        let file = fs::read_to_string(folder.join(name)).unwrap();
        let line = file.lines().zip(text.lines()).position(|(file, text)| file != text);
        assert!(file == *text, "{name} is stale from line {line:?} on; `make docs` writes it");
    }
}

/// Every page says what is asked of it.
#[test]
fn pages_are_whole() {
    for (name, text) in pages::all().unwrap().iter().filter(|(name, _)| name != "README.md") {
        for part in ["bits per weight", "largest weight", "Gaussian", "-avx2`", "bytes\n", "w[0] ="]
        {
            assert!(text.contains(part), "{name} lacks {part:?}");
        }
        if text.contains("base 3") && name != "README.md" {
            assert!(text.contains("## The 13 other bytes"), "{name}: the decision on other bytes");
        }
    }
}
