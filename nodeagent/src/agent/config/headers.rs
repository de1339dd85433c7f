//! `requestsHeaders`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a header, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct HeaderName(String);

/// A text that is no [`HeaderName`].
#[derive(Debug, thiserror::Error)]
#[error("requestsHeaders: `{0}` is no name of a header; write letters, digits and `-`, such as user-agent")]
pub(super) struct HeaderNameError(String);

impl HeaderName {
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl FromStr for HeaderName {
    type Err = HeaderNameError;

    fn from_str(text: &str) -> Result<Self, HeaderNameError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > 100 || !text.bytes().all(is_plain) {
            return Err(HeaderNameError(text.chars().take(60).flat_map(char::escape_debug).collect()));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for HeaderName {
    type Error = HeaderNameError;

    fn try_from(text: String) -> Result<Self, HeaderNameError> {
        text.parse()
    }
}
