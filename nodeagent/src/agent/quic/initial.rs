//! Initial packets of QUIC, as a client sends them (RFC 9000, RFC 9001, RFC 9369): their keys come from what stands in the
//! clear, so that whoever sees a datagram can read it.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey, quic};
use ring::hkdf;

/// The longest connection id (RFC 9000, section 17.2).
const MAX_ID: usize = 20;
/// Where the sample for the header's mask starts, behind the start of the packet's number.
const SAMPLE: usize = 4;
const MASK_SAMPLE: usize = 16;
const IV: usize = 12;
const KEY: usize = 16;
const SECRET: usize = 32;

/// What of keys depends on the version.
struct Version {
    number: u32,
    /// The upper four bits of an Initial packet's first byte.
    form: u8,
    salt: [u8; 20],
    key: &'static str,
    iv: &'static str,
    mask: &'static str,
}

const VERSIONS: [Version; 2] = [
    // RFC 9001, sections 5.1 and 5.2.
    Version {
        number: 1,
        form: 0b1100,
        salt: [
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
            0xcc, 0xbb, 0x7f, 0x0a,
        ],
        key: "quic key",
        iv: "quic iv",
        mask: "quic hp",
    },
    // RFC 9369, section 3.3.
    Version {
        number: 0x6b33_43cf,
        form: 0b1101,
        salt: [
            0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
            0xf9, 0xbd, 0x2e, 0xd9,
        ],
        key: "quicv2 key",
        iv: "quicv2 iv",
        mask: "quicv2 hp",
    },
];

/// What is read of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Initial {
    /// The connection that the client means, by the id that it chose.
    pub(super) connection: Vec<u8>,
    /// What it carries of the handshake: where in the stream that starts, and the bytes.
    pub(super) crypto: Vec<(u64, Vec<u8>)>,
}

/// Reads the Initial packets at the start of a datagram: those whose keys come from their own connection id, which are a
/// client's first. Others, and what is no such packet, are left out.
pub(super) fn read(mut datagram: &[u8]) -> Vec<Initial> {
    let mut found = Vec::new();
    while let Some((initial, rest)) = read_one(datagram) {
        found.extend(initial);
        datagram = rest;
    }
    found
}

/// The packet, if it can be opened, and what is behind it. None if it is none.
fn read_one(datagram: &[u8]) -> Option<(Option<Initial>, &[u8])> {
    let mut cursor = Cursor(datagram);
    let first = cursor.byte()?;
    let number = u32::from_be_bytes(*cursor.take(4)?.first_chunk()?);
    let version = VERSIONS.iter().find(|version| version.number == number && version.form == first >> 4)?;
    let id = |cursor: &mut Cursor<'_>| {
        let length = usize::from(cursor.byte()?);
        if length > MAX_ID { None } else { cursor.take(length).map(<[u8]>::to_vec) }
    };
    let connection = id(&mut cursor)?;
    id(&mut cursor)?;
    let token = cursor.number()?;
    cursor.take(usize::try_from(token).ok()?)?;
    let length = usize::try_from(cursor.number()?).ok()?;
    let header = datagram.len() - cursor.0.len();
    cursor.take(length)?;
    let packet = datagram.get(..header + length)?;
    let crypto = version.open(&connection, packet, header).map(|plain| crypto_frames(&plain));
    Some((crypto.map(|crypto| Initial { connection, crypto }), cursor.0))
}

/// The keys of what a client sends.
struct Keys {
    key: [u8; KEY],
    iv: [u8; IV],
    mask: [u8; KEY],
}

