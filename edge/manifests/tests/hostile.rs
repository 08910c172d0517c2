//! Any text is either read or refused: it never panics, and never takes long.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use watari_manifests::{MAX_FILE, load, parse};

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[-a-z0-9:{}\\[\\]&*!|>'\"# \n\t%.,?]{0,400}") {
        let _ = parse(Path::new("x.yaml"), text.as_bytes());
        let _ = parse(Path::new("x.json"), text.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(Path::new("x.yaml"), &bytes);
        let _ = parse(Path::new("x.json"), &bytes);
    }
}

#[test]
fn large_files_are_refused_or_read_in_time() {
    let start = Instant::now();
    let many = "---\na: 1\n".repeat(20_000);
    assert!(
        !parse(Path::new("x.yaml"), many.as_bytes())
            .errors
            .is_empty()
    );
    let long = " ".repeat(MAX_FILE + 1);
    assert_eq!(parse(Path::new("x.yaml"), long.as_bytes()).errors.len(), 1);
    let deep = "{a: ".repeat(50_000);
    assert_eq!(parse(Path::new("x.yaml"), deep.as_bytes()).errors.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_folder_is_read_in_order_and_a_bad_file_is_one_finding() {
    let folder = tempfile::tempdir().unwrap();
    let pod = |name: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"containers":[]}}}}"#
        )
    };
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("b.yaml", &pod("b"));
    write("a.json", &pod("a"));
    write("c.yml", "kind: [");
    write("again.yaml", &pod("a"));
    write(".hidden.yaml", &pod("h"));
    write("README.md", "# no manifest");
    let found = load(folder.path()).unwrap();
    let names: Vec<_> = found.objects.iter().map(|o| o.id().name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(found.errors.len(), 2, "{:?}", found.errors);
    assert!(load(&folder.path().join("none.yaml")).is_err());
}
