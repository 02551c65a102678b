//! Response files of NIST's CAVP.

use std::collections::BTreeMap;

/// A vector's fields. Those that stand before several vectors (a key, a section's title) are in each.
pub struct Vector(BTreeMap<String, String>);

/// The vectors of a file: a line of the field `last` ends each.
pub fn vectors(text: &str, last: &str) -> Vec<Vector> {
    let mut fields = BTreeMap::new();
    let mut vectors = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.trim_matches(['[', ']']);
        let Some((name, value)) = line.split_once('=') else { continue };
        fields.insert(name.trim().to_owned(), value.trim().to_owned());
        if name.trim() == last {
            vectors.push(Vector(fields.clone()));
        }
    }
    vectors
}

impl Vector {
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let digits = self.text(name).as_bytes();
        assert!(digits.len().is_multiple_of(2), "{name} is {} digits long", digits.len());
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }
}
