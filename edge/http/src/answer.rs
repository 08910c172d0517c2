use std::sync::Arc;

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, as 200.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers, by their names in small letters.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// Answers a path; called by the server's thread, one request after the other.
pub type Handler = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

impl Answer {
    /// A short text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// An object in JSON.
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self {
            content_type: "application/json",
            ..Self::text(status, body)
        }
    }

    /// Nothing is behind that path.
    pub fn not_found() -> Self {
        Self::text(404, "404 page not found\n")
    }

    /// With one more header; its name in small letters.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
