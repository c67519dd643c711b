//! Plain-text tables: columns as wide as their widest cell, two spaces apart.

/// Lays out `rows` under `header`. Every row has as many cells as the header.
pub(crate) fn render<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(width);
    for row in rows {
        for (cell, widest) in row.iter().zip(&mut widths) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = line(&header, &widths);
    for row in rows {
        text.push('\n');
        text.push_str(&line(&row.each_ref().map(String::as_str), &widths));
    }
    text
}

fn line<const N: usize>(cells: &[&str; N], widths: &[usize; N]) -> String {
    let mut text = String::new();
    for (cell, widest) in cells.iter().zip(widths) {
        text.push_str(cell);
        text.push_str(&" ".repeat(widest - width(cell) + 2));
    }
    text.trim_end().to_owned()
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn columns_fit_their_widest_cell_and_lines_end_without_blanks() {
        let rows = [["clippy".to_owned(), "passed".to_owned()], ["x".to_owned(), String::new()]];
        assert_eq!(render(["step", "is"], &rows), "step    is\nclippy  passed\nx");
    }
}
