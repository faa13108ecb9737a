//! Tables as the TKE prints them, and the same as JSON.

use hsm_emulator::units::{SubjectKeyIdentifier, VerificationPattern};
use serde_json::{Map, Value};

/// Columns are left-aligned and as wide as their widest cell; every cell is followed by three spaces.
pub struct Table {
    header: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

/// What stands in a column.
#[derive(Clone, PartialEq, Eq)]
pub enum Cell {
    /// A number.
    Number(u64),
    /// A CRYPTO UNIT NUM with the star of a recovery unit.
    Starred(u64),
    /// `true` or `false`.
    Flag(bool),
    /// Text.
    Text(String),
    /// Abbreviated; whole in JSON.
    Identifier(SubjectKeyIdentifier),
    /// Two lines of 32 digits; zeros if there is no key.
    Pattern(Option<VerificationPattern>),
}

impl Table {
    /// Without rows.
    pub fn new(header: &'static [&'static str]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// One more row. The first cell is not repeated if it equals that of the row above.
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut grid = vec![self.header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        let mut above = None;
        for row in &self.rows {
            let mut cells: Vec<[String; 2]> = row.iter().map(Cell::lines).collect();
            if above.is_some() && above == row.first() {
                cells[0] = Default::default();
            }
            above = row.first();
            let two_lines = cells.iter().any(|[_, second]| !second.is_empty());
            let (first, second) = cells.into_iter().map(Into::into).unzip();
            grid.push(first);
            if two_lines {
                grid.push(second);
            }
        }
        let width = |column: usize| grid.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        grid.iter()
            .map(|row| row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect())
            .collect()
    }

    /// For programs: an object for each row, with the column heads as names.
    pub fn to_json(&self) -> Value {
        let name = |head: &str| head.to_lowercase().replace(' ', "_");
        let object = |row: &Vec<Cell>| {
            self.header
                .iter()
                .zip(row)
                .map(|(head, cell)| (name(head), cell.to_json()))
                .collect::<Map<_, _>>()
        };
        self.rows.iter().map(object).collect()
    }
}

impl Cell {
    fn lines(&self) -> [String; 2] {
        let first = match self {
            Self::Number(number) => number.to_string(),
            Self::Starred(number) => format!("{number}*"),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => text.clone(),
            Self::Identifier(id) => id.abbreviated(),
            Self::Pattern(pattern) => {
                let digits = hex_of(pattern);
                let (first, second) = digits.split_at(digits.len() / 2);
                return [first.to_owned(), second.to_owned()];
            }
        };
        [first, String::new()]
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Number(number) | Self::Starred(number) => (*number).into(),
            Self::Flag(flag) => (*flag).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Identifier(id) => id.to_hex().into(),
            Self::Pattern(pattern) => hex_of(pattern).into(),
        }
    }
}

fn hex_of(pattern: &Option<VerificationPattern>) -> String {
    pattern.map_or_else(|| "0".repeat(64), |pattern| pattern.to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTER: &[&str] = &["CRYPTO UNIT NUM", "STATUS", "VERIFICATION PATTERN"];

    fn register(states: &[(Cell, &str, Option<VerificationPattern>)]) -> Table {
        let mut table = Table::new(REGISTER);
        for (number, state, pattern) in states.iter().cloned() {
            table.push(vec![number, Cell::Text(state.to_owned()), Cell::Pattern(pattern)]);
        }
        table
    }

    fn pattern() -> Option<VerificationPattern> {
        VerificationPattern::from_hex("40910b8c96ef4c8fcc342a1c45a4135f7a9376fa4b34890991d4e27d00000000")
    }

    #[test]
    fn a_register_is_laid_out_as_the_tke_does() {
        let table = register(&[(Cell::Number(1), "Valid", pattern()), (Cell::Starred(3), "Empty", None)]);
        let expected = [
            "CRYPTO UNIT NUM   STATUS   VERIFICATION PATTERN               ",
            "1                 Valid    40910b8c96ef4c8fcc342a1c45a4135f   ",
            "                           7a9376fa4b34890991d4e27d00000000   ",
            "3*                Empty    00000000000000000000000000000000   ",
            "                           00000000000000000000000000000000   ",
        ];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn a_column_widens_with_its_content() {
        let table = register(&[(Cell::Number(1), "Full Uncommitted", pattern())]);
        assert_eq!(
            table.lines()[1],
            "1                 Full Uncommitted   40910b8c96ef4c8fcc342a1c45a4135f   "
        );
    }

    #[test]
    fn the_units_of_an_instance_are_laid_out_as_the_tke_does() {
        let mut table = Table::new(&["CRYPTO UNIT NUM", "SELECTED", "TYPE", "LOCATION"]);
        for (number, unit_type, location) in [
            (1, "OPERATIONAL", "[us-south].[AZ2-CS5].[02].[06]"),
            (3, "RECOVERY", "[us-south].[AZ3-CS9].[01].[14]"),
        ] {
            let text = |text: &str| Cell::Text(text.to_owned());
            table.push(vec![Cell::Number(number), Cell::Flag(false), text(unit_type), text(location)]);
        }
        assert_eq!(
            table.lines()[2],
            "3                 false      RECOVERY      [us-south].[AZ3-CS9].[01].[14]   "
        );
    }

    #[test]
    fn a_unit_with_two_administrators_has_its_number_once() {
        let mut table = Table::new(&["CRYPTO UNIT NUM", "ADMIN NAME"]);
        for (unit, name) in [(1, "ann"), (1, "ben"), (2, "ann")] {
            table.push(vec![Cell::Number(unit), Cell::Text(name.to_owned())]);
        }
        let lines: Vec<String> = table.lines().iter().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines[1..], ["1                 ann", "                  ben", "2                 ann"]);
        assert_eq!(table.to_json()[1]["crypto_unit_num"], 1);
    }
}
