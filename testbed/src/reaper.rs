//! What outlives a process that ends without a word.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Waits for the end of its input, which comes with the end of this process, however that ends; then
/// removes what was mounted and made under this process' number.
const SCRIPT: &str = r#"
read -r _
for path in "$TMPDIR_"/watari-test-"$OWNER"-*/* "$TMPDIR_"/watari-testbed-"$OWNER"-*; do
    umount -l "$path" 2>/dev/null
done
rm -rf "$TMPDIR_"/watari-test-"$OWNER"-* "$TMPDIR_"/watari-testbed-"$OWNER"-*
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rmdir "$CGROUP"/watari-testbed-"$OWNER"-* 2>/dev/null || break
    sleep 0.1
done
"#;

/// From now on all namespaces, mounts and cgroups of this process go with it, even those of values
/// that are never dropped: those in statics.
///
/// # Panics
/// When no shell can be started.
pub fn go_with_this_process() {
    static REAPER: OnceLock<Child> = OnceLock::new();
    REAPER.get_or_init(|| {
        let cgroup = crate::cgroup::own().expect("find the cgroup of this process");
        Command::new("sh")
            .args(["-c", SCRIPT])
            .env("OWNER", std::process::id().to_string())
            .env("TMPDIR_", std::env::temp_dir())
            .env("CGROUP", cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a shell")
    });
}
