//! Labels of a pod on a host without Kubernetes, from an annotation in kubectl's form: `app=web,tier=front`.

use std::collections::BTreeMap;

/// The annotation that holds them.
pub const ANNOTATION: &str = "sluice.dev/labels";

/// The longest name and value of a label, and the longest prefix of a key, in bytes (Kubernetes, "Labels and
/// Selectors").
const LONGEST_NAME: usize = 63;
const LONGEST_PREFIX: usize = 253;

/// What is wrong with the annotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// A piece between commas is no `key=value`.
    #[error("{ANNOTATION}: {0:?} is not key=value; write labels as app=web,tier=front")]
    Pair(String),
    /// The key is not one that Kubernetes would take.
    #[error(
        "{ANNOTATION}: {0:?} is not a label key; write [prefix/]name with a name of 1 to 63 letters, digits, '-', '_' \
         or '.' that begins and ends with a letter or digit"
    )]
    Key(String),
    /// The value is not one that Kubernetes would take.
    #[error(
        "{ANNOTATION}: {value:?} is not a value for the label {key:?}; it may be empty or have 1 to 63 letters, digits, \
         '-', '_' or '.', and begins and ends with a letter or digit"
    )]
    Value {
        /// The label's key.
        key: String,
        /// The value that was given.
        value: String,
    },
    /// A key comes twice.
    #[error("{ANNOTATION}: the label {0:?} is there twice; keep one of them")]
    Twice(String),
}

/// Reads the annotation's text. White space around keys and values is dropped; an empty text means no labels.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, LabelsError> {
    let mut labels = BTreeMap::new();
    if text.trim().is_empty() {
        return Ok(labels);
    }
    for piece in text.split(',') {
        let (key, value) = piece.split_once('=').ok_or_else(|| LabelsError::Pair(piece.to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        if !is_key(key) {
            return Err(LabelsError::Key(key.to_owned()));
        }
        if !value.is_empty() && !is_name(value) {
            return Err(LabelsError::Value { key: key.to_owned(), value: value.to_owned() });
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(LabelsError::Twice(key.to_owned()));
        }
    }
    Ok(labels)
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_prefix(prefix) && is_name(name),
        None => is_name(key),
    }
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= LONGEST_PREFIX
        && prefix.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_takes_is_taken() {
        let labels = |pairs: &[(&str, &str)]| {
            Ok(pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
        };
        assert_eq!(parse(""), labels(&[]));
        assert_eq!(parse("app=web,tier=front"), labels(&[("app", "web"), ("tier", "front")]));
        assert_eq!(parse(" app = web , e="), labels(&[("app", "web"), ("e", "")]));
        assert_eq!(parse("app.kubernetes.io/name=A_b.c-1"), labels(&[("app.kubernetes.io/name", "A_b.c-1")]));
    }

    #[test]
    fn what_it_refuses_is_refused() {
        let long = "a".repeat(64);
        assert_eq!(parse("app"), Err(LabelsError::Pair("app".into())));
        assert_eq!(parse("app=web,"), Err(LabelsError::Pair(String::new())));
        assert_eq!(parse("a=1,a=2"), Err(LabelsError::Twice("a".into())));
        for key in ["", "-a", "a-", "ä", "a b", "/a", "a/", "A/a", "a..b/c", "a/b/c", &long] {
            assert_eq!(parse(&format!("{key}=1")), Err(LabelsError::Key(key.into())));
        }
        for value in ["a=b", "-", "a b", "ä", "\"web\"", &long] {
            let expected = LabelsError::Value { key: "app".into(), value: value.into() };
            assert_eq!(parse(&format!("app={value}")), Err(expected));
        }
    }
}
