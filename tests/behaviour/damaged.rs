//! Damaged, missing, locked or readable files: nothing in them is lost, and the message names the
//! remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hookward_agent::StateDir;
use hookward_tests::ports::free_port;
use hookward_tests::process::{Ended, Process, have, program, run};
use hookward_tunnel::transport::Transport;
use tempfile::TempDir;

use super::programs::{off, serve};

/// Returns the data directory of a relay that has served and stopped.
fn data_of_a_relay() -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut relay = serve(dir.path(), "127.0.0.1:0", &[]);
    relay.event("ready");
    relay.signal("TERM");
    assert_eq!(relay.end().code, Some(0));
    dir
}

fn start(dir: &Path, more: &[&str]) -> Ended {
    let mut args = vec![
        "serve",
        "--domain",
        "hooks.example.test",
        "--listen",
        "127.0.0.1:0",
    ];
    args.extend(["--data-dir", dir.to_str().unwrap()]);
    args.extend(more);

    run("hookward-relay", &args, &[], "")
}

/// Starts a relay that serves, and stops it.
fn serves(dir: &Path, more: &[&str]) -> Ended {
    let mut relay = serve(dir, "127.0.0.1:0", more);
    relay.event("ready");
    relay.signal("TERM");
    relay.end()
}

fn set_aside(dir: &Path, name: &str) -> Vec<PathBuf> {
    let begin = format!("{name}.damaged-");
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());

    entries
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            // SQLite's files beside it are set aside, too.
            let is_beside = name.ends_with("-wal") || name.ends_with("-shm");
            name.starts_with(&begin) && !is_beside
        })
        .collect()
}

fn assert_refused(ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for text in texts {
        assert!(ended.err.contains(text), "{text} in {ended:?}");
    }
}

/// One of the two files without the other would make the relay refuse every agent.
#[test]
fn a_data_directory_that_is_incomplete_is_no_new_one() {
    for (name, other) in [("relay.db", "identity.pem"), ("identity.pem", "relay.db")] {
        let dir = data_of_a_relay();
        fs::remove_file(dir.path().join(name)).unwrap();
        assert_refused(
            &start(dir.path(), &[]),
            &[name, other, "--reset", "Restore"],
        );
        assert_eq!(serves(dir.path(), &["--reset"]).code, Some(0), "{name}");
        assert_eq!(serves(dir.path(), &[]).code, Some(0), "{name}");
    }

    let dir = data_of_a_relay();
    fs::write(dir.path().join("relay.db"), "").unwrap();
    assert_refused(
        &start(dir.path(), &[]),
        &["relay.db is missing or empty", "--reset"],
    );
}

#[test]
fn damaged_state_is_named_and_set_aside_only_with_reset() {
    for (name, damage, texts) in [
        (
            "relay.db",
            "overwrite",
            &["relay.db", "damaged", "--reset"][..],
        ),
        ("relay.db", "cut", &["relay.db", "damaged", "--reset"]),
        (
            "identity.pem",
            "cut",
            &["identity.pem", "cut off", "--reset"],
        ),
        ("identity.pem", "overwrite", &["identity.pem", "--reset"]),
    ] {
        let dir = data_of_a_relay();
        let path = dir.path().join(name);
        let content = fs::read(&path).unwrap();
        let damaged = match damage {
            "cut" => content[..content.len() / 2].to_vec(),
            _ => vec![b'x'; content.len()],
        };
        fs::write(&path, &damaged).unwrap();
        assert_refused(&start(dir.path(), &[]), texts);

        assert_eq!(
            fs::read(&path).unwrap(),
            damaged,
            "{name}: nothing was changed"
        );

        assert_eq!(
            serves(dir.path(), &["--reset"]).code,
            Some(0),
            "{name} {damage}"
        );

        let aside = set_aside(dir.path(), name);
        assert_eq!(fs::read(&aside[0]).unwrap(), damaged, "{name}: it is kept");
    }
}