impl Version {
    /// From the connection id that a client chose.
    fn keys(&self, connection: &[u8]) -> Option<Keys> {
        let initial = hkdf::Salt::new(hkdf::HKDF_SHA256, &self.salt).extract(connection);
        let client: [u8; SECRET] = expand(&initial, "client in")?;
        let client = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &client);
        let (key, iv) = (expand(&client, self.key)?, expand(&client, self.iv)?);
        Some(Keys { key, iv, mask: expand(&client, self.mask)? })
    }

    /// What is in a packet whose number starts at `header`.
    fn open(&self, connection: &[u8], packet: &[u8], header: usize) -> Option<Vec<u8>> {
        let sample = packet.get(header + SAMPLE..)?.get(..MASK_SAMPLE)?;
        let keys = self.keys(connection)?;
        let mask = quic::HeaderProtectionKey::new(&quic::AES_128, &keys.mask).ok()?;
        let mask = mask.new_mask(sample).ok()?;

        let mut plain = packet.to_vec();
        plain[0] ^= mask[0] & 0x0f;
        let length = usize::from(plain[0] & 0x03) + 1;
        let mut number = 0_u64;
        for (byte, mask) in plain.get_mut(header..header + length)?.iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
            number = number << 8 | u64::from(*byte);
        }
        let mut nonce = keys.iv;
        for (byte, number) in nonce[IV - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        let key = UnboundKey::new(&AES_128_GCM, &keys.key).ok()?;
        let (header, sealed) = plain.split_at_mut(header + length);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::from(header), sealed).ok()?;
        Some(opened.to_vec())
    }
}

/// `HKDF-Expand-Label` without a context (RFC 8446, section 7.1).
fn expand<const SIZE: usize>(secret: &hkdf::Prk, label: &str) -> Option<[u8; SIZE]> {
    struct Size(usize);
    impl hkdf::KeyType for Size {
        fn len(&self) -> usize {
            self.0
        }
    }
    let prefix = b"tls13 ";
    let sizes = [0, SIZE as u8, (prefix.len() + label.len()) as u8];
    let mut key = [0; SIZE];
    let info: [&[u8]; 4] = [&sizes, prefix, label.as_bytes(), &[0]];
    secret.expand(&info, Size(SIZE)).ok()?.fill(&mut key).ok()?;
    Some(key)
}

/// The CRYPTO frames among those that an Initial packet may have (RFC 9000, section 12.4); up to the first that is none.
fn crypto_frames(plain: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut cursor = Cursor(plain);
    let mut found = Vec::new();
    while cursor.frame(&mut found).is_some() {}
    found
}

/// Bytes that are read from their start.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// A number of one to eight bytes (RFC 9000, section 16).
    fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let rest = self.take((1 << (first >> 6)) - 1)?;
        Some(rest.iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Passes a frame, and keeps it if it is a CRYPTO frame.
    fn frame(&mut self, crypto: &mut Vec<(u64, Vec<u8>)>) -> Option<()> {
        const PADDING: u64 = 0x00;
        const PING: u64 = 0x01;
        const ACK: u64 = 0x02;
        const ACK_ECN: u64 = 0x03;
        const CRYPTO: u64 = 0x06;
        match self.number()? {
            PADDING | PING => {}
            kind @ (ACK | ACK_ECN) => {
                self.number()?;
                self.number()?;
                let ranges = self.number()?;
                self.number()?;
                let counts = if kind == ACK_ECN { 3 } else { 0 };
                for _ in 0..ranges.checked_mul(2)?.checked_add(counts)? {
                    self.number()?;
                }
            }
            CRYPTO => {
                let (at, length) = (self.number()?, self.number()?);
                crypto.push((at, self.take(usize::try_from(length).ok()?)?.to_vec()));
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::VERSIONS;

    /// RFC 9001, appendix A.1; RFC 9369, appendix A.1.
    #[test]
    fn keys_are_those_of_the_rfcs() {
        let connection = 0x8394_c8f0_3e51_5708_u64.to_be_bytes();
        let wanted = [
            (
                0x1f36_9613_dd76_d546_7730_efcb_e3b1_a22d_u128,
                0xfa04_4b2f_42a3_fd3b_46fb_255c_u128,
                0x9f50_449e_04a0_e810_283a_1e99_33ad_edd2_u128,
            ),
            (
                0x8b1a_0bc1_2128_4290_a29e_0971_b5cd_045d,
                0x91f7_3e23_51d8_fa91_660e_909f,
                0x45b9_5e15_235d_6f45_a6b1_9cbc_b029_4ba9,
            ),
        ];
        for (version, (key, iv, mask)) in VERSIONS.iter().zip(wanted) {
            let keys = version.keys(&connection).expect("keys");
            assert_eq!(u128::from_be_bytes(keys.key), key, "{:x}", version.number);
            assert_eq!(keys.iv, iv.to_be_bytes()[4..], "{:x}", version.number);
            assert_eq!(u128::from_be_bytes(keys.mask), mask, "{:x}", version.number);
        }
    }
}
