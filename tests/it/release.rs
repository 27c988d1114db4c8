//! What is released: one static file that starts with nothing around it. Both profiles are linked in the same way
//! (tools/rustc-static).

use crate::harness::{binary, run};

#[test]
fn it_has_no_dynamic_dependencies() {
    let bytes = std::fs::read(binary()).unwrap();
    assert_eq!(&bytes[..4], b"\x7fELF");
    assert_eq!(bytes[4], 2, "64 bits");
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()) as usize;
    let (table, size, count) = (u64_at(32), u16_at(54), u16_at(56));
    for i in 0..count {
        let header = table + i * size;
        let kind = u32::from_le_bytes(bytes[header..header + 4].try_into().unwrap());
        assert_ne!(kind, 3, "PT_INTERP: it asks for a dynamic loader");
        if kind == 2 {
            let (offset, length) = (u64_at(header + 8), u64_at(header + 32));
            for entry in (offset..offset + length).step_by(16) {
                assert_ne!(u64_at(entry), 1, "DT_NEEDED: it asks for a library");
            }
        }
    }
}

#[tokio::test]
async fn it_starts_from_an_empty_directory_without_any_environment() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(binary())
        .args(["dev", "--listen", "127.0.0.1:0", "--ready-fd", "1"])
        .env_clear()
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let line = tokio::time::timeout(crate::harness::PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let health = run(&["list"], &[("JOBBER_SERVER", ready["address"].as_str().unwrap())], dir.path(), "").await;
    assert_eq!(health.code, 0, "{}", health.stderr);
    let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(crate::harness::PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}
