//! The tables that kubectl prints: found, taken apart, and set again with three blanks between
//! columns.

const GAP: usize = 3;

/// A table at the beginning of some lines.
#[derive(Debug, PartialEq)]
pub struct Table {
    pub header: Vec<String>,
    /// As many cells as the header has.
    pub rows: Vec<Vec<String>>,
    /// How many lines it takes.
    pub lines: usize,
    indent: usize,
    /// Below the header of a description.
    dashes: Option<Vec<String>>,
}

impl Table {
    /// With a header in capitals, as `get` prints it, or with a line of dashes below it, as
    /// `describe` does.
    pub fn read(lines: &[&str]) -> Option<Table> {
        let (first, rest) = lines.split_first()?;
        let has_dashes = rest.first().is_some_and(|line| is_dashes(line));
        if !has_dashes && !is_header(first) {
            return None;
        }
        let starts = if has_dashes { word_starts(rest[0], 1) } else { word_starts(first, 2) };
        let indent = starts.first().copied().unwrap_or(0);
        let body = &rest[usize::from(has_dashes)..];
        let is_row = |line: &&&str| !line.trim().is_empty() && line.len() > indent && line[..indent].trim().is_empty() && !is_header(line);
        let rows: Vec<Vec<String>> = body.iter().take_while(is_row).map(|line| cells(line, &starts)).collect();
        let lines = 1 + usize::from(has_dashes) + rows.len();
        let dashes = has_dashes.then(|| cells(rest[0], &starts));
        Some(Table { header: cells(first, &starts), rows, lines, indent, dashes })
    }
}

/// `NAME   READY ...`: several words in capitals; units may follow in brackets.
fn is_header(line: &str) -> bool {
    let columns = word_starts(line, 2).len();
    let is_capital = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_uppercase()) && !word.split('(').next().unwrap_or(word).contains(char::is_lowercase)
    };
    columns > 1 && line.split_whitespace().all(is_capital)
}

fn is_dashes(line: &str) -> bool {
    line.starts_with("  ") && line.contains("--  ") && line.chars().all(|c| c == ' ' || c == '-')
}

/// Where words begin that have so many blanks before them, or none.
fn word_starts(line: &str, gap: usize) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut blanks = gap;
    for (at, c) in line.char_indices() {
        if c == ' ' {
            blanks += 1;
            continue;
        }
        if blanks >= gap {
            starts.push(at);
        }
        blanks = 0;
    }
    starts
}

/// The text from each start to the next, without blanks around it.
fn cells(line: &str, starts: &[usize]) -> Vec<String> {
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| line.get(start..end.max(start)).or(line.get(start..)).unwrap_or_default().trim().to_owned())
        .collect()
}

/// The table with these rows, each column as wide as its widest cell.
pub fn align(table: &Table, rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().chain([&table.header]).map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.header.len()).map(width).collect();
    let set = |cells: &[String]| {
        let mut line = " ".repeat(table.indent);
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}", width = width + GAP));
        }
        line.trim_end().to_owned()
    };
    [&table.header].into_iter().chain(&table.dashes).chain(rows).map(|row| set(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_list_is_a_table() {
        let lines = ["NAME    NODE SELECTOR   CPU(cores)", "agent   a=b             1m", "", "other"];
        let table = Table::read(&lines).expect("it is one");
        assert_eq!(table.header, texts(&["NAME", "NODE SELECTOR", "CPU(cores)"]));
        assert_eq!(table.rows, [texts(&["agent", "a=b", "1m"])]);
        assert_eq!(table.lines, 2);
    }

    #[test]
    fn a_list_may_follow_a_list() {
        let lines = ["NAME   READY", "pod    1/1", "NAME   DESIRED", "set    3"];
        assert_eq!(Table::read(&lines).expect("it is one").lines, 2);
    }

    #[test]
    fn other_text_is_none() {
        for line in ["daemonset.apps/agent created", "NAME", "Name:   agent", "EVENTS are many", "", "Node-Selectors:  <none>"] {
            assert_eq!(Table::read(&[line, "more"]), None, "{line}");
        }
    }

    #[test]
    fn columns_are_set_anew() {
        let table = Table::read(&["  Type    Age", "  ----    ----", "  Normal  5s"]).expect("it is one");
        let rows = [texts(&["Normal", "<age>"])];
        assert_eq!(align(&table, &rows), ["  Type     Age", "  ----     ----", "  Normal   <age>"]);
    }
}
