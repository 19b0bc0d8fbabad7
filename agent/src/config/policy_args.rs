//! Builds a policy from flags or a policy file. Reports all mistakes in one run, before anything
//! starts.

use std::path::Path;

use hookward_core::clock::UnixMillis;
use hookward_core::diagnostics::{Diagnostic, Diagnostics, Origin};
use hookward_core::secret::SecretReader;
use hookward_gate::policy::file;
use hookward_gate::policy::{LoadedPolicy, resolve};
use http::HeaderValue;

use crate::cli::{PolicyFlags, UpstreamArgs};
use crate::config::raw_flags;
use crate::upstream::application::{Application, ApplicationAddress, HostField};
use crate::upstream::tls::Trust;

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
/// All mistakes, each with its flag, or its line and column.
pub(crate) fn policy(
    args: &PolicyFlags,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<LoadedPolicy, Diagnostics> {
    match &args.policy {
        Some(path) => from_file(path, secrets, now),
        None => from_flags(args, secrets, now),
    }
}

fn from_file(
    path: &Path,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<LoadedPolicy, Diagnostics> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("can't be read: {error}");
        Diagnostics(vec![Diagnostic::new(&name, what)])
    })?;
    file::read(&name, &text, secrets, now)
}

fn from_flags(
    args: &PolicyFlags,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<LoadedPolicy, Diagnostics> {
    let (raw, mut problems) = raw_flags::policy(args);
    let resolved = resolve(raw, secrets, now);
    if let Err(mistakes) = &resolved {
        let located = mistakes.iter().map(|mistake| match &mistake.origin {
            Origin::Flag(flag) => Diagnostic::new(*flag, mistake.reason.as_str()),
            Origin::File { .. } => Diagnostic::new("flags", mistake.reason.as_str()),
        });
        problems.extend(located);
    }

    match resolved {
        Ok(loaded) if problems.is_empty() => Ok(loaded),
        _ => Err(Diagnostics(problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_core::secret::{SecretError, SecretSource};
    use hookward_gate::policy::PRESET_PATHS;
    use zeroize::Zeroizing;

    struct Fake;

    impl SecretReader for Fake {
        fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
            match source {
                SecretSource::Env(name) if name.starts_with("SET") => {
                    Ok(Zeroizing::new(name.clone().into_bytes()))
                }
                SecretSource::Env(name) => Err(SecretError::Unset(name.clone())),
                SecretSource::File(path)
                | SecretSource::Command(path)
                | SecretSource::Systemd(path) => {
                    Err(SecretError::Unreadable(path.clone(), "gone".into()))
                }
            }
        }
    }

    fn build(args: PolicyFlags) -> Result<LoadedPolicy, hookward_core::reason::Reason> {
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

        let text = problems.to_string();
        assert_eq!(text.lines().count(), 13, "{problems}");
        let names_its_flag = |line: &str| line.starts_with("--");
        assert!(text.lines().all(names_its_flag), "{problems}");
        assert!(
            !problems.to_string().contains("hunter2"),
            "a literal secret is not repeated"
        );
    }
}
