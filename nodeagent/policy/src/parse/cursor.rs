//! Walking a document while collecting its faults.

use super::error::{PolicyError, Problem};
use super::node::{Node, Value, shortened};

/// The faults of one document.
pub(super) struct Report<'a> {
    file: &'a str,
    document: usize,
    pub(super) errors: Vec<PolicyError>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, document: usize) -> Self {
        Self { file, document, errors: Vec::new() }
    }

    pub(super) fn add_at(&mut self, line: Option<u64>, field: &str, problem: Problem) {
        let (file, document) = (self.file.to_owned(), self.document);
        self.errors.push(PolicyError { file, document, line, field: field.to_owned(), problem });
    }
}

/// A node and the way to it.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

/// The fields of a map, checked against those that are known.
pub(super) struct Fields<'n> {
    entries: &'n [(String, Node)],
    path: String,
    line: Option<u64>,
}

impl<'n> At<'n> {
    pub(super) fn fault(&self, report: &mut Report<'_>, problem: Problem) {
        report.add_at(self.node.line, &self.path, problem);
    }

    fn wrong_type(&self, report: &mut Report<'_>, expected: &'static str, advice: Option<String>) {
        let found = self.node.describe();
        let problem = if matches!(self.node.value, Value::Null) {
            Problem::Empty
        } else {
            Problem::Type { expected, found, advice }
        };
        self.fault(report, problem);
    }

    /// The fields of a map. `known` are those that it may have.
    pub(super) fn fields(&self, report: &mut Report<'_>, known: &[&str]) -> Option<Fields<'n>> {
        let fields = self.open_fields(report)?;
        for (name, node) in fields.entries {
            let at = At { node, path: fields.path_of(name) };
            if !known.contains(&name.as_str()) {
                at.fault(report, Problem::UnknownField(known.join(", ")));
            } else if matches!(node.value, Value::Null) {
                at.fault(report, Problem::Empty);
            }
        }
        Some(fields)
    }

    /// The fields of a map that may have any.
    pub(super) fn open_fields(&self, report: &mut Report<'_>) -> Option<Fields<'n>> {
        if let Value::Map(entries) = &self.node.value {
            Some(Fields { entries, path: self.path.clone(), line: self.node.line })
        } else {
            self.wrong_type(report, "a map", None);
            None
        }
    }

    /// The items of a list.
    pub(super) fn items(&self, report: &mut Report<'_>) -> Option<Vec<At<'n>>> {
        if let Value::List(items) = &self.node.value {
            let at = |(index, node)| At { node, path: format!("{}[{index}]", self.path) };
            Some(items.iter().enumerate().map(at).collect())
        } else {
            self.wrong_type(report, "a list", None);
            None
        }
    }

    /// The items of a list that must have some.
    pub(super) fn some_items(&self, report: &mut Report<'_>, advice: &'static str) -> Option<Vec<At<'n>>> {
        let items = self.items(report)?;
        if items.is_empty() {
            self.fault(report, Problem::EmptyList(advice));
            return None;
        }
        Some(items)
    }

    /// A text. Numbers and booleans are not taken for texts.
    pub(super) fn text(&self, report: &mut Report<'_>) -> Option<&'n str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Bool(value) => self.none(report, "a text", Some(format!("\"{value}\", with the quotes"))),
            Value::Integer(value) => {
                self.none(report, "a text", Some(format!("\"{value}\", with the quotes")))
            }
            Value::Float(_) => self.none(report, "a text", Some("it in quotes".to_owned())),
            _ => self.none(report, "a text", None),
        }
    }

    /// A whole number. Texts are not taken for numbers.
    pub(super) fn integer(&self, report: &mut Report<'_>) -> Option<i128> {
        match &self.node.value {
            Value::Integer(value) => Some(*value),
            Value::Text(text) => {
                let number = text.parse::<i64>().ok();
                self.none(report, "a number", number.map(|n| format!("{n}, without quotes")))
            }
            _ => self.none(report, "a whole number", None),
        }
    }

    /// True or false. Texts are not taken for either.
    pub(super) fn boolean(&self, report: &mut Report<'_>) -> Option<bool> {
        match &self.node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) if matches!(text.as_str(), "true" | "false") => {
                self.none(report, "true or false", Some(format!("{text}, without quotes")))
            }
            _ => self.none(report, "true or false", None),
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &self,
        report: &mut Report<'_>,
        choices: &[(&str, T)],
        expected: &'static str,
    ) -> Option<T> {
        let Value::Text(text) = &self.node.value else {
            self.wrong_type(report, expected, None);
            return None;
        };
        let found = choices.iter().find(|(word, _)| word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.fault(report, Problem::Choice { found: shortened(text), expected });
        }
        found
    }

    fn none<T>(&self, report: &mut Report<'_>, expected: &'static str, advice: Option<String>) -> Option<T> {
        self.wrong_type(report, expected, advice);
        None
    }
}

impl<'n> Fields<'n> {
    /// The field, if it is there and has a value; a field without one is told of by [`At::fields`].
    pub(super) fn get(&self, name: &str) -> Option<At<'n>> {
        let (_, node) = self.entries.iter().find(|(key, _)| key == name)?;
        (!matches!(node.value, Value::Null)).then(|| At { node, path: self.path_of(name) })
    }

    /// Whether the field is there, with a value or without.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key == name)
    }

    /// The field, which must be there.
    pub(super) fn need(&self, report: &mut Report<'_>, name: &str, advice: &'static str) -> Option<At<'n>> {
        if !self.has(name) {
            report.add_at(self.line, &self.path_of(name), Problem::Missing(advice));
        }
        self.get(name)
    }

    /// All fields, in their order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'n str, At<'n>)> {
        self.entries.iter().map(|(name, node)| (name.as_str(), At { node, path: self.path_of(name) }))
    }

    /// The path of a field of this map. A name that is no plain word is put in brackets.
    pub(super) fn path_of(&self, name: &str) -> String {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
        match (self.path.is_empty(), plain) {
            (true, true) => name.to_owned(),
            (false, true) => format!("{}.{name}", self.path),
            (_, false) => format!("{}[{:?}]", self.path, shortened(name)),
        }
    }
}
