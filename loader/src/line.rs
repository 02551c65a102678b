//! Command lines, copied out of the boot loader's memory once, so that nothing of that memory has to be kept.

/// A command line of at most `N` bytes.
#[derive(Clone, Copy)]
pub struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Line<N> {
    /// The text before the first NUL (or all of it) without the name of the file it was given to, which GRUB 2 leaves away and
    /// others put first: a word that begins like a path. `None` if what is left does not fit.
    pub fn new(text: &[u8]) -> Option<Self> {
        let text = text.split(|b| *b == 0).next().unwrap_or(&[]).trim_ascii();
        let text = match text.first() {
            Some(b'/' | b'(') => {
                text.iter().position(u8::is_ascii_whitespace).map_or(&[][..], |n| &text[n..])
            }
            _ => text,
        };
        let text = text.trim_ascii();
        let mut line = Self::default();
        line.bytes.get_mut(..text.len())?.copy_from_slice(text);
        line.len = text.len();
        Some(line)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<String> {
        Line::<16>::new(text.as_bytes()).map(|l| String::from_utf8(l.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn name_and_blanks_go() {
        assert_eq!(line(" console=com2 \0junk").as_deref(), Some("console=com2"));
        assert_eq!(line("/boot/loader   a=b").as_deref(), Some("a=b"));
        assert_eq!(line("(hd0,1)/boot/loader").as_deref(), Some(""));
        assert_eq!(line("root=/dev/sda1 x").as_deref(), Some("root=/dev/sda1 x"));
        assert_eq!(line("").as_deref(), Some(""));
    }

    #[test]
    fn too_long_is_refused_not_cut() {
        assert!(line("0123456789abcdef").is_some());
        assert!(line("0123456789abcdefg").is_none());
    }
}
