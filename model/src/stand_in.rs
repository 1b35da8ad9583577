//! What downloads leave in place of a file: a Git LFS pointer, a page of a web site.

use crate::error::{Error, Result};

/// Bytes that tell: a page begins with its type, after spaces and a byte-order mark at most.
const HEAD: usize = 512;

/// Refuses bytes that are no file of any kind that is read here, but stand in for one.
///
/// # Errors
/// [`Error::StandIn`].
pub(crate) fn refuse(bytes: &[u8]) -> Result<()> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(HEAD)]).to_lowercase();
    let head = head.trim_start_matches('\u{feff}').trim_start();
    let begins = |words: &[&str]| words.iter().any(|word| head.starts_with(word));
    let (what, remedy) = if begins(&["version https://git-lfs", "version https://hawser"]) {
        ("a Git LFS pointer", "fetch it with `git lfs pull`")
    } else if begins(&["<!doctype", "<html", "<head", "<?xml", "<!--"]) {
        (
            "a page of a web site (HTML or XML)",
            "the download gave an answer for people, such as a login or an error; download the file again",
        )
    } else {
        return Ok(());
    };
    Err(Error::StandIn { what, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_is_told_from_what_is() {
        for bytes in [
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"[..],
            b"<!DOCTYPE html><html>",
            b"\xef\xbb\xbf \n<HTML lang=en>",
            b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
        ] {
            assert!(matches!(refuse(bytes), Err(Error::StandIn { .. })));
        }
        for bytes in [&b""[..], b"GGUF\x03\0\0\0", b"{\"version\": \"1.0\"}", b"\xff\xfe<html"] {
            assert!(refuse(bytes).is_ok());
        }
    }
}
