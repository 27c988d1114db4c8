//! The settings of the store of jobs' files.

use super::{Setting, setting};

pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "artifacts.url",
        &["JOBBER_ARTIFACTS_URL"],
        "",
        "Where the files of jobs are kept: file:///an/absolute/path, or s3://bucket/prefix; unset for the directory \"artifacts\"\n\
         of data_dir. Servers and workers must see the same place: on several machines a shared directory, or S3.",
    ),
    setting(
        "artifacts.endpoint",
        &["JOBBER_ARTIFACTS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        "",
        "The address of the S3-compatible store, such as http://127.0.0.1:9000; unset for Amazon's.",
    ),
    setting("artifacts.region", &["JOBBER_ARTIFACTS_REGION", "AWS_REGION"], r#""us-east-1""#, "The bucket's region."),
    setting(
        "artifacts.path_style",
        &["JOBBER_ARTIFACTS_PATH_STYLE"],
        "true",
        "Whether the bucket stands in the path of requests, as most stores want it; false for the name of the host.",
    ),
    setting(
        "artifacts.access_key_id",
        &["JOBBER_ARTIFACTS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"],
        "",
        "The key for the store; unset, with the next, for the keys of the machine's role.",
    ),
    setting(
        "artifacts.secret_access_key",
        &["JOBBER_ARTIFACTS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"],
        "",
        "The secret key that goes with it. Better in the next, or in a variable, than in this file.",
    ),
    setting(
        "artifacts.secret_access_key_file",
        &["JOBBER_ARTIFACTS_SECRET_ACCESS_KEY_FILE"],
        "",
        "A file that holds the secret key.",
    ),
    setting(
        "artifacts.session_token",
        &["JOBBER_ARTIFACTS_SESSION_TOKEN", "AWS_SESSION_TOKEN"],
        "",
        "The token that goes with keys which are good for a while.",
    ),
    setting(
        "artifacts.tls_ca",
        &["JOBBER_ARTIFACTS_TLS_CA"],
        "",
        "A file with the certificates (PEM) of the authorities that the store's certificate may come from, besides the system's.",
    ),
    setting(
        "artifacts.max_bytes",
        &["JOBBER_ARTIFACTS_MAX_BYTES"],
        r#""1GiB""#,
        "How much is kept of what one attempt leaves in $JOBBER_OUTPUT_DIR; what is more is left out, and the job says so.",
    ),
    setting("artifacts.max_files", &["JOBBER_ARTIFACTS_MAX_FILES"], "100", "How many files of it are kept, 0 to 1000."),
    setting(
        "artifacts.max_input_bytes",
        &["JOBBER_ARTIFACTS_MAX_INPUT_BYTES"],
        r#""1GiB""#,
        "The largest file that a client may upload as an input of jobs.",
    ),
    setting(
        "artifacts.patience",
        &["JOBBER_ARTIFACTS_PATIENCE"],
        r#""1m""#,
        "How long a worker tries again while the store is away. Then the job ends as it did, without these files, and says so.",
    ),
];
