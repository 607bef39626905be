//! Paths as bytes: joining a directory's path with a relative one, and
//! cutting off the last component. What `..` and symbolic links mean is left
//! to the kernel.

use proto::Errno;

/// Longest path that the kernel takes (`PATH_MAX` without the final NUL).
pub const MAX_PATH: usize = 4095;

/// `path` as seen from the directory `dir`, which is relative to the root and
/// empty for the root itself.
#[must_use]
pub fn join(dir: &[u8], path: &[u8]) -> Vec<u8> {
    if path.first() == Some(&b'/') || dir.is_empty() {
        return path.to_vec();
    }
    if path.is_empty() {
        return dir.to_vec();
    }
    [dir, path].join(&b'/')
}

/// Cuts a path into the directory that holds its last component, and that
/// component with the slashes that follow it: their meaning (`mkdir a/` is
/// fine, `unlink a/` is not) is the kernel's business, which never looks
/// through a symbolic link for calls that create, remove or rename a name.
/// The root has no name: its last component is `/`, which the same calls
/// refuse each with its own error.
///
/// # Errors
/// `ENOENT` for an empty path.
pub fn split(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let Some(end) = path.iter().rposition(|&b| b != b'/') else {
        return Ok((b"/", b"/"));
    };
    match path[..=end].iter().rposition(|&b| b == b'/') {
        Some(slash) => Ok((&path[..=slash], &path[slash + 1..])),
        None => Ok((b".", path)),
    }
}

/// The directory of a path without symbolic links, relative to the root; the
/// root is its own.
#[must_use]
pub fn parent_of(path: &[u8]) -> &[u8] {
    path.iter()
        .rposition(|&b| b == b'/')
        .map_or(&[], |slash| &path[..slash])
}

/// Whether `path` is `dir` or lies beneath it (both relative to the root).
#[must_use]
pub fn is_beneath(dir: &[u8], path: &[u8]) -> bool {
    dir.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn joins_as_a_shell_would() {
        for (dir, path, whole) in [
            ("", "a", "a"),
            ("", "", ""),
            ("a/b", "", "a/b"),
            ("a/b", "c", "a/b/c"),
            ("a/b", "../c/", "a/b/../c/"),
            ("a/b", "/c", "/c"),
        ] {
            assert_eq!(join(dir.as_bytes(), path.as_bytes()), whole.as_bytes());
        }
    }

    #[test]
    fn splits_off_the_last_component() {
        for (path, parent, leaf) in [
            ("a", ".", "a"),
            ("a/", ".", "a/"),
            ("/a", "/", "a"),
            ("//a//", "//", "a//"),
            ("a/b", "a/", "b"),
            ("a//b/", "a//", "b/"),
            ("a/..", "a/", ".."),
            (".", ".", "."),
            ("/", "/", "/"),
            ("///", "/", "/"),
        ] {
            let (p, l) = split(path.as_bytes()).unwrap();
            assert_eq!((p, l), (parent.as_bytes(), leaf.as_bytes()), "{path}");
        }
        assert_eq!(split(b""), Err(Errno::ENOENT));
    }

    #[test]
    fn beneath_is_by_whole_components() {
        assert!(is_beneath(b"a", b"a"));
        assert!(is_beneath(b"a", b"a/b"));
        assert!(is_beneath(b"", b"a"));
        assert!(!is_beneath(b"a", b"ab"));
        assert!(!is_beneath(b"a/b", b"a"));
    }

    #[test]
    fn parents() {
        assert_eq!(parent_of(b"a/b/c"), b"a/b");
        assert_eq!(parent_of(b"a"), b"");
        assert_eq!(parent_of(b""), b"");
    }

    proptest! {
        #[test]
        fn the_leaf_hides_no_directory(path in "[a./]{1,12}") {
            let (parent, leaf) = split(path.as_bytes()).unwrap();
            let name: Vec<u8> = leaf.iter().copied().skip_while(|&b| b != b'/').collect();
            prop_assert!(name.iter().all(|&b| b == b'/'), "only slashes follow a name");
            prop_assert!(!parent.is_empty() && !leaf.is_empty());
            if parent != b"." && leaf != b"/" {
                prop_assert_eq!([parent, leaf].concat(), path.as_bytes());
            }
        }
    }
}
