//! Writes a page per format and their index to `kernels/docs/formats`: `make docs`.

mod measure;
mod pages;

use std::fs;
use std::io;

fn main() -> io::Result<()> {
    let folder = pages::folder();
    fs::create_dir_all(&folder)?;
    let pages = pages::all()?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !pages.iter().any(|(page, _)| name.to_str() == Some(page)) {
            fs::remove_file(entry.path())?; // a format that is no more
        }
    }
    for (name, text) in &pages {
        let unfinished = folder.join(format!(".{name}.part"));
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, folder.join(name))?;
    }
    println!("{}: {} pages", folder.display(), pages.len());
    Ok(())
}
