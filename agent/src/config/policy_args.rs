//! Builds a policy from flags or a policy file. Reports all mistakes in one run, before anything
//! starts.

mod builder;

use std::path::Path;

use hookward_core::clock::UnixMillis;
use hookward_core::diagnostics::{Diagnostic, Diagnostics, parse_duration};
use hookward_core::secret::{SecretDigest, SecretReader};
use hookward_gate::policy::file::{self, REPLAY_WINDOW_MS};
use hookward_gate::policy::{
    Accept, PRESET_PATHS, Policy, ReplayProtection, Route, TOKEN_NAME, TokenCheck, TokenLocation,
};
use http::HeaderValue;

use self::builder::PolicyBuilder;
use crate::cli::{PolicyFlags, UpstreamArgs};
use crate::upstream::application::{Application, ApplicationAddress, HostField};
use crate::upstream::tls::Trust;

/// A policy with warnings for the user.
pub(crate) struct ResolvedPolicy {
    pub policy: Policy,
    /// `true` if a token must be created: no address range, token or signature check is set, and
    /// `--no-token` is not.
    pub create_token: bool,
    pub notes: Vec<String>,
}

/// Builds the application from flags.
///
/// # Errors
/// All mistakes.
pub fn application(text: &str, args: &UpstreamArgs) -> Result<Application, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let place = ApplicationAddress::parse(text)
        .map_err(|problem| problems.push(problem))
        .ok();
    let host = match args.upstream_host.as_str() {
        "preserve" => HostField::Preserve,
        "rewrite" => HostField::Rewrite,
        value => match HeaderValue::from_str(value) {
            Ok(value) if !value.is_empty() => HostField::Value(value),
            _ => {
                let what =
                    format!("{value:?} is not a host; write preserve, rewrite, or the host itself");
                problems.push(Diagnostic::new("--upstream-host", what));
                HostField::Preserve
            }
        },
    };

    let https = place.as_ref().is_some_and(|place| place.https);
    for (flag, given) in [
        ("--upstream-ca", args.upstream_ca.is_some()),
        ("--upstream-insecure", args.upstream_insecure),
    ] {
        if given && !https && place.is_some() {
            problems.push(Diagnostic::new(
                flag,
                "the application is not spoken to over https",
            ));
        }
    }

    let trust = Trust {
        ca: args.upstream_ca.clone(),
        insecure: args.upstream_insecure,
    };
    let built = place.map(|place| Application::new(place, &trust, args.upstream_http2, host));
    match built {
        Some(Ok(application)) if problems.is_empty() => Ok(application),
        Some(Err(problem)) => {
            problems.push(problem);
            Err(problems)
        }
        _ => Err(problems),
    }
}

/// Builds the policy from flags or a policy file.
///
/// # Errors
/// All mistakes.
pub(crate) fn policy(
    args: &PolicyFlags,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<ResolvedPolicy, Diagnostics> {
    match &args.policy {
        Some(path) => from_file(path, secrets, now),
        None => from_flags(args, secrets, now),
    }
}

fn from_file(
    path: &Path,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<ResolvedPolicy, Diagnostics> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Diagnostics(vec![Diagnostic::new(
            &name,
            format!("can't be read: {error}"),
        )])
    })?;
    let loaded = file::read(&name, &text, secrets, now)?;

    Ok(ResolvedPolicy {
        policy: loaded.policy,
        create_token: false,
        notes: loaded.notes,
    })
}

