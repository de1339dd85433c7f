//! What the verifier needs said in one instruction, and arithmetic in place of branches.

#[cfg(target_arch = "bpf")]
use core::arch::asm;

/// `value & MASK`, where it stands.
#[inline(always)]
pub fn keep<const MASK: u32>(value: u64) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut kept = value;
        // VERIFIER: LLVM would move a mask away from the use that needs it.
        // SAFETY: one instruction on a register.
        unsafe {
            asm!("{kept} &= {mask}", kept = inout(reg) kept, mask = const MASK, options(nomem, nostack))
        };
        kept as usize
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (value & u64::from(MASK)) as usize
    }
}

/// All ones if the upper bit is set, else zero.
#[inline(always)]
pub fn sign(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut sign = value;
        // VERIFIER: LLVM would make a comparison and a branch of the shift.
        // SAFETY: one instruction on a register.
        unsafe { asm!("{sign} s>>= 63", sign = inout(reg) sign, options(pure, nomem, nostack)) };
        sign
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (value.cast_signed() >> 63).cast_unsigned()
    }
}

/// All ones if `value` is zero, else zero. The upper bit of `value` must not be set.
#[inline(always)]
pub fn if_zero(value: u64) -> u64 {
    sign(value.wrapping_sub(1))
}

/// `yes` where `mask` is all ones, `no` where it is zero.
#[inline(always)]
pub fn select(mask: u64, yes: u64, no: u64) -> u64 {
    no ^ ((yes ^ no) & mask)
}

/// Reads what a loop carries on.
#[inline(always)]
pub fn get(word: &u64) -> u64 {
    // SAFETY: a reference may be read.
    unsafe { core::ptr::read_volatile(word) }
}

/// Writes what a loop carries on.
#[inline(always)]
pub fn put(word: &mut u64, value: u64) {
    // SAFETY: a unique reference may be written.
    unsafe { core::ptr::write_volatile(word, value) }
}

/// A byte in lower case, if it is an ASCII letter.
#[inline(always)]
pub fn lower(byte: u64) -> u64 {
    let is_other = sign(byte.wrapping_sub(u64::from(b'A')) | u64::from(b'Z').wrapping_sub(byte));
    byte | (0x20 & !is_other)
}

/// Eight bytes in lower case, where they are ASCII letters.
#[inline(always)]
pub fn lower_all(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let low = bytes & !HIGH;
    // The upper bit of each byte says: at least `A`; past `Z`. No sum carries over into the next byte.
    let from_a = low + ONES * (0x80 - u64::from(b'A'));
    let past_z = low + ONES * (0x7f - u64::from(b'Z'));
    bytes | ((from_a & !past_z & !bytes & HIGH) >> 2)
}

/// Does the byte stand in names that Sluice keeps? All ones if not. The dot does not stand in a label.
#[inline(always)]
pub fn if_not_in_label(byte: u64) -> u64 {
    sign(byte.wrapping_sub(0x21) | 0x7e_u64.wrapping_sub(byte)) | if_zero(byte ^ u64::from(b'.'))
}

/// Bytes with room behind them, of which any offset up to `LAST` may be read, and 256 bytes from there on.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Room<const SIZE: usize>(pub [u8; SIZE]);

impl<const SIZE: usize> Room<SIZE> {
    /// The largest offset.
    const LAST: u32 = {
        assert!((SIZE - 512).is_power_of_two());
        (SIZE - 513) as u32
    };

    /// Zeros.
    pub const fn new() -> Self {
        Self([0; SIZE])
    }

    #[inline(always)]
    fn masked(at: u64) -> usize {
        match Self::LAST {
            0xfff => keep::<0xfff>(at),
            _ => keep::<0x1ff>(at),
        }
    }

    /// Where a masked offset and a small one lead.
    #[inline(always)]
    pub(crate) fn place(&self, at: u64, then: usize) -> *const u8 {
        let at = Self::masked(at);
        // SAFETY: the mask keeps the offset at least 512 bytes from the end, and `then` is below 256.
        unsafe { self.0.as_ptr().add(at).add(then) }
    }