#[test]
fn a_damaged_file_of_deliveries_is_set_aside_and_reported() {
    for damage in ["overwrite", "cut"] {
        let dir = data_of_a_relay();
        let path = dir.path().join("deliveries.db");
        let content = fs::read(&path).unwrap();
        let damaged = if damage == "cut" {
            content[..content.len() / 2].to_vec()
        } else {
            vec![b'x'; content.len()]
        };
        fs::write(&path, damaged).unwrap();

        let ended = serves(dir.path(), &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended
                .err
                .contains("duplicates of earlier ones are accepted once more"),
            "{ended:?}"
        );
        assert_eq!(set_aside(dir.path(), "deliveries.db").len(), 1, "{damage}");
    }
}

fn execute(path: &Path, sql: &str) {
    rusqlite::Connection::open(path)
        .unwrap()
        .execute_batch(sql)
        .unwrap();
}

/// A relay that is older than its files would damage them.
#[test]
fn a_file_of_a_newer_version_is_refused_and_kept() {
    for name in ["relay.db", "deliveries.db"] {
        let dir = data_of_a_relay();
        let path = dir.path().join(name);
        execute(&path, "PRAGMA user_version = 99");
        let content = fs::read(&path).unwrap();

        assert_refused(
            &start(dir.path(), &[]),
            &[name, "schema version 99", "newer"],
        );
        assert_eq!(fs::read(&path).unwrap(), content, "{name}");
        assert!(set_aside(dir.path(), name).is_empty(), "{name}");
    }
}

/// Files of version 0.1.0 have no schema version, and other tables.
#[test]
fn files_of_the_first_version_are_migrated() {
    let dir = data_of_a_relay();
    execute(
        &dir.path().join("relay.db"),
        "INSERT INTO agents (name) VALUES ('jira');
         ALTER TABLE join_tokens DROP COLUMN used_by;
         ALTER TABLE agents DROP COLUMN seen_ms;
         ALTER TABLE agents DROP COLUMN seen_address;
         ALTER TABLE agents DROP COLUMN seen_version;
         ALTER TABLE agents DROP COLUMN scope;
         DROP TABLE acts;
         DROP TABLE credentials;
         PRAGMA user_version = 0",
    );
    execute(
        &dir.path().join("deliveries.db"),
        "DROP TABLE claims; DROP TABLE deliveries; DROP TABLE payloads; DROP TABLE responses;
         DROP TABLE lanes; DROP TABLE tunnels;
         CREATE TABLE deliveries (key BLOB PRIMARY KEY, until_ms INTEGER NOT NULL, holder INTEGER NOT NULL)
             STRICT, WITHOUT ROWID;
         PRAGMA user_version = 0",
    );

    let ended = serves(dir.path(), &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .err
            .contains("duplicates of them are accepted once more"),
        "{ended:?}"
    );

    let state = dir.path().to_str().unwrap();
    let listed = run(
        "hookward-relay",
        &["agent", "list", "--data-dir", state],
        &[],
        "",
    );
    assert!(listed.out.contains("jira"), "{listed:?}");
    let second = serves(dir.path(), &[]);
    assert!(!second.err.contains("accepted once more"), "{second:?}");
}

#[test]
fn a_file_that_can_not_be_opened_is_named_with_the_cause() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("relay.db")).unwrap();
    assert_refused(&start(dir.path(), &[]), &["relay.db", "Is a directory"]);

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_refused(
        &start(&file.join("below"), &[]),
        &["the data directory", "Not a directory"],
    );
}

/// In a mount namespace, on a disk of 16 KiB.
#[test]
fn a_full_disk_is_named_with_the_path() {
    if !have("unshare", "apt-get install util-linux") {
        return;
    }

    let dir = TempDir::new().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16k none {0} && exec {1} serve --domain x.test --listen 127.0.0.1:0 --data-dir {0}/data",
        dir.path().display(),
        program("hookward-relay").display()
    );
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);

    let ended = Process::spawn(command).end();
    assert_refused(&ended, &[&format!("{}/data/", dir.path().display())]);
    let causes = ["No space left on device", "disk is full", "disk I/O error"];
    assert!(
        causes.iter().any(|cause| ended.err.contains(cause)),
        "{ended:?}"
    );
}

