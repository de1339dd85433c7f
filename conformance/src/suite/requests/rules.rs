//! Rules about requests are told, and not applied to HTTPS: what a rule does not allow arrives all the same.

use anyhow::Result;
use serde_json::Value;

use super::{NAMESPACE, Run, Whose};
use crate::rig::PodSpec;
use crate::rig::net::DESTINATIONS;

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let server = DESTINATIONS.allowed[0];
    let rules = format!(
        "[{{name: reads, action: Allow, to: [{{networks: [{server}/32]}}], \
         http: [{{methods: [GET], path: {{type: PathPrefix, value: /rules}}}}]}}]"
    );
    let policy = crate::suite::policy(NAMESPACE, "reader", "reader", &rules);
    run.rig.agent_directories().write_policy("reader", &policy)?;
    let pod = run.rig.run_pod(&PodSpec::new(NAMESPACE, "reader", &[("app", "reader")])).await?;
    for (prefix, name) in [("/rules/a", "below the rule's path"), ("/elsewhere", "elsewhere")] {
        let command = super::clients::own("openssl-dynamic", prefix, 4);
        pod.start(&run.bed.container("reader", command)).await?.succeed().await?;
        let whose = Whose { pod: "reader", comm: "openssl-dynamic", library: "openssl" };
        run.compare(&format!("under a rule for GET, {name}"), prefix, 4, &whose).await?;
        for method in ["GET", "POST"] {
            let told = run.told(prefix);
            let of_method: Vec<&Value> = told.iter().filter(|event| event["method"] == method).collect();
            let reads = method == "GET" && prefix == "/rules/a";
            let (action, rule) = if reads { ("allow", "reads") } else { ("audit", "default") };
            for (field, wanted) in [("action", action), ("rule", rule)] {
                let found: Vec<String> = of_method
                    .iter()
                    .map(|event| event[field].as_str().unwrap_or_default().to_owned())
                    .collect();
                let name = format!("{method} {name}: {field}");
                run.report.equal(&name, found, "", vec![wanted; 2]);
            }
        }
    }
    pod.remove().await
}
