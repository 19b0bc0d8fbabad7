//! Documents: links lead somewhere, and every example works.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use hookward_core::clock::UnixMillis;
use hookward_core::limits::Limits;
use hookward_core::reason::Code;
use hookward_core::secret::{SecretError, SecretReader, SecretSource};
use hookward_gate::policy::file;
use hookward_tests::process::run;
use tempfile::TempDir;
use zeroize::Zeroizing;

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    "relay/README.md",
    "agent/README.md",
    "shared/gate/README.md",
    "tests/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap()
}

/// Returns the fenced blocks of a language, without indentation.
fn blocks<'d>(text: &'d str, language: &'d str) -> impl Iterator<Item = &'d str> {
    text.split("\n```")
        .filter_map(move |block| block.strip_prefix(language)?.strip_prefix('\n'))
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| heading.trim_start_matches('#').trim().to_lowercase())
        .map(|heading| {
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// Returns the targets of a document's links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

#[test]
fn links_lead_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        let dir = root().join(document).parent().unwrap().to_owned();

        for link in links(&text).filter(|link| !link.starts_with("https://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => text.clone(),
                path => {
                    let content = std::fs::read(dir.join(path));
                    let content =
                        content.unwrap_or_else(|error| panic!("{document}: {link}: {error}"));
                    // A picture has no headings.
                    String::from_utf8_lossy(&content).into_owned()
                }
            };
            let is_there = anchor.is_empty() || anchors(&target).iter().any(|a| a == anchor);
            assert!(is_there, "{document}: no heading for {link}");
        }
    }
}

/// Any secret, because the documents' examples name variables of the reader.
struct AnySecret;

impl SecretReader for AnySecret {
    fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let text = match source {
            SecretSource::Env(name) if name == "USER_AND_PASSWORD" => "user:a long password",
            SecretSource::Env(_) => "an example secret of some length",
            SecretSource::File(_) => PUBLIC_KEY,
            SecretSource::Command(_) | SecretSource::Systemd(_) => {
                "an example secret of some length"
            }
        };
        Ok(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

const PUBLIC_KEY: &str = include_str!("../fixtures/vectors/rsa-public.pem");
const NOW: UnixMillis = UnixMillis(1_795_507_200_000);

#[test]
fn policies_of_the_documents_are_valid() {
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for block in blocks(&text, "toml").filter(|block| block.contains("[[route]]")) {
            if let Err(errors) = file::read(document, block, &AnySecret, NOW) {
                panic!("{errors}\n{block}");
            }
            count += 1;
        }
    }

    assert!(count >= 3, "{count} policies");
}

#[test]
fn settings_of_the_documents_are_valid() {
    let dir = TempDir::new().unwrap();
    let text = read("relay/README.md");
    let settings = blocks(&text, "toml")
        .find(|block| block.contains("[limits]"))
        .unwrap();
    let data = dir.path().join("data");
    let settings = settings
        .replace("/var/lib/hookward", data.to_str().unwrap())
        .replace("/var/log/hookward", dir.path().to_str().unwrap())
        .replace("[::]:443", "127.0.0.1:0");
    let path = dir.path().join("relay.toml");
    std::fs::write(&path, settings).unwrap();

    let ended = run(
        "hookward-relay",
        &["serve", "--config", path.to_str().unwrap()],
        &[],
        "",
    );
    // The certificate is read after the settings, and is missing.
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("/etc/hookward/chain.pem"),
        "{}",
        ended.err
    );
}

#[test]
fn tunnels_of_the_documents_are_valid() {
    let dir = TempDir::new().unwrap();
    let text = read("agent/README.md");
    let tunnels = blocks(&text, "toml")
        .find(|block| block.contains("[[tunnel]]"))
        .unwrap();
    let path = dir.path().join("hookward.toml");
    let policy = "[[route]]\npath = '/hooks/**'\naccept.token = 'env:HOOK_TOKEN'\n";
    for (name, content) in [
        ("hookward.toml", tunnels),
        ("flexdeploy.toml", policy),
        ("jira.toml", policy),
        (
            "internal-ca.pem",
            include_str!("../fixtures/vectors/ca.pem"),
        ),
    ] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }

    let state = dir.path().join("state");
    let ended = run(
        "hookward",
        &[
            "start",
            path.to_str().unwrap(),
            "--state-dir",
            state.to_str().unwrap(),
        ],
        &[("HOOK_TOKEN", "an example token of some length")],
        "",
    );
    assert!(ended.err.contains("has not joined a relay"), "{ended:?}");
}

/// Splits a line like a shell without expansions. Leaves out the comment and a redirection.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#' | '>') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }

    words.extend(word);
    words
}

#[test]
fn command_lines_of_the_documents_are_valid() {
    let mut count = BTreeMap::new();
    for document in DOCUMENTS {
        let text = read(document);
        for line in blocks(&text, "sh").flat_map(str::lines) {
            let words = words(line);
            let error = match words.first().map(String::as_str) {
                Some("hookward") => hookward_agent::Cli::try_parse_from(&words).err(),
                Some("hookward-relay") => hookward_relay::Cli::try_parse_from(&words).err(),
                _ => continue,
            };
            if let Some(error) = error {
                panic!("{document}: {line}\n{error}");
            }
            *count.entry(document).or_insert(0) += 1;
        }
    }

    assert!(count.values().sum::<usize>() > 25, "{count:?}");
}

#[test]
fn every_error_code_is_documented_with_its_status() {
    let text = read("relay/README.md");
    let rows: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("` |"))
        .collect();
    for code in Code::ALL {
        let (status, name) = (code.status().as_u16().to_string(), format!("`{code}`"));
        assert!(
            rows.iter()
                .any(|row| row[2..].starts_with(&status) && row.contains(&name)),
            "relay/README.md lacks a row for {status} {name}"
        );
    }
}

#[test]
fn every_limit_is_documented() {
    let text = read("relay/README.md");
    for (name, default, meaning) in Limits::table() {
        let row = format!("| `{name}` | `{default}` | {meaning} |");
        assert!(
            text.contains(&row),
            "relay/README.md lacks this row:\n{row}"
        );
    }
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").len() <= 8 * 1024);
}
