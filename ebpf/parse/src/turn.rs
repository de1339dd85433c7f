//! Turning names round: from DNS's wire form or from text to the form that maps hold, see [`sluice_abi::names`].

use sluice_abi::{MAX_NAME, NAME_SIZE, NameBytes};

use crate::Unreadable;
use crate::bits::{
    Room, get, if_not_in_label, if_zero, keep, load_word, lower, put, select, sign, store_word,
};

/// Where in the room the first byte of a name comes to lie, which is the last of its reversed form.
const FIRST: usize = 255;
/// Longest label (RFC 1035, section 2.3.4).
const MAX_LABEL: u64 = 63;

/// Room to turn a name round in. What lies past the first byte stays zero.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Turn {
    room: Room<1024>,
    /// Bytes of the name, the dot in front included.
    length: u64,
}

impl Turn {
    /// For the first use. In the kernel, the zeros of a fresh map element.
    pub const fn new() -> Self {
        Self { room: Room::new(), length: 0 }
    }

    /// The length of the name that was turned last.
    #[inline(always)]
    pub fn length(&self) -> u64 {
        get(&self.length)
    }

    #[inline(always)]
    fn set(&mut self, index: usize, byte: u64) {
        // VERIFIER: `index` is a loop's counter, of which 7.2 knows no bounds.
        let place = keep::<0xff>((FIRST - index) as u64);
        // SAFETY: callers count to below `NAME_SIZE`, which is below `FIRST`.
        unsafe { *self.room.0.as_mut_ptr().add(place) = byte as u8 };
    }

    /// Turns the name in wire form at `start` of a message; it must not be compressed. The length is zero for the root.
    /// Gives the offset after it.
    #[inline(always)]
    pub fn wire<const SIZE: usize>(
        &mut self,
        message: &Room<SIZE>,
        start: u64,
        end: u64,
    ) -> Result<u64, Unreadable> {
        // Bytes of the label that are still to come, and all ones once something was wrong.
        let mut left = 0;
        let mut wrong = 0;
        put(&mut self.length, u64::MAX);
        for index in 0..=MAX_NAME {
            let byte = message.byte(start, index);
            let is_length = if_zero(left);
            if is_length & if_zero(byte) != 0 {
                put(&mut self.length, index as u64);
                break;
            }
            wrong |= select(is_length, sign(MAX_LABEL.wrapping_sub(byte)), if_not_in_label(byte));
            self.set(index, select(is_length, b'.'.into(), lower(byte)));
            left = select(is_length, byte, left.wrapping_sub(1));
        }
        // VERIFIER: from memory, so that it does not matter at which turn the loop ended.
        let length = get(&self.length);
        if wrong != 0 || length > MAX_NAME as u64 || start + length >= end {
            return Err(Unreadable);
        }
        Ok(start + length + 1)
    }

    /// Turns `length` bytes of text at `start`: a name without a final dot.
    #[inline(always)]
    pub fn text<const SIZE: usize>(
        &mut self,
        text: &Room<SIZE>,
        start: u64,
        length: u64,
    ) -> Result<(), Unreadable> {
        put(&mut self.length, length + 1);
        if length == 0 || length >= MAX_NAME as u64 {
            return Err(Unreadable);
        }
        self.set(0, b'.'.into());
        // Bytes of the label so far, and all ones once something was wrong.
        let mut run = 0;
        let mut wrong = 0;
        for index in 1..=MAX_NAME {
            // VERIFIER: from memory, as above.
            if index as u64 >= get(&self.length) {
                break;
            }
            let byte = text.byte(start, index - 1);
            let is_dot = if_zero(byte ^ u64::from(b'.'));
            wrong |=
                select(is_dot, if_zero(run), if_not_in_label(byte) | sign(MAX_LABEL.wrapping_sub(run + 1)));
            self.set(index, lower(byte));
            run = !is_dot & (run + 1);
        }
        if wrong != 0 || run == 0 { Err(Unreadable) } else { Ok(()) }
    }

    /// Copies the name out, padded with zeros.
    #[inline(always)]
    pub fn copy_to(&self, name: &mut NameBytes) {
        let start = self.room.place((FIRST as u64 + 1).wrapping_sub(get(&self.length)), 0);
        let name = name.as_mut_ptr();
        for index in (0..NAME_SIZE).step_by(4) {
            // SAFETY: `start` may be read from for 512 bytes, and the name has `NAME_SIZE`, a multiple of 4.
            unsafe { store_word(name.add(index), load_word(start.add(index))) };
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}
