use std::collections::HashMap;
use std::sync::Arc;

/// A text, by its number in [`Names`]. Two are equal exactly if their texts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(u32);

impl Symbol {
    /// The empty text.
    pub const NONE: Self = Self(0);
}

/// Texts that many endpoints have: nodes, zones, hints, names of ports. Each is held once, as long as
/// somebody uses it.
#[derive(Debug)]
pub(crate) struct Names {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Text>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Text {
    text: Arc<str>,
    uses: u32,
}

impl Names {
    pub fn new() -> Self {
        let nothing = Text {
            text: "".into(),
            uses: 1,
        };
        Self {
            numbers: HashMap::new(),
            texts: vec![nothing],
            free: Vec::new(),
        }
    }

    /// Takes a text into use once more.
    pub fn take(&mut self, text: &str) -> Symbol {
        if text.is_empty() {
            return Symbol::NONE;
        }
        if let Some(&number) = self.numbers.get(text) {
            self.texts[number as usize].uses += 1;
            return Symbol(number);
        }
        let text: Arc<str> = text.into();
        let held = Text {
            text: text.clone(),
            uses: 1,
        };
        let number = if let Some(number) = self.free.pop() {
            self.texts[number as usize] = held;
            number
        } else {
            self.texts.push(held);
            u32::try_from(self.texts.len() - 1).unwrap_or(u32::MAX)
        };
        self.numbers.insert(text, number);
        Symbol(number)
    }

    /// One use less of a text.
    pub fn release(&mut self, symbol: Symbol) {
        if symbol == Symbol::NONE {
            return;
        }
        let nothing = self.texts[0].text.clone();
        let held = &mut self.texts[symbol.0 as usize];
        held.uses -= 1;
        if held.uses == 0 {
            let text = std::mem::replace(&mut held.text, nothing);
            self.numbers.remove(&text);
            self.free.push(symbol.0);
        }
    }

    /// The text itself.
    pub fn text(&self, symbol: Symbol) -> &Arc<str> {
        &self.texts[symbol.0 as usize].text
    }

    /// How many texts are held beside the empty one.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.numbers.len()
    }
}

/// Several texts as one, in their order without repetition; no name of a node or zone has a comma.
pub(crate) fn joined(texts: &[Arc<str>]) -> std::borrow::Cow<'_, str> {
    match texts {
        [] => "".into(),
        [one] => (&**one).into(),
        many => {
            let mut all: Vec<&str> = many.iter().map(|text| &**text).collect();
            all.sort_unstable();
            all.dedup();
            all.join(",").into()
        }
    }
}

/// Whether a text is among those that [`joined`] made one.
pub(crate) fn among(joined: &str, text: &str) -> bool {
    !text.is_empty() && joined.split(',').any(|one| one == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_held_once_and_as_long_as_it_is_used() {
        let mut names = Names::new();
        let (a, again, b) = (names.take("a"), names.take("a"), names.take("b"));
        assert_eq!((a, names.take("")), (again, Symbol::NONE));
        assert_ne!(a, b);
        assert_eq!(&**names.text(a), "a");
        names.release(a);
        assert_eq!((names.held(), &**names.text(again)), (2, "a"));
        names.release(again);
        names.release(b);
        assert_eq!(names.held(), 0);
        let c = names.take("c");
        assert_eq!(&**names.text(c), "c");
        assert_eq!(names.texts.len(), 3);
    }

    #[test]
    fn several_are_one_text() {
        let all: Vec<Arc<str>> = ["z2", "z1", "z2"].map(Into::into).into();
        let one = joined(&all);
        assert_eq!(one, "z1,z2");
        assert!(among(&one, "z1") && among(&one, "z2"));
        assert!(!among(&one, "z") && !among(&one, "") && !among("", ""));
    }
}
