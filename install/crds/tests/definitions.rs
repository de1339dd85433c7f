//! The committed definitions are those of the types, and what they let pass is what the agent takes.

use std::fs;
use std::path::Path;

use kube_cel::Validator;
use serde::Deserialize;
use serde_json::{Value, json};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    name: String,
    #[serde(default = "egress_policy")]
    kind: String,
    spec: Value,
    refused: Option<String>,
    agent: Option<String>,
}

fn egress_policy() -> String {
    "EgressPolicy".to_owned()
}

fn examples() -> Vec<Example> {
    let text = fs::read_to_string(Path::new(HERE).join("tests/examples.yaml")).expect("the examples");
    serde_saphyr::from_str(&text).expect("examples of the right form")
}

fn object(example: &Example) -> Value {
    let mut metadata = json!({"name": "example"});
    if example.kind == "EgressPolicy" {
        metadata["namespace"] = json!("shop");
    }
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": example.kind, "metadata": metadata, "spec": example.spec})
}

/// The schema of a kind, as the definition has it.
fn schema(kind: &str) -> Value {
    let definition = sluice_crds::definitions().into_iter().find(|(_, crd)| crd.spec.names.kind == kind);
    let definition = serde_json::to_value(definition.expect("a definition").1).expect("JSON");
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// What the API server would say: the schema first, and the rules only of what is of the right form.
fn server(kind: &str, object: &Value) -> Result<(), String> {
    let schema = schema(kind);
    let structure = jsonschema::validator_for(&schema).expect("a schema");
    let faults: Vec<String> = structure.iter_errors(object).map(|error| error.to_string()).collect();
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    Validator::new().validate(&schema, object, None).map_err(|faults| faults.to_string())
}

/// What the agent says.
fn agent(object: &Value) -> Result<(), String> {
    let text = serde_json::to_string(object).expect("JSON");
    let read = sluice_policy::parse("example", &text);
    read.map(drop).map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    for (file, definition) in sluice_crds::definitions() {
        let committed = fs::read_to_string(Path::new(HERE).join(file)).expect("a committed definition");
        let generated = sluice_crds::yaml(&definition).expect("YAML");
        assert!(committed == generated, "{file} is old: run `cargo run -p sluice-crds`");
    }
}

#[test]
fn server_and_agent_say_what_the_examples_say() {
    let examples = examples();
    assert!(examples.len() >= 40, "{} examples", examples.len());
    let mut faults = Vec::new();
    for example in &examples {
        let object = object(example);
        let said = [
            ("server", server(&example.kind, &object), example.refused.as_deref()),
            ("agent", agent(&object), example.agent.as_deref()),
        ];
        for (who, said, expected) in said {
            match (said, expected) {
                (Ok(()), None) => {}
                (Err(said), Some(expected)) if said.contains(expected) => {}
                // What the server refuses, the agent refuses in words of its own.
                (Err(_), None) if who == "agent" && example.refused.is_some() => {}
                (said, _) => faults.push(format!("{}: the {who} says {said:?}", example.name)),
            }
            if who == "agent" && example.refused.is_some() && agent(&object).is_ok() {
                faults.push(format!("{}: the agent takes what the server refuses", example.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Rules of the server are costed before they run: lists and texts that they go through have to be bounded.
#[test]
fn what_rules_go_through_is_bounded() {
    for (file, definition) in sluice_crds::definitions() {
        let definition = serde_json::to_value(definition).expect("JSON");
        let rules = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["rules"];
        let lists = [
            &rules["maxItems"],
            &rules["items"]["properties"]["to"]["maxItems"],
            &rules["items"]["properties"]["ports"]["maxItems"],
            &rules["items"]["properties"]["http"]["maxItems"],
        ];
        for (number, list) in lists.iter().enumerate() {
            assert!(list.as_u64().is_some_and(|most| most <= 500), "{file}: list {number} is not bounded");
        }
    }
}
