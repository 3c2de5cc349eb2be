//! Tables for people: columns as wide as what is in them.

/// Between two columns.
const GAP: &str = "  ";

/// What stands where there is nothing.
pub const NOTHING: &str = "-";

/// Titles and rows as lines. Numbers stand at the right of their column.
pub fn aligned(titles: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let columns: Vec<(usize, bool)> = titles.iter().enumerate().map(|(at, title)| shape(title, rows.iter().map(|row| &*row[at]))).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&columns).map(|(cell, (width, is_number))| match is_number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    let head = line(&mut titles.iter().copied());
    std::iter::once(head).chain(rows.iter().map(|row| line(&mut row.iter().map(String::as_str)))).collect()
}

/// How wide a column is, and whether it holds numbers.
fn shape<'a>(title: &str, cells: impl Iterator<Item = &'a str>) -> (usize, bool) {
    let (mut width, mut numbers, mut others) = (title.chars().count(), 0, 0);
    for cell in cells {
        width = width.max(cell.chars().count());
        match cell {
            NOTHING => {}
            cell if cell.parse::<u64>().is_ok() => numbers += 1,
            _ => others += 1,
        }
    }
    (width, numbers > 0 && others == 0)
}
