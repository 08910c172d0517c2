//! A sheet of characters to draw on.

/// Rows of characters; grows downwards.
#[derive(Debug)]
pub struct Canvas {
    width: usize,
    rows: Vec<Vec<char>>,
}

impl Canvas {
    /// An empty one, so many columns wide.
    pub const fn new(width: usize) -> Self {
        Self {
            width,
            rows: Vec::new(),
        }
    }

    /// Writes from there to the right; what is past the edge is cut off.
    pub fn put(&mut self, column: usize, row: usize, text: &str) {
        while self.rows.len() <= row {
            self.rows.push(vec![' '; self.width]);
        }
        let places = self.rows[row].iter_mut().skip(column);
        for (place, character) in places.zip(text.chars()) {
            *place = character;
        }
    }

    /// Draws a frame, with a title in its upper edge.
    pub fn frame(&mut self, (column, row): (usize, usize), size: (usize, usize), title: &str) {
        let (width, height) = size;
        let inner = width.saturating_sub(2);
        let title = clip(title, inner.saturating_sub(3));
        let title = if title.is_empty() {
            String::new()
        } else {
            format!(" {title} ")
        };
        let rest = "─".repeat(inner.saturating_sub(title.chars().count()));
        self.put(column, row, &format!("┌{title}{rest}┐"));
        for row in row + 1..row + height - 1 {
            self.put(column, row, "│");
            self.put(column + width - 1, row, "│");
        }
        let bottom = row + height - 1;
        self.put(column, bottom, &format!("└{}┘", "─".repeat(inner)));
    }

    /// What was drawn, without blanks at the ends of lines.
    pub fn text(&self) -> String {
        let line = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
        let lines: Vec<String> = self.rows.iter().map(line).collect();
        lines.join("\n")
    }
}

/// At most so many characters; a dot at the end says that some are missing.
pub fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}
