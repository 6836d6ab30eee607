//! A matrix for a terminal.

use std::fmt;

use super::{Change, Difference, Matrix};

/// Widest table; beyond, a list is easier to read.
const COLUMNS: usize = 140;

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.places.iter().map(ToString::to_string).collect();
        let cells: Vec<Vec<String>> = self
            .cells
            .iter()
            .map(|row| {
                row.iter().map(|cell| cell.as_ref().map_or(String::new(), ToString::to_string))
            })
            .map(Iterator::collect)
            .collect();
        let len = |text: &str| text.chars().count();
        let numbers = names.len().to_string().len();
        let first = names.iter().map(|name| len(name)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..names.len())
            .map(|at| cells.iter().map(|row| len(&row[at])).max().unwrap_or(0).max(numbers))
            .collect();
        let width = numbers + 2 + first + widths.iter().map(|width| width + 2).sum::<usize>();
        if width > COLUMNS {
            return self.list(f, &names, &cells);
        }
        write!(f, "{:numbers$}  {:first$}", "", "from \\ to")?;
        for (at, width) in widths.iter().enumerate() {
            write!(f, "  {:<width$}", at + 1)?;
        }
        for (at, (name, row)) in names.iter().zip(&cells).enumerate() {
            write!(f, "\n{:>numbers$}  {name:first$}", at + 1)?;
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "  {cell:<width$}")?;
            }
        }
        Ok(())
    }
}

impl Matrix {
    /// One line for each pair between which something passes.
    fn list(
        &self,
        f: &mut fmt::Formatter<'_>,
        names: &[String],
        cells: &[Vec<String>],
    ) -> fmt::Result {
        f.write_str("what passes; nothing else does")?;
        for (from, (name, row)) in names.iter().zip(cells).enumerate() {
            for (to, cell) in row.iter().enumerate() {
                if self.cells[from][to].as_ref().is_some_and(|cell| !cell.is_none()) {
                    write!(f, "\n{name} → {}: {cell}", names[to])?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no difference");
        }
        let mut lines = Vec::new();
        for Change { from, to, opened, closed } in &self.changes {
            if !closed.is_none() {
                lines.push(format!("- {from} → {to}: {closed}"));
            }
            if !opened.is_none() {
                lines.push(format!("+ {from} → {to}: {opened}"));
            }
        }
        lines.extend(self.gone.iter().map(|pod| format!("- pod {pod}")));
        lines.extend(self.new.iter().map(|pod| format!("+ pod {pod}")));
        f.write_str(&lines.join("\n"))
    }
}
