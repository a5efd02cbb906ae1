//! Files of the place where a command is run, not of the host's root: what a user names with `--file` and `--refs`.

use std::io::Read;

use super::{Kind, Meta};

/// The largest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// Reads a file below a folder that a user named. A pipe there would be waited for, and a device never ends.
///
/// # Errors
/// See [`read`], and if it is something else.
pub fn read_below(folder: &str, path: &str) -> Result<Vec<u8>, String> {
    let path = format!("{folder}/{path}");
    match rustix::fs::stat(path.as_str()).map(|stat| Meta::from(stat).kind) {
        Ok(Kind::File) | Err(_) => read(&path),
        Ok(other) => Err(format!("{path} is {}, expected a file with the value", other.words())),
    }
}

/// Reads a file that a user named; `-` is standard input.
///
/// # Errors
/// In one line, with the path.
pub fn read(path: &str) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = |reader: &mut dyn Read, content: &mut Vec<u8>| reader.take(MAX_FILE + 1).read_to_end(content);
    let done = if path == "-" {
        read(&mut std::io::stdin().lock(), &mut content)
    } else {
        std::fs::File::open(path).and_then(|mut file| read(&mut file, &mut content))
    };
    match done {
        Ok(_) if content.len() as u64 > MAX_FILE => {
            Err(format!("{path}: more than {MAX_FILE} bytes: is it the right file?"))
        }
        Ok(_) => Ok(content),
        Err(error) => Err(format!("{path}: {error}")),
    }
}
