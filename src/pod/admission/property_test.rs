//! What holds for every pod and node.

use super::placement::requiring;
use super::*;

proptest! {
    /// Whatever comes, what is admitted one after the other fits the node, and nothing that fits
    /// is refused for want of room.
    #[test]
    fn admitted_pods_fit(wants in prop::collection::vec((0_i64..900, 0_i64..400, 0_i32..5), 0..12)) {
        let facts = node();
        let mut active: Vec<Arc<Pod>> = Vec::new();
        let (mut cpu, mut memory, mut ports) = (0, 0, Vec::new());
        for (i, (milli, mebi, port)) in wants.into_iter().enumerate() {
            let requests = json!({"cpu": format!("{milli}m"), "memory": format!("{mebi}Mi")});
            let mut ports_of = json!([]);
            if port > 0 {
                ports_of = json!([{"containerPort": 1, "hostPort": port}]);
            }
            let container = json!({"name": "c", "resources": {"requests": requests}, "ports": ports_of});
            let pod = pod(&format!("p{i}"), json!({"containers": [container]}));
            let fits = active.len() < 3
                && (milli == 0 || cpu + milli <= 2000)
                && (mebi == 0 || memory + mebi <= 1024)
                && (port == 0 || !ports.contains(&port));
            let admitted = admit(&pod, &facts, &active).is_ok();
            prop_assert_eq!(admitted, fits);
            if admitted {
                (cpu, memory) = (cpu + milli, memory + mebi);
                ports.push(port);
                active.push(Arc::new(pod));
            }
        }
        prop_assert!(cpu <= 2000 && memory <= 1024 && active.len() <= 3);
    }

    /// `In` and `NotIn`, `Exists` and `DoesNotExist` are opposites for any label and values.
    #[test]
    fn operators_are_opposites(
        key in "(zone|none|wasm|cores)",
        values in prop::collection::vec("[a-z0-9]{0,3}", 1..4),
    ) {
        let met = |operator: &str, values: &[String]| {
            let one = json!({"key": key, "operator": operator, "values": values});
            refused(&requiring(json!([{"matchExpressions": [one]}])), &node(), &[]).is_none()
        };
        prop_assert_ne!(met("In", &values), met("NotIn", &values));
        prop_assert_ne!(met("Exists", &[]), met("DoesNotExist", &[]));
    }

    /// Nothing that a pod may hold ends the agent.
    #[test]
    fn no_text_is_too_odd(text in "\\PC{0,12}", other in "\\PC{0,12}") {
        let spec = json!({
            "nodeSelector": {text.clone(): other.clone()},
            "nodeName": other,
            "os": {"name": text},
            "tolerations": [{"key": text, "operator": other, "value": text, "effect": other}],
            "securityContext": {"sysctls": [{"name": text, "value": other}],
                                "supplementalGroupsPolicy": other},
            "containers": [{"name": text, "resources": {"requests": {text.clone(): other}}}],
        });
        let _ = refused(&pod("a", spec), &node(), &[]);
        let _ = SysctlAllowList::new((6, 1), std::slice::from_ref(&text));
    }
}