#[test]
fn a_directory_serves_one_relay_at_a_time() {
    let dir = TempDir::new().unwrap();
    let mut first = serve(dir.path(), "127.0.0.1:0", &[]);
    first.event("ready");
    assert_refused(
        &start(dir.path(), &[]),
        &[
            "in use by another relay",
            &format!("process {}", first.id()),
        ],
    );

    // Two --local agents share a directory, too: the error of the second names the first.
    let state = TempDir::new().unwrap();
    let local = |listen: &'static str| {
        vec![
            "http",
            "1",
            "--state-dir",
            state.path().to_str().unwrap(),
            "--log-format",
            "json",
            listen,
        ]
    };
    let mut one = Process::start("hookward", &local("--local=127.0.0.1:0"), &[]);

    one.event("ready");
    let ended = run("hookward", &local("--local=127.0.0.2:0"), &[], "");
    assert_refused(
        &ended,
        &["in use by another relay", "listening on 127.0.0.1"],
    );
    one.signal("TERM");
    assert_eq!(one.wait(), Some(0), "the first goes on until it is stopped");
}

#[test]
fn the_agents_files_are_private_and_hints_are_thrown_away() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let state = StateDir::open(Some(dir.path())).unwrap();
    fs::write(path("transport.json"), "{nonsense").unwrap();
    assert_eq!(state.last_transport(), None);
    assert!(!path("transport.json").exists());
    state.keep_transport(Transport::Tcp).unwrap();
    assert_eq!(state.last_transport(), Some(Transport::Tcp));

    for (name, remedy) in [
        ("agent.json", "join again"),
        ("tokens.json", "creates new tokens"),
    ] {
        fs::write(path(name), "{nonsense").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o644)).unwrap();
        let said = || match name {
            "agent.json" => state.credentials().err().unwrap().to_string(),
            _ => state.kept_token(None).err().unwrap().to_string(),
        };
        assert!(said().contains("chmod 600"), "{}", said());
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(said().contains(remedy), "{}", said());
    }

    // Temporary files of a killed process are removed, those of a running one stay.
    let (dead, living) = (path("tokens.json.new-4194304"), path("tokens.json.new-1"));
    fs::write(&dead, "a token").unwrap();
    fs::write(&living, "a token").unwrap();

    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for path in [&dead, &living] {
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(hour_ago)
            .unwrap();
    }

    StateDir::open(Some(dir.path())).unwrap();
    assert_eq!((dead.exists(), living.exists()), (false, true));
    // Files that are not the agent's stay.
    let foreign = path("notes.new-4194304");
    fs::write(&foreign, "").unwrap();

    fs::File::options()
        .write(true)
        .open(&foreign)
        .unwrap()
        .set_modified(hour_ago)
        .unwrap();
    StateDir::open(Some(dir.path())).unwrap();
    assert!(foreign.exists());
}

#[test]
fn directories_that_others_can_write_are_warned_of() {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let ended = serves(dir.path(), &[]);
    assert!(
        ended.code == Some(0) && ended.err.contains("chmod 700"),
        "{ended:?}"
    );
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();

    fs::set_permissions(
        dir.path().join("identity.pem"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();

    let ended = serves(dir.path(), &[]);
    assert!(
        ended.code == Some(0) && ended.err.contains("identity.pem: chmod 600"),
        "{ended:?}"
    );
}

/// The join token was used and the credential could not be stored: the same agent can join again
/// with it.
#[tokio::test]
async fn a_join_that_could_not_be_kept_can_be_repeated() {
    off(|| {
        let (data, state, other) = (
            TempDir::new().unwrap(),
            TempDir::new().unwrap(),
            TempDir::new().unwrap(),
        );
        let listen = format!("127.0.0.1:{}", free_port());
        let mut relay = serve(data.path(), &listen, &["--tunnel-address", &listen]);
        let token = relay.join_token();
        assert_eq!(
            fs::metadata(data.path().join("first-join-token"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );

        assert!(
            !relay.out().join("\n").contains(&token) && !relay.err().join("\n").contains(&token)
        );

        let join = |dir: &Path| {
            run(
                "hookward",
                &["join", "-", "--state-dir", dir.to_str().unwrap()],
                &[],
                &token,
            )
        };

        let agent = state.path().join("agent.json");
        fs::create_dir(&agent).unwrap();
        let failed = join(state.path());
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert_eq!(
            join(other.path()).code,
            Some(3),
            "another agent can't use it"
        );

        fs::remove_dir(&agent).unwrap();
        assert_eq!(join(state.path()).code, Some(0));
        assert!(!state.path().join("joining.json").exists());
    })
    .await;
}
