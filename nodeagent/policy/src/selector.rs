//! Label selectors, with the meaning Kubernetes gives them
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>).

use std::collections::BTreeMap;

use serde::Serialize;

/// The labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// The label that every namespace carries; its value is the namespace's name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// All of the labels and all of the requirements must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with exactly these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Further requirements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How the label is compared.
    pub operator: Operator,
    /// The values: at least one for `In` and `NotIn`, none for the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a [`Requirement`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Operator {
    /// The label is there and its value is one of the values.
    In,
    /// The label is missing, or its value is none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

impl LabelSelector {
    /// A selector of one label.
    pub fn label(key: &str, value: &str) -> Self {
        Self {
            match_labels: Labels::from([(key.to_owned(), value.to_owned())]),
            match_expressions: Vec::new(),
        }
    }

    /// Whether the selector asks for nothing, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether a thing with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_by(|key| labels.get(key).map(String::as_str))
    }

    /// Whether a namespace is selected. Its name counts as the label [`NAMESPACE_NAME_LABEL`], whatever `labels` say.
    pub fn matches_namespace(&self, name: &str, labels: Option<&Labels>) -> bool {
        self.matches_by(|key| {
            if key == NAMESPACE_NAME_LABEL { Some(name) } else { labels?.get(key).map(String::as_str) }
        })
    }

    fn matches_by<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels.iter().all(|(key, value)| value_of(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let value = value_of(&requirement.key);
                let listed = value.is_some_and(|value| requirement.values.iter().any(|v| v == value));
                match requirement.operator {
                    Operator::In => listed,
                    Operator::NotIn => !listed,
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn operators_mean_what_they_mean_in_kubernetes() {
        let requirement = |operator, values: &[&str]| LabelSelector {
            match_labels: Labels::new(),
            match_expressions: vec![Requirement {
                key: "tier".to_owned(),
                operator,
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }],
        };
        let web = labels(&[("tier", "web")]);
        let none = Labels::new();
        for (operator, values, on_web, on_none) in [
            (Operator::In, &["web", "db"][..], true, false),
            (Operator::In, &["db"][..], false, false),
            (Operator::NotIn, &["web"][..], false, true),
            (Operator::NotIn, &["db"][..], true, true),
            (Operator::Exists, &[][..], true, false),
            (Operator::DoesNotExist, &[][..], false, true),
        ] {
            let selector = requirement(operator, values);
            assert_eq!(selector.matches(&web), on_web, "{operator:?} {values:?} on web");
            assert_eq!(selector.matches(&none), on_none, "{operator:?} {values:?} on none");
        }
    }

    #[test]
    fn labels_and_expressions_must_all_hold() {
        let mut selector = LabelSelector::label("app", "shop");
        selector.match_expressions.push(Requirement {
            key: "legacy".to_owned(),
            operator: Operator::DoesNotExist,
            values: Vec::new(),
        });
        assert!(selector.matches(&labels(&[("app", "shop"), ("x", "y")])));
        assert!(!selector.matches(&labels(&[("app", "shop"), ("legacy", "")])));
        assert!(!selector.matches(&labels(&[("app", "other")])));
        assert!(LabelSelector::default().matches(&Labels::new()));
    }

    #[test]
    fn a_namespace_always_has_its_name_as_a_label() {
        let selector = LabelSelector::label(NAMESPACE_NAME_LABEL, "shop");
        assert!(selector.matches_namespace("shop", None));
        let forged = labels(&[(NAMESPACE_NAME_LABEL, "shop")]);
        assert!(!selector.matches_namespace("other", Some(&forged)));
    }
}
