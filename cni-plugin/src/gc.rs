//! The attachments that GC must keep (CNI 1.1.0, "GC: Clean up any stale resources").

use std::collections::BTreeSet;

use serde_json::Value;
use sluice_api::Attachment;

use crate::conf::Document;

/// The keys that hold them: the one that runtimes read and write, and the one that the specification named first.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// What is wrong with the list. Forgetting nothing is then the only safe answer: an attachment that could not be read
/// may be one that must stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GcError {
    /// The value is no list.
    #[error("{0} is no list; nothing was collected")]
    NotAList(&'static str),
    /// An item lacks one of its texts.
    #[error("{key}[{index}] has no containerID and ifname as texts; nothing was collected")]
    Item {
        /// The key of the list.
        key: &'static str,
        /// The item's place, from 0.
        index: usize,
    },
}

/// The attachments of either key; `None` if neither is there, for a missing list is not an empty one.
pub fn valid(document: &Document) -> Result<Option<Vec<Attachment>>, GcError> {
    let mut all = None;
    for key in KEYS {
        let Some(value) = document.get(key) else { continue };
        let items = value.as_array().ok_or(GcError::NotAList(key))?;
        let valid = all.get_or_insert_with(BTreeSet::new);
        for (index, item) in items.iter().enumerate() {
            valid.insert(read(item).ok_or(GcError::Item { key, index })?);
        }
    }
    Ok(all.map(|valid| valid.into_iter().collect()))
}

fn read(item: &Value) -> Option<Attachment> {
    let text = |key| item.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    Some(Attachment { container_id: text("containerID")?, ifname: text("ifname")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Vec<String>>, GcError> {
        let found = valid(&Document::parse(text.as_bytes()).unwrap())?;
        Ok(found.map(|list| list.into_iter().map(|item| item.container_id + "/" + &item.ifname).collect()))
    }

    #[test]
    fn a_missing_list_is_not_an_empty_one() {
        assert_eq!(of("{}"), Ok(None));
        assert_eq!(of(r#"{"cni.dev/valid-attachments": null}"#), Ok(None));
        assert_eq!(of(r#"{"cni.dev/valid-attachments": []}"#), Ok(Some(vec![])));
        assert_eq!(of(r#"{"cni.dev/attachments": []}"#), Ok(Some(vec![])));
    }

    #[test]
    fn what_either_key_lists_is_kept() {
        let text = r#"{
            "cni.dev/attachments": [{"containerID": "b", "ifname": "eth0"}],
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth0"}]
        }"#;
        assert_eq!(of(text), Ok(Some(vec!["a/eth0".into(), "b/eth0".into()])));
    }

    #[test]
    fn a_list_that_cannot_be_read_collects_nothing() {
        let key = KEYS[0];
        for odd in ["{}", "7", "\"a\"", "false"] {
            assert_eq!(of(&format!(r#"{{"{key}": {odd}}}"#)), Err(GcError::NotAList(key)));
        }
        for odd in ["null", "7", "{}", r#"{"containerID": "a"}"#, r#"{"containerID": "", "ifname": "eth0"}"#]
        {
            let text = format!(r#"{{"{key}": [{{"containerID": "a", "ifname": "b"}}, {odd}]}}"#);
            assert_eq!(of(&text), Err(GcError::Item { key, index: 1 }));
        }
    }
}
