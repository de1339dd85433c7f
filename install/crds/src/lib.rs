//! Sluice's policies as Kubernetes resources.
//!
//! The types say what the API server lets pass, and the CRDs in this folder are generated from them: `cargo run -p
//! sluice-crds` writes them, and a test fails where they differ. What a policy means is not here: the agent reads the
//! documents as it reads files (crate `sluice-policy`), with errors of its own for what no schema can say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

// The derived schemas have a private copy of each type, which is `pub` as the type is. What is said of a field is what
// `kubectl explain` prints: plain text.
#[allow(unreachable_pub, clippy::doc_markdown)]
mod rule;
#[allow(unreachable_pub, clippy::doc_markdown)]
mod spec;
#[allow(unreachable_pub, clippy::doc_markdown)]
mod status;

pub use self::rule::{
    Action, DomainNames, EgressRule, Http, HttpPath, Method, PathType, Peer, PodPeer, Port, Protocol,
    ServicePeer,
};
pub use self::spec::{
    ClusterEgressPolicy, ClusterEgressPolicySpec, DefaultAction, Dns, EgressPolicy, EgressPolicySpec,
    HostNetwork, Mode, Queries, Tier,
};
pub use self::status::PolicyStatus;

/// Both definitions, with the names of the files that hold them.
pub fn definitions() -> [(&'static str, CustomResourceDefinition); 2] {
    let definitions = [
        ("egresspolicies.yaml", EgressPolicy::crd()),
        ("clusteregresspolicies.yaml", ClusterEgressPolicy::crd()),
    ];
    definitions.map(|(file, mut definition)| {
        for version in &mut definition.spec.versions {
            if let Some(schema) =
                version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut())
            {
                refuse_null(schema);
            }
        }
        (file, definition)
    })
}

/// A field without a value is a mistake, and must not be taken for an absent one: `to:` would mean anywhere.
fn refuse_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(refuse_null);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => refuse_null(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(refuse_null),
        None => {}
    }
}

/// A definition as its file holds it.
///
/// # Errors
///
/// None for definitions from [`definitions`].
pub fn yaml(definition: &CustomResourceDefinition) -> Result<String, Box<dyn std::error::Error>> {
    let text = serde_saphyr::to_string(definition)?;
    Ok(format!("# Generated from the types in install/crds/src by `cargo run -p sluice-crds`.\n{text}"))
}