fn from_flags(
    args: &PolicyFlags,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<ResolvedPolicy, Diagnostics> {
    let mut flags = PolicyBuilder {
        secrets,
        diagnostics: Vec::new(),
        notes: Vec::new(),
    };

    let paths = if args.path.is_empty() {
        PRESET_PATHS.map(str::to_owned).to_vec()
    } else {
        args.path.clone()
    };
    let name = paths.first().cloned().unwrap_or_default();
    let mut route = Route::new(name, paths);
    route.methods = args
        .method
        .iter()
        .map(|method| method.to_ascii_uppercase())
        .collect();

    route.deny_ips = flags.addresses("--deny-ip", &args.deny_ip);
    route.replay = args.on_duplicate.map(|on_duplicate| ReplayProtection {
        on_duplicate: on_duplicate.into(),
        window_ms: REPLAY_WINDOW_MS,
    });
    route.keep_token = args.keep_token;
    route.websocket = args.websocket;
    route.encoded_slashes = args.encoded_slashes;

    if let Some(text) = &args.answer_timeout {
        match parse_duration(text) {
            Some(time) => {
                route.answer_timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
            }
            None => flags.problem(
                "--answer-timeout",
                format!("{text:?} is not a time such as 500ms, 10s or 5m"),
            ),
        }
    }

    let common = Accept {
        allow_ips: (!args.allow_ip.is_empty())
            .then(|| flags.addresses("--allow-ip", &args.allow_ip)),
        token: flags.token(&args.token),
        basic: flags.basic(&args.basic),
        content_types: args.content_type.clone(),
        headers: flags.header_rules(&args.require_header),
        body: flags.body_rules(&args.require_body),
        ..Accept::default()
    };

    let signatures = flags.signatures(args);
    let mut create_token = false;

    if signatures.is_empty() {
        create_token = !common.is_protected() && !args.no_token;
        // With --no-token and no other check, the user has chosen an open route.
        let open = !common.is_protected() && args.no_token;
        route.accept.push(Accept { open, ..common });
    } else {
        // Each provider has its own accept rule, with the same address ranges and token.
        route
            .accept
            .extend(signatures.into_iter().map(|check| Accept {
                verify: vec![check],
                ..common.clone()
            }));
    }

    let policy = Policy {
        rate: flags.rate("--rate", args.rate.as_deref()),
        client_rate: flags.rate("--client-rate", args.client_rate.as_deref()),
        ..Policy::new(vec![route])
    };

    let PolicyBuilder {
        diagnostics: mut problems,
        notes,
        ..
    } = flags;

    if problems.is_empty() {
        // The token check is not missing if the token will be created.
        let complete = if create_token {
            with_token(&policy, &created_token_check(&SecretDigest::of(b"")))
        } else {
            policy.clone()
        };

        problems.extend(
            complete
                .errors(now)
                .into_iter()
                .map(|what| Diagnostic::new("flags", what)),
        );
    }

    if problems.is_empty() {
        Ok(ResolvedPolicy {
            policy,
            create_token,
            notes,
        })
    } else {
        Err(Diagnostics(problems))
    }
}

/// Returns the check of a created token.
#[must_use]
pub(crate) fn created_token_check(digest: &SecretDigest) -> TokenCheck {
    TokenCheck::new(
        TokenLocation::Query(TOKEN_NAME.to_owned()),
        &[("the created token", digest.clone())],
    )
}

/// Returns the policy with this token in every accept rule.
#[must_use]
pub(crate) fn with_token(policy: &Policy, token: &TokenCheck) -> Policy {
    let mut policy = policy.clone();
    for accept in policy.routes.iter_mut().flat_map(|route| &mut route.accept) {
        accept.token = Some(token.clone());
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_core::secret::{SecretError, SecretSource};
    use zeroize::Zeroizing;

    struct Fake;

    impl SecretReader for Fake {
        fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
            match source {
                SecretSource::Env(name) if name.starts_with("SET") => {
                    Ok(Zeroizing::new(name.clone().into_bytes()))
                }
                SecretSource::Env(name) => Err(SecretError::Unset(name.clone())),
                SecretSource::File(path) => {
                    Err(SecretError::Unreadable(path.clone(), "gone".into()))
                }
            }
        }
    }

    fn build(args: PolicyFlags) -> Result<ResolvedPolicy, hookward_core::reason::Reason> {
        policy(&args, &Fake, UnixMillis(1_700_000_000_000))
            .map_err(|problems| problems.to_string())
            .map_err(hookward_core::reason::Reason::from)
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn without_flags_a_token_is_created_for_the_default() {
        let built = build(PolicyFlags::default()).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(built.create_token);
        assert_eq!(built.policy.routes[0].paths, PRESET_PATHS);

        let whole_family = PolicyFlags {
            allow_ip: texts(&["0.0.0.0/0", "::/0"]),
            ..PolicyFlags::default()
        };
        assert!(
            build(whole_family).is_ok_and(|built| built.create_token),
            "everybody is not a check"
        );

        let some = PolicyFlags {
            allow_ip: texts(&["192.0.2.0/24"]),
            ..PolicyFlags::default()
        };
        assert!(build(some).is_ok_and(|built| !built.create_token));

        let none = PolicyFlags {
            no_token: true,
            ..PolicyFlags::default()
        };
        assert!(
            build(none)
                .is_ok_and(|built| !built.create_token && built.policy.routes[0].accept[0].open)
        );
    }

    #[test]
    fn providers_are_alternatives_and_secrets_rotate() {
        let args = PolicyFlags {
            verify: texts(&["github=env:SET1", "github=env:SET2", "slack=env:SET3"]),
            token: texts(&["key=env:SET", "key=env:SET9"]),
            ..PolicyFlags::default()
        };
        let built = build(args).unwrap_or_else(|problems| panic!("{problems}"));
        let accept = &built.policy.routes[0].accept;
        assert_eq!(accept.len(), 2);
        assert_eq!(accept[0].verify[0].secrets.len(), 2);

        assert!(
            accept
                .iter()
                .all(|accept| accept.token.as_ref().unwrap().active.len() == 2)
        );
    }

    #[test]
    fn all_mistakes_in_one_run() {
        let args = PolicyFlags {
            path: texts(&["a"]),
            allow_ip: texts(&["any"]),
            deny_ip: texts(&["192.0.2.1/24"]),
            token: texts(&[
                "hunter2",
                "hunter2+/c==",
                "a b=env:SET",
                "env:UNSET",
                "file:/a=b",
            ]),
            verify: texts(&[
                "hunter2",
                "hunter2/+=x",
                "githup=env:SET",
                "slack=file:/gone",
            ]),
            answer_timeout: Some("soon".into()),
            ..PolicyFlags::default()
        };
        let Err(problems) = build(args) else {
            panic!("accepted")
        };

        assert_eq!(problems.to_string().lines().count(), 12, "{problems}");
        assert!(
            !problems.to_string().contains("hunter2"),
            "a literal secret is not repeated"
        );
    }
}
