//! Kept inputs: one text file a target, one line an input.
//!
//! A line is the input's name, a tab, and its bytes percent-encoded. Inputs that a person wrote have names; those that the
//! fuzzer found have none. The fuzzer itself wants a folder with a file an input: [`unpack`] makes it, [`pack`] reads it.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

/// Bytes that a line holds in their encoding, besides all that are not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
/// The shortest name that the fuzzer gives, all of it hexadecimal digits.
const FOUND_NAME_LEAST: usize = 16;

/// One kept input.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// The name a person gave it; empty for one that the fuzzer found.
    pub name: String,
    /// What a target is given.
    pub bytes: Vec<u8>,
}

impl Input {
    /// Returns the name of this input's file: its own, or one made of its bytes.
    #[must_use]
    pub fn file_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        format!("{:0FOUND_NAME_LEAST$x}", hasher.finish())
    }
}

/// Returns the folder of the fuzzer in this repository.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// Returns the file that holds the packed inputs of `target`.
#[must_use]
pub fn packed(target: &str) -> PathBuf {
    folder().join("corpus").join(format!("{target}.txt"))
}

/// Returns the folder where `cargo fuzz` looks for the inputs of `target`.
#[must_use]
pub fn unpacked(target: &str) -> PathBuf {
    folder().join("corpus").join(target)
}

/// Reads the packed inputs of `target`.
///
/// # Errors
/// The file cannot be read, or a line of it has no tab.
pub fn read(target: &str) -> io::Result<Vec<Input>> {
    let path = packed(target);
    let text = fs::read_to_string(&path).map_err(|error| named(&path, error))?;
    parse(&text).ok_or_else(|| named(&path, io::ErrorKind::InvalidData.into()))
}

/// Returns the inputs of a packed file; `None`: a line of it has no tab.
#[must_use]
pub fn parse(text: &str) -> Option<Vec<Input>> {
    let inputs = text.lines().map(|line| {
        let (name, encoded) = line.split_once('\t')?;
        Some(Input {
            name: name.to_owned(),
            bytes: percent_decode_str(encoded).collect(),
        })
    });
    inputs.collect()
}

/// Returns the text of a packed file: the inputs in order and each once.
#[must_use]
pub fn text(inputs: impl IntoIterator<Item = Input>) -> String {
    let inputs: BTreeSet<Input> = inputs.into_iter().collect();
    let lines = inputs.iter().map(|Input { name, bytes }| {
        let encoded = percent_encode(bytes, ENCODED);
        format!("{name}\t{encoded}\n")
    });
    lines.collect()
}

/// Replaces the packed inputs of `target` by those of its folder, and returns how many they are.
///
/// # Errors
/// A file cannot be read or written.
pub fn pack(target: &str) -> io::Result<usize> {
    let folder = unpacked(target);
    let entries = fs::read_dir(&folder).map_err(|error| named(&folder, error))?;
    let mut inputs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_found =
            name.len() >= FOUND_NAME_LEAST && name.bytes().all(|it| it.is_ascii_hexdigit());
        inputs.push(Input {
            name: if is_found {
                String::new()
            } else {
                name.into_owned()
            },
            bytes: fs::read(&path).map_err(|error| named(&path, error))?,
        });
    }
    let count = inputs.len();
    let path = packed(target);
    fs::write(&path, text(inputs)).map_err(|error| named(&path, error))?;
    Ok(count)
}

/// Writes the packed inputs of `target` into its folder, a file each, and returns how many they are.
///
/// # Errors
/// A file cannot be read or written.
pub fn unpack(target: &str) -> io::Result<usize> {
    let folder = unpacked(target);
    fs::create_dir_all(&folder).map_err(|error| named(&folder, error))?;
    let inputs = read(target)?;
    for input in &inputs {
        let path = folder.join(input.file_name());
        fs::write(&path, &input.bytes).map_err(|error| named(&path, error))?;
    }
    Ok(inputs.len())
}

/// Returns the error with the path that it is about.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
