//! Certificates for servers that are to speak TLS in a test.

use std::path::Path;
use std::process::Command;

/// Makes a private authority, `ca.crt`, and a certificate of 127.0.0.1 and localhost that it signed, `NAME.crt` with
/// `NAME.key`.
pub fn make_certificates(dir: &Path, name: &str) {
    make_certificates_for_days(dir, name, 2);
}

/// The same; the certificate ends after so many days.
pub fn make_certificates_for_days(dir: &Path, name: &str, days: i32) {
    let [key_file, request_file, names_file, certificate_file] =
        ["key", "csr", "ext", "crt"].map(|kind| format!("{name}.{kind}"));
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").current_dir(dir).args(args).output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca =
        ["req", "-x509", "-days", "2", "-subj", "/CN=jobber test authority", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&[&ca[..], &key[..]].concat());
    let request = ["req", "-subj", "/CN=127.0.0.1", "-keyout", &key_file, "-out", &request_file];
    openssl(&[&request[..], &key[..]].concat());
    std::fs::write(dir.join(&names_file), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-days",
        &days.to_string(),
        "-in",
        &request_file,
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        &names_file,
        "-out",
        &certificate_file,
    ]);
}
