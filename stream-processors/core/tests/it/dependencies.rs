//! The core stays pure: what it must never reach is checked, not hoped for.

use std::process::Command;

#[test]
fn neither_async_nor_io_nor_a_database_is_reached() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "-p", "chalkstream-core", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree failed: {errors}");
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"chalkstream-schemas"), "cargo tree listed nothing useful: {tree}");
    for banned in ["tokio", "rdkafka", "clickhouse", "fjall", "reqwest", "axum", "rand"] {
        assert!(!names.contains(&banned), "the core depends on {banned}:\n{tree}");
    }
}
