//! Small text files of a data directory, with a checksum as their last line: one wrong digit is a
//! file that cannot be read, and never another meaning.

use std::io;

use raft_storage::{Disk, crc32c, read_file, replace_file};

/// No such file has more bytes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The text of a file without its last line; `None` if there is no file.
pub(super) fn read<D: Disk>(disk: &D, name: &str) -> io::Result<Option<String>> {
    let bytes = read_file(disk, name, FILE_BYTES_MAX)?;
    bytes.map(|bytes| unseal(&path(disk, name), bytes)).transpose()
}

/// The text that [`seal`] was given.
pub(super) fn unseal(path: &str, bytes: Vec<u8>) -> io::Result<String> {
    let text = String::from_utf8(bytes).map_err(|_| invalid(path, "it is not text"))?;
    let lines = text.strip_suffix('\n').unwrap_or_default();
    let start = lines.rfind('\n').map_or(0, |end| end + 1);
    let (text, last) = lines.split_at(start);
    if last != sum_line(text) {
        return Err(invalid(path, "it fails its checksum"));
    }
    Ok(text.to_owned())
}

/// Replaces a file, durably, by lines that each end with a line feed.
pub(super) fn write<D: Disk>(disk: &D, name: &str, text: String) -> io::Result<()> {
    replace_file(disk, name, seal(text).as_bytes())
}

/// Adds the last line to lines that each end with a line feed.
pub(super) fn seal(mut text: String) -> String {
    let last = sum_line(&text);
    text.push_str(&last);
    text.push('\n');
    text
}

/// Where a file is, for whoever has to look at it.
pub(super) fn path<D: Disk>(disk: &D, name: &str) -> String {
    format!("{}/{name}", disk.describe())
}

/// Says that a file is not what it should be, by its path.
pub(super) fn invalid(path: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {why}"))
}

fn sum_line(text: &str) -> String {
    format!("crc32c {:08x}", crc32c(text.as_bytes()))
}
