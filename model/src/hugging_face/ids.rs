//! Token ids with a role: newer folders have `generation_config.json` for what only generation needs; what is
//! not there stands in `config.json`, which may have an object for the language model.

use std::path::{Path, PathBuf};

use super::keys::{Keys, read_object};
use crate::error::{Error, Result};
use crate::tensors::Roles;

const FILES: [&str; 2] = ["generation_config.json", "config.json"];

/// What `read` finds in the first of the two files that says anything.
///
/// # Errors
/// A file that is no JSON object; what `read` refuses.
pub(crate) fn stated<T>(
    folder: &Path,
    read: impl Fn(&Keys<'_>) -> Result<Option<T>>,
) -> Result<Option<T>> {
    for name in FILES {
        let file = folder.join(name);
        let object = read_object(&file)?;
        if let Some(found) = read(&Keys::of(&object)).map_err(Error::in_file(file))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The file that [`stated`] finds `key` in.
pub(crate) fn file_of(folder: &Path, key: &str) -> Result<PathBuf> {
    let [first, last] = FILES.map(|name| folder.join(name));
    Ok(if Keys::of(&read_object(&first)?).get(key).is_some() { first } else { last })
}

/// The ids of a folder whose embedding has `vocab` rows.
///
/// # Errors
/// As [`stated`]; ids without a row.
pub(super) fn roles(folder: &Path, vocab: usize) -> Result<Roles> {
    Ok(Roles {
        bos: stated(folder, |keys| keys.bos(vocab))?,
        ends: stated(folder, |keys| keys.ends(vocab))?.unwrap_or_default(),
        pad: stated(folder, |keys| keys.pad(vocab))?,
    })
}
