//! The fewest longest-prefix entries that give every port its ruling.
//!
//! The method is the one known for routing tables (Draves, King, Venkatachary and Zill, "Constructing optimal IP
//! routing tables", 1999): from the leaves up, each block learns which rulings would be the cheapest for it to have;
//! from the root down, a block that can take over what is around it needs no entry.

use std::collections::BTreeSet;

/// A block of ports whose size is a power of two.
struct Block<T> {
    first: u32,
    length: u8,
    /// The rulings with which the block costs the fewest entries.
    best: BTreeSet<T>,
    halves: Option<Box<[Block<T>; 2]>>,
}

/// Covers the ports. `parts` holds the first port of each part and its ruling, in order and from port 0.
///
/// The answer is in the order of port and length and begins with an entry of length 0.
pub(super) fn cover<T: Copy + Ord>(parts: &[(u32, T)]) -> Vec<(u16, u8, T)> {
    let mut entries = Vec::new();
    emit(&block(0, 0, parts), None, &mut entries);
    entries.sort_unstable_by_key(|(port, length, _)| (*port, *length));
    entries
}

/// `parts` begins with the part that holds the block's first port.
fn block<T: Copy + Ord>(first: u32, length: u8, parts: &[(u32, T)]) -> Block<T> {
    let size = 1_u32 << (16 - length);
    let inside = &parts[..parts.partition_point(|(start, _)| *start < first + size)];
    if inside.iter().all(|(_, ruling)| *ruling == inside[0].1) {
        let best = inside.first().map(|(_, ruling)| *ruling).into_iter().collect();
        return Block { first, length, best, halves: None };
    }
    let middle = first + size / 2;
    let before = inside.partition_point(|(start, _)| *start <= middle).saturating_sub(1);
    let halves = [block(first, length + 1, inside), block(middle, length + 1, &inside[before..])];
    let common: BTreeSet<_> = halves[0].best.intersection(&halves[1].best).copied().collect();
    let best =
        if common.is_empty() { halves[0].best.union(&halves[1].best).copied().collect() } else { common };
    Block { first, length, best, halves: Some(Box::new(halves)) }
}

fn emit<T: Copy + Ord>(block: &Block<T>, around: Option<T>, entries: &mut Vec<(u16, u8, T)>) {
    let inherited = around.filter(|ruling| block.best.contains(ruling));
    // A block always has a best ruling; the first makes the choice the same every time.
    let ruling = inherited.or_else(|| block.best.first().copied());
    if inherited.is_none()
        && let Some(ruling) = ruling
    {
        entries.push((block.first as u16, block.length, ruling));
    }
    for half in block.halves.iter().flat_map(|halves| halves.iter()) {
        emit(half, ruling, entries);
    }
}
