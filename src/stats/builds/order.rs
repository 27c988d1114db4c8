//! How the first attempts of a build are divided, in the order of their starts: into cells, and cells into segments that end
//! where looks are made.

/// Where the first cells end.
const FIRST_ENDS: [u64; 5] = [10, 15, 23, 34, 50];
/// How many attempts each further cell has.
pub(super) const CELL: u64 = 25;
/// The numbers of attempts at which a build is looked at. From the sixth on they are ends of cells.
pub(super) const LOOKS: [u64; 16] = [10, 15, 23, 34, 50, 75, 125, 175, 275, 400, 600, 900, 1350, 2025, 3050, 4575];
/// How many attempts each segment has behind the last look, and how many such segments are kept apart.
const SEGMENT: u64 = 2500;
pub(super) const RECENT: u32 = 3;

/// The end of a cell: how many attempts lie in it and before.
pub(super) fn cell_end(cell: u32) -> u64 {
    match FIRST_ENDS.get(cell as usize) {
        Some(end) => *end,
        None => 50 + CELL * (u64::from(cell) + 1 - FIRST_ENDS.len() as u64),
    }
}

/// The cell of the attempt with this number, from 1.
pub(super) fn cell_of(number: u64) -> u32 {
    match FIRST_ENDS.iter().position(|end| number <= *end) {
        Some(cell) => cell as u32,
        None => u32::try_from(FIRST_ENDS.len() as u64 + (number - 51) / CELL).unwrap_or(u32::MAX),
    }
}

/// The segment of a cell.
pub(super) fn segment_of(cell: u32) -> u32 {
    let end = cell_end(cell);
    match LOOKS.iter().position(|look| end <= *look) {
        Some(segment) => segment as u32,
        None => {
            LOOKS.len() as u32 + u32::try_from((end - LOOKS[LOOKS.len() - 1] - 1) / SEGMENT).unwrap_or(u32::MAX / 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_and_segments_end_where_looks_are() {
        for (i, look) in LOOKS.iter().enumerate() {
            assert_eq!(cell_end(cell_of(*look)), *look, "a look is the end of a cell");
            assert_eq!(segment_of(cell_of(*look)), i as u32);
            assert_eq!(segment_of(cell_of(look + 1)), i as u32 + 1);
        }
        for number in 1..20_000 {
            let cell = cell_of(number);
            assert!(number <= cell_end(cell) && (cell == 0 || number > cell_end(cell - 1)));
        }
    }
}
