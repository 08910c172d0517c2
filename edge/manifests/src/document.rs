use serde_json::Value;

/// The most documents that are read of one file.
pub const MAX_DOCUMENTS: usize = 10_000;

/// One document of a file.
pub(crate) struct Document {
    /// Its first line, from 1.
    pub line: usize,
    /// Its contents, or why they cannot be read.
    pub value: Result<Value, String>,
}

/// Splits a file into documents and reads each by itself.
pub(crate) fn split(text: &[u8], json: bool) -> Vec<Document> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let Ok(text) = std::str::from_utf8(text) else {
        let value = Err("the file is not UTF-8 text".to_owned());
        return vec![Document { line: 1, value }];
    };
    let mut documents = if json {
        split_json(text)
    } else {
        split_yaml(text)
    };
    if documents.len() > MAX_DOCUMENTS {
        documents.truncate(MAX_DOCUMENTS);
        if let Some(last) = documents.last_mut() {
            last.value = Err(format!(
                "the file has more than {MAX_DOCUMENTS} documents; from here on nothing was read"
            ));
        }
    }
    documents
}

/// JSON documents follow each other without a separator. After an error nothing more can be read.
fn split_json(text: &str) -> Vec<Document> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter();
    let mut documents = Vec::new();
    let mut start = 0;
    while let Some(value) = stream.next() {
        let blank = text[start..]
            .find(|c: char| !c.is_whitespace())
            .unwrap_or_default();
        documents.push(Document {
            line: 1 + newlines(&text[..start + blank]),
            value: value.map_err(|error: serde_json::Error| error.to_string()),
        });
        start = stream.byte_offset();
        if documents.len() > MAX_DOCUMENTS {
            break;
        }
    }
    documents
}

/// Cuts at the lines that start with `---`, as `kubectl` does, so that a document that cannot be
/// read is one alone. Documents of comments only are none.
fn split_yaml(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut piece = Piece::default();
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            documents.extend(piece.read());
            piece = Piece {
                line: at,
                text: rest.unwrap_or_default().to_owned(),
            };
        } else {
            piece.text.push_str(line);
        }
        if documents.len() > MAX_DOCUMENTS {
            break;
        }
    }
    documents.extend(piece.read());
    documents
}

/// The lines of one YAML document.
#[derive(Default)]
struct Piece {
    /// Lines of the file before it.
    line: usize,
    text: String,
}

impl Piece {
    fn read(&self) -> Option<Document> {
        let says_nothing = |line: &str| {
            let line = line.trim_end();
            let start = line.trim_start();
            start.is_empty() || start.starts_with('#') || line == "..." || line.starts_with('%')
        };
        if self.text.lines().all(says_nothing) {
            return None;
        }
        let value = serde_saphyr::from_str_with_options(&self.text, options());
        let value = value.map_err(|error| {
            let line = error.location().map_or(0, |at| at.line());
            let words = error.without_snippet().to_string();
            format!(
                "{words} (line {} of the file)",
                self.line as u64 + line.max(1)
            )
        });
        Some(Document {
            line: self.line + 1,
            value,
        })
    }
}

/// Bounds on what one document may unfold to: generous for a manifest, nothing for a bomb.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        legacy_octal_numbers: true,
        // `n` and `on` are names as well; Kubernetes takes them as text too.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_depth: 100,
            max_nodes: 500_000,
            max_events: 1_000_000,
            max_aliases: 10_000,
            max_documents: 1,
            max_total_scalar_bytes: crate::MAX_FILE,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 32,
        },
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str, json: bool) -> Vec<(usize, Result<Value, String>)> {
        let documents = split(text.as_bytes(), json);
        documents.into_iter().map(|d| (d.line, d.value)).collect()
    }

    #[test]
    fn documents_are_cut_and_numbered() {
        let text = "# a comment\n---\na: 1\n---\n# nothing\n--- \nb: |\n  ---\n  c\n...\n";
        let found = values(text, false);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], (2, Ok(serde_json::json!({"a": 1}))));
        assert_eq!(found[1], (6, Ok(serde_json::json!({"b": "---\nc\n"}))));
    }

    #[test]
    fn a_broken_document_is_broken_alone() {
        let found = values("a: 1\n---\nb: [1\nc: 2\n---\nd: 3\n", false);
        assert_eq!(found.len(), 3);
        assert!(found[0].1.is_ok() && found[2].1.is_ok());
        let error = found[1].1.clone().unwrap_err();
        assert!(error.contains("of the file"), "{error}");
    }

    #[test]
    fn json_documents_follow_each_other() {
        let found = values("{\"a\": 1}\n\n{\"b\": 2} {", true);
        assert_eq!(found[0], (1, Ok(serde_json::json!({"a": 1}))));
        assert_eq!(found[1], (3, Ok(serde_json::json!({"b": 2}))));
        assert!(found[2].1.is_err());
        assert!(values(&"[".repeat(100_000), true)[0].1.is_err());
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for at in 1..9 {
            let inner = vec![format!("*a{}", at - 1); 10].join(", ");
            text = format!("{text}a{at}: &a{at} [{inner}]\n");
        }
        assert!(values(&text, false)[0].1.is_err());
        assert!(values(&"[".repeat(100_000), false)[0].1.is_err());
        assert!(values(&"- ".repeat(10_000), false)[0].1.is_err());
    }
}
