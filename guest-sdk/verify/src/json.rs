//! The one form of JSON that evidence has: a fixed sequence of keys, strings without escapes, whole numbers.
//!
//! Guarantees: a key that is unknown, missing, out of its order or there twice is refused where it stands; so is a string with
//! an escape (no value needs one) and a number written in another than the shortest way. White space between tokens
//! is the writer's choice. Nothing is nested deeper than the caller asks.

use std::str;

use crate::wire::Malformed;

pub(crate) struct Json<'a> {
    text: &'a [u8],
    at: usize,
    /// Nothing of the object or list that was opened last has been read.
    first: bool,
}

impl<'a> Json<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, first: true }
    }

    fn expected<T>(&self, what: impl Into<String>) -> Result<T, Malformed> {
        Err(Malformed::Json { at: self.at, expected: what.into() })
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn symbol(&mut self, symbol: u8) -> Result<(), Malformed> {
        if self.peek() != Some(symbol) {
            return self.expected(format!("'{}'", symbol.escape_ascii()));
        }
        self.at += 1;
        Ok(())
    }

    pub(crate) fn open(&mut self, bracket: u8) -> Result<(), Malformed> {
        self.first = true;
        self.symbol(bracket)
    }

    pub(crate) fn close(&mut self, bracket: u8) -> Result<(), Malformed> {
        self.first = false;
        self.symbol(bracket)
    }

    fn comma(&mut self) -> Result<(), Malformed> {
        match std::mem::take(&mut self.first) {
            true => Ok(()),
            false => self.symbol(b','),
        }
    }

    /// Whether another item of the list or object follows; goes to it.
    pub(crate) fn more(&mut self, bracket: u8) -> Result<bool, Malformed> {
        if self.peek() == Some(bracket) {
            return Ok(false);
        }
        self.comma().map(|()| true)
    }

    /// The key that has to be next.
    pub(crate) fn key(&mut self, name: &str) -> Result<(), Malformed> {
        self.comma()?;
        self.peek();
        let at = self.at;
        match self.string() {
            Ok(found) if found == name => self.symbol(b':'),
            _ => {
                self.at = at;
                self.expected(format!("\"{name}\""))
            }
        }
    }

    /// A key of which the caller knows more than we do.
    pub(crate) fn any_key(&mut self) -> Result<&'a str, Malformed> {
        let name = self.string()?;
        self.symbol(b':').map(|()| name)
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, Malformed> {
        self.symbol(b'"')?;
        let rest = &self.text[self.at..];
        let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let length = rest.iter().position(|byte| !plain(byte)).unwrap_or(rest.len());
        self.at += length;
        let text = str::from_utf8(&rest[..length]).unwrap_or_default();
        if self.text.get(self.at) != Some(&b'"') {
            return self.expected("a plain character or the end of the string");
        }
        self.at += 1;
        Ok(text)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        self.peek();
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        let text = str::from_utf8(&rest[..length]).unwrap_or_default();
        match text.parse() {
            Ok(number) if length == 1 || !text.starts_with('0') => {
                self.at += length;
                Ok(number)
            }
            _ => self.expected("a whole number below 2^64"),
        }
    }

    /// A number that has to fit into a smaller one.
    pub(crate) fn small<T: TryFrom<u64>>(&mut self, what: &str) -> Result<T, Malformed> {
        self.peek();
        let at = self.at;
        T::try_from(self.number()?).map_err(|_| Malformed::Json { at, expected: what.into() })
    }

    /// Takes `null`, if that is next.
    pub(crate) fn null(&mut self) -> bool {
        self.peek();
        let null = self.text[self.at..].starts_with(b"null");
        self.at += if null { 4 } else { 0 };
        null
    }

    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.expected("the end of the file"),
        }
    }
}
