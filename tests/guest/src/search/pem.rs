//! Base64 as in PEM files (RFC 7468), decoded where it lies in memory.

const BEGIN: &[u8] = b"-----BEGIN ";
/// Of such a line.
const LINE: usize = 80;

/// Where each file begins, and its contents as far as they are there.
pub fn files(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut found = Vec::new();
    // Five hyphens: one of them is at a multiple of four.
    for at in (0..bytes.len()).step_by(4).filter(|at| bytes[*at] == b'-') {
        let Some(start) = (at.saturating_sub(4)..=at).find(|from| bytes[*from..].starts_with(BEGIN)) else {
            continue;
        };
        if found.last().is_some_and(|(last, _)| *last == start) {
            continue;
        }
        let line = &bytes[start..bytes.len().min(start + LINE)];
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            found.push((start, decode(&bytes[start + end..])));
        }
    }
    found
}

fn decode(text: &[u8]) -> Vec<u8> {
    let (mut decoded, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text {
        let Some(value) = value(*byte) else {
            if byte.is_ascii_whitespace() {
                continue;
            }
            break;
        };
        bits = bits << 6 | value;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    decoded
}

fn value(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}
