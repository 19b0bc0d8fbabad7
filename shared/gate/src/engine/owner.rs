//! Permits for requests of the tunnel's owner: the user of the agent who sends a captured request, or
//! a sample, to the application.

use std::sync::Arc;

use hookward_core::reason::{Check, Code, Refusal};

use super::accept::AcceptRule;
use super::body::further;
use super::permit::Permit;
use super::{Gate, no_route};
use crate::inspection::{Inspection, Work};
use crate::request::Request;

impl Gate {
    /// Permits a request of the tunnel's owner: within the routes, methods, sizes, and allowed values
    /// of the policy, but without proof of its sender. Counts nothing.
    ///
    /// Only the agent calls it, for its own user. No relay can cause it.
    ///
    /// # Errors
    /// The refusal of the accept rule with the most progress.
    pub fn permit_by_owner(self: &Arc<Self>, request: &Request<'_>) -> Result<Permit, Refusal> {
        let head = request.head;
        self.check_shape(head)?;
        let index = self.find_route(head)?;
        let Some(route) = self.routes.get(index) else {
            return Err(no_route());
        };
        let most = route.settings.max_body;
        if request.body.len() as u64 > most {
            let reason = format!("the body has more than {most} bytes");
            return Err(Refusal::new(Check::BodySize, Code::BodyTooLarge, reason));
        }

        let inspection = Inspection::new(Arc::clone(&route.body_fields), Work::of_a_request());
        let request = request.inspected(&inspection);
        let allows = |rule: &AcceptRule| {
            rule.check_content_type(head)?;
            rule.check_headers(head)?;
            rule.check_rules(&request)
        };
        let mut furthest: Option<Refusal> = None;
        for (rule, accept) in route.accept.iter().enumerate() {
            match allows(accept) {
                Ok(()) => {
                    return Ok(Permit {
                        gate: Arc::clone(self),
                        route: index,
                        rule,
                        tokens: Vec::new(),
                        secrets: Vec::new(),
                        observed: None,
                        signatures: Vec::new(),
                    });
                }
                Err(refusal) => furthest = Some(further(furthest, refusal)),
            }
        }
        Err(furthest.unwrap_or_else(no_route))
    }
}

#[cfg(test)]
mod tests {
    use hookward_core::clock::UnixMillis;
    use http::{HeaderMap, Method};

    use super::*;
    use crate::engine::Side;
    use crate::policy::{Accept, BodyRule, Policy, Route, SignatureCheck};
    use crate::request::RequestHead;

    #[test]
    fn the_owner_stays_within_the_policy() {
        let mut route = Route::new("push", vec!["/hooks/**".to_owned()]);
        route.methods = vec!["POST".to_owned()];
        route.max_body = 40;
        let mut github = SignatureCheck::by("github");
        github.secrets.push(crate::policy::ActiveSecret {
            name: "env:S".to_owned(),
            secret: hookward_core::secret::Secret::new(b"a-long-enough-secret".to_vec()).unwrap(),
        });
        route.accept.push(Accept {
            verify: vec![github],
            body: vec![BodyRule {
                path: hookward_core::json::JsonPath::parse("ref").unwrap(),
                allowed: vec!["main".to_owned()],
            }],
            ..Accept::default()
        });
        let gate = Gate::compile(&Policy::new(vec![route]), Side::Agent, UnixMillis(0)).unwrap();
        let gate = Arc::new(gate);

        let permit = |method: Method, target: &str, body: &str| {
            let headers = HeaderMap::new();
            let head = RequestHead {
                method: &method,
                target: target.as_bytes(),
                headers: &headers,
                origin: "https://h",
            };
            let permit = gate.permit_by_owner(&Request::new(head, body.as_bytes()));
            permit
                .map_err(|refusal| refusal.check)
                .map(|permit| permit.settings().name.clone())
        };
        let good = r#"{"ref":"main"}"#;
        assert_eq!(
            permit(Method::POST, "/hooks/a", good),
            Ok("push".to_owned())
        );
        for (method, target, body, check) in [
            (Method::POST, "/admin", good, Check::Path),
            (Method::POST, "/hooks/../admin", good, Check::Syntax),
            (Method::GET, "/hooks/a", good, Check::Method),
            (
                Method::POST,
                "/hooks/a",
                r#"{"ref":"other"}"#,
                Check::BodyRule,
            ),
            (Method::POST, "/hooks/a", &"x".repeat(41), Check::BodySize),
        ] {
            assert_eq!(permit(method, target, body), Err(check), "{target} {body}");
        }
    }
}
