//! Layers of the crates: their allowed dependencies.

use std::process::Command;

/// Returns the names of all packages that a crate is built with, itself included.
fn packages(of: &str) -> Vec<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}", "--package", of])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");

    let tree = String::from_utf8(tree.stdout).unwrap();
    tree.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn core_and_gate_have_no_runtime_and_no_sockets() {
    const IO: [&str; 9] = [
        "tokio",
        "mio",
        "socket2",
        "quinn",
        "quinn-udp",
        "h2",
        "hyper",
        "rustls",
        "rusqlite",
    ];

    for layer in ["hookward-core", "hookward-gate"] {
        let packages = packages(layer);
        assert!(packages.iter().any(|name| name == layer), "{packages:?}");
        for name in IO {
            assert!(
                !packages.iter().any(|other| other == name),
                "{layer} is built with {name}"
            );
        }
    }
}

#[test]
fn crates_depend_on_lower_layers_only() {
    for (layer, allowed) in [
        ("hookward-core", &[][..]),
        ("hookward-gate", &["hookward-core"]),
        ("hookward-runtime", &["hookward-core"]),
        ("hookward-observe", &["hookward-core", "hookward-runtime"]),
        ("hookward-pages", &["hookward-core"]),
        ("hookward-tunnel", &["hookward-core"]),
        (
            "hookward-cli",
            &["hookward-core", "hookward-runtime", "hookward-observe"],
        ),
    ] {
        for name in packages(layer) {
            let is_ours = name.starts_with("hookward-") && name != layer;
            assert!(
                !is_ours || allowed.contains(&name.as_str()),
                "{layer} is built with {name}"
            );
        }
    }
}
