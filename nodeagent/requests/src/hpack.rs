//! HPACK (RFC 7541): header blocks, and the table that they build.
//!
//! Nothing is copied that is not asked for: a block of few bytes can mean megabytes.

use std::collections::VecDeque;

use httlib_huffman::DecoderSpeed;

/// The size of the dynamic table that both sides begin with.
const FIRST_SIZE: usize = 4096;

/// What an entry costs beside its name and value (section 4.1).
const ENTRY: usize = 32;

/// Why a block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is no header block.
    Malformed,
    /// It makes the table larger than this reader's may be.
    TooLarge,
}

/// A name and a value.
type Entry = (Box<[u8]>, Box<[u8]>);

/// What earlier blocks said.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: VecDeque<Entry>,
    size: usize,
    most: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, most: FIRST_SIZE }
    }

    /// The bytes that it holds beside itself.
    pub(crate) fn held(&self) -> usize {
        // An entry's 32 bytes are the two boxes.
        self.size + self.table.capacity().saturating_sub(self.table.len()) * ENTRY
    }

    /// Reads a block, and gives each of its fields. The table may grow to `limit`.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Fault> {
        let mut input = Input(block);
        let mut is_first = true;
        while let Some(first) = input.0.first().copied() {
            if first & 0xe0 == 0x20 {
                let most = input.integer(5)?;
                if !is_first {
                    return Err(Fault::Malformed);
                }
                if most > limit {
                    return Err(Fault::TooLarge);
                }
                self.most = most;
                self.evict();
                continue;
            }
            is_first = false;
            if first & 0x80 != 0 {
                let index = input.integer(7)?;
                let (name, value) = self.entry(index)?;
                each(name, value);
                continue;
            }
            let is_kept = first & 0x40 != 0;
            let index = input.integer(if is_kept { 6 } else { 4 })?;
            let (mut name, mut value) = (Vec::new(), Vec::new());
            let name = if index == 0 { input.string(&mut name)? } else { self.entry(index)?.0 };
            let value = input.string(&mut value)?;
            each(name, value);
            if is_kept {
                let entry = (Box::from(name), Box::from(value));
                self.add(entry);
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Fault> {
        let index = index.checked_sub(1).ok_or(Fault::Malformed)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) = self.table.get(index - STATIC.len()).ok_or(Fault::Malformed)?;
        Ok((name, value))
    }

    fn add(&mut self, entry: Entry) {
        let size = entry.0.len() + entry.1.len() + ENTRY;
        // One that is larger than the table empties it (section 4.4).
        if size > self.most {
            self.table.clear();
            self.size = 0;
            return;
        }
        self.size += size;
        self.table.push_front(entry);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.most
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= name.len() + value.len() + ENTRY;
        }
    }
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.0.split_first().ok_or(Fault::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer in the low bits of a byte and in what follows it (section 5.1).
    fn integer(&mut self, bits: u32) -> Result<usize, Fault> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        // Four bytes say more than any block has.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Malformed)
    }

    /// A string (section 5.2); `room` is where one lies that was coded.
    fn string<'b>(&mut self, room: &'b mut Vec<u8>) -> Result<&'b [u8], Fault>
    where
        'a: 'b,
    {
        let is_coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(Fault::Malformed)?;
        self.0 = rest;
        if !is_coded {
            return Ok(string);
        }
        httlib_huffman::decode(string, room, DecoderSpeed::FiveBits).map_err(|_| Fault::Malformed)?;
        Ok(room)
    }
}

/// Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hex.bytes().filter_map(|c| char::from(c).to_digit(16).map(|d| d as u8)).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn decode(decoder: &mut Decoder, hex: &str) -> Result<String, Fault> {
        let mut found = Vec::new();
        decoder.decode(&bytes(hex), 1 << 16, |name, value| {
            found.push(format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        })?;
        Ok(found.join(" "))
    }

    /// The examples of RFC 7541, appendix C.3 and C.4: three requests on one connection, plain and with Huffman's code.
    #[test]
    fn the_examples_of_the_specification_are_read() {
        for blocks in [
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
        ] {
            let mut decoder = Decoder::new();
            let read: Vec<_> = blocks.iter().map(|block| decode(&mut decoder, block)).collect();
            assert_eq!(read, [
                Ok(":method=GET :scheme=http :path=/ :authority=www.example.com".to_owned()),
                Ok(":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache".to_owned()),
                Ok(":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value"
                    .to_owned()),
            ]);
            assert_eq!((decoder.size, decoder.table.len()), (164, 3));
        }
    }

    /// Appendix C.5: a table of 256 bytes, from which entries are evicted.
    #[test]
    fn entries_are_evicted() {
        let mut decoder = Decoder::new();
        let found = decode(&mut decoder, "3fe101 400161017a 40016201 79");
        assert_eq!(found.as_deref(), Ok("a=z b=y"));
        assert_eq!((decoder.size, decoder.most), (68, 256));
        assert_eq!(decode(&mut decoder, "be bf").as_deref(), Ok("b=y a=z"));
        assert_eq!(decode(&mut decoder, "3f03 be").as_deref(), Ok("b=y"));
        assert_eq!(decode(&mut decoder, "bf"), Err(Fault::Malformed));
        // Larger than the table: it is given, and the table is empty.
        let large = format!("400161{:02x}{}", 34, "62".repeat(34));
        assert_eq!(decode(&mut decoder, &large).map(|text| text.len()), Ok(36));
        assert_eq!((decoder.size, decoder.table.len()), (0, 0));
        assert_eq!(decode(&mut decoder, "20 82").as_deref(), Ok(":method=GET"));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for hex in
            ["80", "be", "ff", "ffffffffff7f", "40", "4001", "400261", "3f", "82 20", "4081ff", "4082ffff00"]
        {
            assert_eq!(decode(&mut Decoder::new(), hex), Err(Fault::Malformed), "{hex}");
        }
        assert_eq!(decode(&mut Decoder::new(), "3fe2ff03"), Err(Fault::TooLarge));
    }
}
