//! Reading JSON with the path of each field at hand, so that an error names the field, says what
//! is wanted there and shows what was found. `null` counts as absent, as every CNI library does.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::{CniError, Code};

/// How much of a refused value an error shows, in characters.
const SHOWN: usize = 64;

/// A value and where it stands.
pub struct Field<'a> {
    path: String,
    value: &'a Value,
}

/// An object and where it stands.
pub struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The outermost object.
    pub fn root(map: &'a Map<String, Value>) -> Self {
        Self {
            path: String::new(),
            map,
        }
    }

    /// The field, unless absent or `null`. Without a field of this very name, one in other letter
    /// case counts: Go's JSON decoder takes it, so runtimes send it (containerd writes
    /// `ContainerPort`).
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        let in_other_case = || {
            let mut fields = self.map.iter();
            Some(fields.find(|(name, _)| name.eq_ignore_ascii_case(key))?.1)
        };
        let value = self.map.get(key).or_else(in_other_case)?;
        if value.is_null() {
            return None;
        }
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Some(Field { path, value })
    }

    /// The field, or the error that it is missing.
    pub fn require(&self, key: &str) -> Result<Field<'a>, CniError> {
        self.get(key).ok_or_else(|| {
            let at = if self.path.is_empty() { "" } else { " in " };
            CniError::new(
                Code::INVALID_CONFIG,
                format!("the field {key:?} is missing{at}{}", self.path),
            )
        })
    }

    /// The items of an array; none when absent.
    pub fn items(&self, key: &str) -> Result<Vec<Field<'a>>, CniError> {
        self.get(key)
            .map_or_else(|| Ok(Vec::new()), |field| field.items())
    }

    /// Text; none when absent or empty.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, CniError> {
        let text = self.get(key).map(|field| field.text()).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// Parsed text; none when absent or empty.
    pub fn parsed<T: FromStr>(&self, key: &str, want: &str) -> Result<Option<T>, CniError>
    where
        T::Err: Display,
    {
        let field = self.get(key).filter(|field| field.value != "");
        field.map(|field| field.parse(want)).transpose()
    }

    /// A whole number in the range; none when absent.
    pub fn number(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, CniError> {
        self.get(key).map(|field| field.number(range)).transpose()
    }

    /// An array of text; empty when absent.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, CniError> {
        let items = self.items(key)?;
        items
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect()
    }
}

impl<'a> Field<'a> {
    /// The outermost value, under the name that errors call it by.
    pub fn root(name: &str, value: &'a Value) -> Self {
        Self {
            path: name.to_owned(),
            value,
        }
    }

    /// The error for this field.
    pub fn invalid(&self, want: impl Display) -> CniError {
        let found = match self.value {
            Value::Null => "null".to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Object(_) => "an object".to_owned(),
            Value::String(text) => format!("{:?}", text.chars().take(SHOWN).collect::<String>()),
            Value::Bool(_) | Value::Number(_) => self.value.to_string(),
        };
        CniError::new(
            Code::INVALID_CONFIG,
            format!("the field {:?} is not valid", self.path),
        )
        .because(format!("want {want}, found {found}"))
    }

    /// An object.
    pub fn object(&self) -> Result<Object<'a>, CniError> {
        let map = self
            .value
            .as_object()
            .ok_or_else(|| self.invalid("an object"))?;
        Ok(Object {
            path: self.path.clone(),
            map,
        })
    }

    /// An object, as it was read.
    pub fn map(&self) -> Result<&'a Map<String, Value>, CniError> {
        self.value
            .as_object()
            .ok_or_else(|| self.invalid("an object"))
    }

    /// The items of an array.
    pub fn items(&self) -> Result<Vec<Field<'a>>, CniError> {
        let items = self
            .value
            .as_array()
            .ok_or_else(|| self.invalid("an array"))?;
        let place = |(at, value)| Field {
            path: format!("{}[{at}]", self.path),
            value,
        };
        Ok(items.iter().enumerate().map(place).collect())
    }

    /// Text.
    pub fn text(&self) -> Result<&'a str, CniError> {
        self.value.as_str().ok_or_else(|| self.invalid("a string"))
    }

    /// Parsed text; `want` says in an error what it should be.
    pub fn parse<T: FromStr>(&self, want: &str) -> Result<T, CniError>
    where
        T::Err: Display,
    {
        self.text()?
            .parse()
            .map_err(|error| self.invalid(format_args!("{want} ({error})")))
    }

    /// A boolean, also as the text `true` or `false`, which some configurations have.
    pub fn flag(&self) -> Result<bool, CniError> {
        match self.value {
            Value::Bool(flag) => Ok(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err(self.invalid("true or false")),
        }
    }

    /// A whole number in the range.
    pub fn number(&self, range: RangeInclusive<u32>) -> Result<u32, CniError> {
        let number = self.value.as_u64().and_then(|n| u32::try_from(n).ok());
        number.filter(|n| range.contains(n)).ok_or_else(|| {
            self.invalid(format_args!(
                "a whole number from {} to {}",
                range.start(),
                range.end()
            ))
        })
    }
}

/// Parses bytes as one JSON object of at most [`crate::MAX_INPUT`] bytes; `what` is what errors
/// call them. The parser bounds nesting; of duplicate keys the last counts.
pub fn parse_object(bytes: &[u8], what: &str) -> Result<Map<String, Value>, CniError> {
    if bytes.len() > crate::MAX_INPUT {
        return Err(CniError::new(
            Code::DECODE,
            format!("{what} is longer than {} bytes", crate::MAX_INPUT),
        )
        .because(format!("it has {} bytes", bytes.len())));
    }
    let refuse = |why: String| {
        CniError::new(Code::DECODE, format!("{what} is not a JSON object")).because(why)
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(refuse("it is empty".to_owned()));
    }
    match serde_json::from_slice(bytes) {
        // The parser's error ends with line and column.
        Err(error) => Err(refuse(error.to_string())),
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Field::root(what, &other).invalid("an object"))
            .map_err(|error| refuse(error.details)),
    }
}