    /// Where to write from an offset on: 512 bytes at most.
    #[inline(always)]
    pub fn place_mut(&mut self, at: u64) -> *mut u8 {
        let at = Self::masked(at);
        // SAFETY: the mask keeps the offset at least 512 bytes from the end.
        unsafe { self.0.as_mut_ptr().add(at) }
    }

    /// The byte at an offset and a constant.
    #[inline(always)]
    pub fn byte(&self, at: u64, then: usize) -> u64 {
        // SAFETY: see `place`.
        unsafe { u64::from(*self.place(at, then)) }
    }

    /// Two bytes as a number in network order.
    #[inline(always)]
    pub fn half(&self, at: u64) -> u64 {
        let place = self.place(at, 0);
        // SAFETY: see `place`.
        unsafe { u64::from(*place) << 8 | u64::from(*place.add(1)) }
    }

    /// Four bytes as a number in network order.
    #[inline(always)]
    pub fn word(&self, at: u64) -> u64 {
        u64::from((self.raw_word(at) as u32).swap_bytes())
    }

    /// Four bytes as they lie.
    #[inline(always)]
    pub fn raw_word(&self, at: u64) -> u64 {
        // SAFETY: see `place`.
        unsafe { load_word(self.place(at, 0)) }
    }

    /// Eight bytes as they lie.
    #[inline(always)]
    pub fn raw_long(&self, at: u64) -> u64 {
        // SAFETY: see `place`.
        unsafe { load_long(self.place(at, 0)) }
    }
}

// VERIFIER: LLVM takes it that this machine asks for alignment, and would take such words apart into bytes. The verifier
// does not ask for it in maps, on x86-64 and arm64.

/// Loads four bytes from wherever they lie.
///
/// # Safety
///
/// They must be readable.
#[inline(always)]
pub unsafe fn load_word(place: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: the caller's.
        unsafe {
            asm!("{word} = *(u32 *)({place} + 0)", word = out(reg) word, place = in(reg) place, options(nostack, readonly));
        }
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: the caller's; the read asks for no alignment.
        unsafe { u64::from(place.cast::<u32>().read_unaligned()) }
    }
}

/// Loads eight bytes from wherever they lie.
///
/// # Safety
///
/// They must be readable.
#[inline(always)]
pub unsafe fn load_long(place: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let long: u64;
        // SAFETY: the caller's.
        unsafe {
            asm!("{long} = *(u64 *)({place} + 0)", long = out(reg) long, place = in(reg) place, options(nostack, readonly));
        }
        long
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: the caller's; the read asks for no alignment.
        unsafe { place.cast::<u64>().read_unaligned() }
    }
}

/// Stores four bytes wherever they are to lie.
///
/// # Safety
///
/// They must be writable.
#[inline(always)]
pub unsafe fn store_word(place: *mut u8, word: u64) {
    #[cfg(target_arch = "bpf")]
    {
        // SAFETY: the caller's.
        unsafe {
            asm!("*(u32 *)({place} + 0) = {word}", place = in(reg) place, word = in(reg) word, options(nostack));
        }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: the caller's; the write asks for no alignment.
        unsafe { place.cast::<u32>().write_unaligned(word as u32) }
    }
}

impl<const SIZE: usize> Default for Room<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_become_small_and_nothing_else_changes() {
        for byte in 0..=255_u8 {
            assert_eq!(lower(byte.into()), u64::from(byte.to_ascii_lowercase()));
            let around = [byte, b'Z', 0, byte, 0xff, b'@', byte, b'['];
            let expected = around.map(|byte| byte.to_ascii_lowercase());
            assert_eq!(lower_all(u64::from_le_bytes(around)), u64::from_le_bytes(expected), "{byte}");
        }
    }

    #[test]
    fn labels_hold_what_names_hold_but_dots() {
        for byte in 0..=255_u8 {
            let is_in = sluice_abi::is_in_names(byte) && byte != b'.';
            assert_eq!(if_not_in_label(byte.into()), if is_in { 0 } else { u64::MAX }, "{byte}");
        }
    }

    #[test]
    fn zero_is_told_from_the_rest() {
        assert_eq!(if_zero(0), u64::MAX);
        for other in [1, 2, 255, 1 << 62] {
            assert_eq!(if_zero(other), 0);
        }
    }
}
