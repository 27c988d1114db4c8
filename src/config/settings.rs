//! The table of all settings. The file's keys, the variables, the errors and `config.example.toml` follow from it.

mod artifacts;
mod host;

use std::borrow::Cow;
use std::sync::LazyLock;

use crate::domain::RunOption;

/// A setting: its key, its variables, its default, and its help.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// `section.key` in the file.
    pub(super) key: &'static str,
    /// The variables that set it. The first that is present wins.
    pub(super) variables: &'static [&'static str],
    /// The default in TOML, as the example shows it. Empty when it is unset.
    pub(super) default: &'static str,
    /// What the setting does, in one or more lines for people.
    pub(super) help: Cow<'static, str>,
}

const fn setting(
    key: &'static str,
    variables: &'static [&'static str],
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, variables, default, help: Cow::Borrowed(help) }
}

/// All settings, in the order of the example file: the defaults of run options come last.
pub(super) static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let defaults = OWN.iter().position(|s| s.key.starts_with("defaults.")).expect("there are defaults");
    let run_options = RunOption::ALL.iter().map(setting_of);
    let (before, defaults) = OWN.split_at(defaults);
    before.iter().chain(artifacts::SETTINGS).chain(defaults).chain(host::SETTINGS).cloned().chain(run_options).collect()
});

/// The settings that are no defaults of run options.
const OWN: &[Setting] = &[
    setting(
        "data_dir",
        &["JOBBER_DATA_DIR"],
        r#""data""#,
        "Where the embedded database and the scratch directories live. Processes that share it share one queue, and must run as\n\
         one user: it is made for that user alone.",
    ),
    setting(
        "log.level",
        &["JOBBER_LOG", "JOBBER_LOG_LEVEL"],
        r#""info""#,
        "error, warn, info, debug or trace; or a filter such as \"info,jobber::queue=debug\".",
    ),
    setting("log.format", &["JOBBER_LOG_FORMAT"], r#""text""#, "text or json."),
    setting(
        "serve.listen",
        &["JOBBER_LISTEN"],
        r#""127.0.0.1:3000""#,
        "Where the API listens. Anything but loopback needs a token, or insecure = true. PORT sets the port alone.",
    ),
    setting(
        "serve.token",
        &["JOBBER_TOKEN"],
        "",
        "What callers must send as `Authorization: Bearer ...`. Better given in JOBBER_TOKEN or token_file.",
    ),
    setting("serve.token_file", &["JOBBER_TOKEN_FILE"], "", "A file that holds the token."),
    setting(
        "serve.view_token",
        &["JOBBER_VIEW_TOKEN"],
        "",
        "A second token, for callers that may look at everything and change nothing.",
    ),
    setting("serve.view_token_file", &["JOBBER_VIEW_TOKEN_FILE"], "", "A file that holds the second token."),
    setting(
        "serve.view_hides_data",
        &["JOBBER_VIEW_HIDES_DATA"],
        "false",
        "Show callers with the second token no data, arguments, results and output of jobs. Error texts are shown.",
    ),
    setting(
        "serve.session_ttl",
        &["JOBBER_SESSION_TTL"],
        r#""12h""#,
        "How long a browser stays signed in. A changed token ends its sessions at once.",
    ),
    setting(
        "serve.tls_cert",
        &["JOBBER_TLS_CERT"],
        "",
        "A file with the server's certificate (PEM) and those of the authorities between it and a well-known one. With it the\n\
         API speaks HTTPS. It is read anew when it changes.",
    ),
    setting("serve.tls_key", &["JOBBER_TLS_KEY"], "", "A file with the private key of that certificate (PEM)."),
    setting(
        "serve.insecure",
        &["JOBBER_INSECURE"],
        "false",
        "Listen off loopback without a token all the same. Warned of at every start, as is a token off loopback without\n\
         TLS: it is sent in the clear.",
    ),
    setting(
        "serve.allowed_hosts",
        &["JOBBER_ALLOWED_HOSTS"],
        "[]",
        "Host names besides localhost under which a loopback listener may be asked.",
    ),
    setting("serve.body_limit", &["JOBBER_BODY_LIMIT"], r#""8MiB""#, "The largest request."),
    setting(
        "serve.header_timeout",
        &["JOBBER_HEADER_TIMEOUT"],
        r#""10s""#,
        "How long a client may take to send its request's head.",
    ),
    setting(
        "serve.idle_timeout",
        &["JOBBER_IDLE_TIMEOUT"],
        r#""60s""#,
        "How long a connection may stay open without a request.",
    ),
    setting("serve.max_connections", &["JOBBER_MAX_CONNECTIONS"], "1024", "Connections at the same time."),
    setting(
        "serve.shutdown_grace",
        &["JOBBER_SHUTDOWN_GRACE"],
        r#""10s""#,
        "How long requests may take to finish after SIGTERM.",
    ),
    setting(
        "serve.idempotency_ttl",
        &["JOBBER_IDEMPOTENCY_TTL"],
        r#""24h""#,
        "How long an Idempotency-Key is remembered.",
    ),
    setting(
        "serve.check_binaries",
        &["JOBBER_CHECK_BINARIES"],
        "true",
        "Refuse jobs whose binary is neither in jobs_dir (serve --jobs-dir) nor announced by a running worker.",
    ),
    setting(
        "serve.ui_dir",
        &["JOBBER_UI_DIR"],
        "",
        "For work on the page itself: the directory from which its files are read at each request, in place of those in the binary.",
    ),
    setting(
        "queue.url",
        &["JOBBER_QUEUE_URL"],
        r#""embedded""#,
        "Where jobs are queued: embedded (SQLite in data_dir), or a Redis or Valkey server as BullMQ uses it:\nredis://[user:password@]host:port[/database], or rediss:// for TLS; a cluster by some of its nodes:\nredis-cluster://[user:password@]host:port?node=host:port. REDIS_HOST, REDIS_PORT,\nREDIS_USERNAME and REDIS_PASSWORD set it too. Special characters of a password are %XX within a URL, and as they are\nin REDIS_PASSWORD.",
    ),
    setting(
        "queue.name",
        &["JOBBER_QUEUE_NAME"],
        r#""my-job-queue""#,
        "The queue of jobs that name none: BullMQ's name on Redis,",
    ),
    setting(
        "queue.prefix",
        &["JOBBER_QUEUE_PREFIX"],
        r#""bull""#,
        "and the prefix of its keys. On a cluster, the names of all queues are in braces, such as {encode}, or this is, such as\n{bull}: then one node holds all queues.",
    ),
    setting(
        "queue.tls_ca",
        &["JOBBER_QUEUE_TLS_CA"],
        "",
        "A file with the certificate (PEM) of the authority behind a rediss:// server; unset for the well-known ones.",
    ),
    setting(
        "queue.lease",
        &["JOBBER_LEASE"],
        r#""30s""#,
        "How long a job stays with a worker that is not heard of any more. Renewed every third of it.",
    ),
    setting(
        "queue.completed_age",
        &["JOBBER_COMPLETED_AGE"],
        r#""1h""#,
        "Completed jobs leave the queue (not history) after this,",
    ),
    setting("queue.completed_count", &["JOBBER_COMPLETED_COUNT"], "1000", "or when there are more than this."),
    setting(
        "queue.failed_age",
        &["JOBBER_FAILED_AGE"],
        r#""24h""#,
        "Failed jobs leave the queue (not history) after this; until then they can be retried.",
    ),
    setting(
        "queue.failed_count",
        &["JOBBER_FAILED_COUNT"],
        "",
        "Or when there are more than this; unset for no such limit.",
    ),
    setting(
        "store.url",
        &["JOBBER_STORE_URL"],
        r#""embedded""#,
        "Where history is kept: embedded (SQLite in data_dir), or a Couchbase bucket:\ncouchbase://user:password@host/bucket, or couchbases:// for TLS. COUCHBASE_HOST, COUCHBASE_USERNAME,\nCOUCHBASE_PASSWORD and COUCHBASE_BUCKET (jobber) set it too. Special characters of a password are %XX within a URL,\nand as they are in COUCHBASE_PASSWORD.",
    ),
    setting(
        "store.scope",
        &["JOBBER_STORE_SCOPE"],
        r#""_default""#,
        "The scope of the bucket in which the collections are. Made if it is missing.",
    ),
    setting(
        "store.key_prefix",
        &["JOBBER_STORE_KEY_PREFIX"],
        "",
        "What every key begins with, so that several Jobbers can share a scope.",
    ),
    setting(
        "store.tls_ca",
        &["JOBBER_STORE_TLS_CA"],
        "",
        "A file with the certificate (PEM) of the authority behind a couchbases:// server; unset for the well-known ones\nand Capella's.",
    ),
    setting(
        "store.replaces_log",
        &["JOBBER_STORE_REPLACES_LOG"],
        "",
        "The event log that history in Couchbase was folded from before and that is gone for good, as the error names it\nwith which a server on another log ends.",
    ),
    setting(
        "store.durability",
        &["JOBBER_DURABILITY"],
        r#""process""#,
        "What the embedded database survives without losing its last moments: process (kill -9 of anything), or\npower (a power cut too, at the price of a disk flush for each group of commits). With history in Couchbase also what\na write there has reached before it counts: none (one node's memory), majority (that of most of the document's\nnodes; the same with process and power), majority_and_persist_to_active (and one disk) or persist_to_majority\n(most of their disks); the last two make it power for the embedded database. What a bucket can't do it is not asked\nfor, with a warning.",
    ),
    setting(
        "store.num_replica",
        &["JOBBER_STORE_NUM_REPLICA"],
        "",
        "How many more copies of each index of lists Couchbase keeps (num_replica, enterprise edition only); unset for\nwhat the cluster says.",
    ),
    setting(
        "store.retention",
        &["JOBBER_RETENTION"],
        r#""90d""#,
        "How long ended jobs stay in history, from the end of the UTC day on which they ended: a duration of at least 1d,\nor forever. Statistics keep what they have counted.",
    ),
    setting(
        "events.cap",
        &["JOBBER_EVENTS_CAP"],
        "1000000",
        "Events that the log may hold; at the cap submissions are refused and nothing is dropped.",
    ),
    setting(
        "events.keep",
        &["JOBBER_EVENTS_KEEP"],
        "10000",
        "Events that stay behind what has been folded, for those who watch.",
    ),
    setting(
        "failures.threshold",
        &["JOBBER_FAILURES_THRESHOLD", "SUCCESS_VECTOR_MATCH_THRESHOLD"],
        "",
        "How near an error must be to its nearest category, -1 to 1; unset for what suits the model.\n`jobber category calibrate` finds one, and what it sets there is followed instead.",
    ),
    setting(
        "failures.seed",
        &["JOBBER_FAILURES_SEED"],
        r#""library""#,
        "The categories of errors that a new installation starts with: library (all that come with Jobber), original (the\nsix of the first Jobber) or none. One that has categories keeps them.",
    ),
    setting(
        "embedder.url",
        &["JOBBER_EMBEDDER_URL"],
        r#""built-in""#,
        "What finds out what an error means: built-in (a small model within Jobber, nothing leaves the machine), openai, or\nthe base address of anything that speaks OpenAI's protocol, such as http://localhost:11434/v1 for Ollama. Then error\ntexts are sent there, one for each new kind of error.",
    ),
    setting("embedder.model", &["JOBBER_EMBEDDER_MODEL"], r#""text-embedding-3-small""#, "The model's name there."),
    setting(
        "embedder.dimension",
        &["JOBBER_EMBEDDER_DIMENSION"],
        "",
        "How long its vectors are; unset for what OpenAI's own models give. Others need it.",
    ),
    setting(
        "embedder.api_key",
        &["JOBBER_EMBEDDER_API_KEY", "OPENAI_API_KEY"],
        "",
        "The key, if it needs one. Better given in OPENAI_API_KEY.",
    ),
    setting("embedder.batch", &["JOBBER_EMBEDDER_BATCH"], "64", "Texts in one request."),
    setting("embedder.concurrency", &["JOBBER_EMBEDDER_CONCURRENCY"], "2", "Requests at the same time."),
    setting("embedder.timeout", &["JOBBER_EMBEDDER_TIMEOUT"], r#""30s""#, "How long a request may take."),
    setting(
        "embedder.daily_budget",
        &["JOBBER_EMBEDDER_DAILY_BUDGET"],
        "10000",
        "Texts a day (UTC) that all processes together may send. What is beyond waits for the next day.",
    ),
    setting(
        "worker.queues",
        &["JOBBER_QUEUES"],
        "[]",
        "The queues that the worker serves (--queue); none for queue.name alone. \"encode=4\" has a weight of 4 (else 1): of\nfive free slots it gets four while a queue of weight 1 has work, too. \"encode:2\" lets it run at most two at once.",
    ),
    setting(
        "worker.queue_order",
        &["JOBBER_QUEUE_ORDER"],
        r#""weighted""#,
        "weighted, or strict: the first of worker.queues that has work before all others.",
    ),
    setting("worker.jobs_dir", &["JOBBER_JOBS_DIR"], r#""jobs""#, "Where the job binaries are."),
    setting(
        "worker.cores",
        &["JOBBER_CORES"],
        "",
        "How many cores to divide among jobs; unset for all that this process may use.",
    ),
    setting("worker.cpus", &["JOBBER_CPUS"], "", "Which CPUs those are, such as \"0-3,8\"; unset for the first ones."),
    setting(
        "worker.cores_per_process",
        &["JOBBER_CORES_PER_PROCESS", "CORES_PER_CPP_PROCESS"],
        "1",
        "Cores that a job gets unless it asks for more. Jobs at the same time = cores / cores_per_process.",
    ),
    setting(
        "worker.memory",
        &["JOBBER_WORKER_MEMORY"],
        "",
        "How much memory to divide among jobs: their limits (`memory`) add up to this at most. Unset, memory is not divided.",
    ),
    setting(
        "worker.labels",
        &["JOBBER_LABELS"],
        "[]",
        "What this worker is, for jobs that ask for it (`require`): \"zone=eu\". As a section: [worker.labels] zone = \"eu\".",
    ),
    setting(
        "worker.resources",
        &["JOBBER_RESOURCES"],
        "[]",
        "What else it has to give, for jobs that ask for it (`resource`): \"licence=3\" for three units, \"gpu=0+1\" for named\n\
         ones. As a section: [worker.resources] licence = 3, gpu = [\"0\", \"1\"]. A job finds its units in JOBBER_GPU and the like.",
    ),
    setting(
        "worker.unplaceable_after",
        &["JOBBER_UNPLACEABLE_AFTER"],
        r#""1h""#,
        "How long a job waits that no worker could run, before it fails with spawn_error.",
    ),
    setting("worker.pin", &["JOBBER_PIN"], "true", "Pin each job to its cores."),
    setting("worker.nice", &["JOBBER_NICE"], "5", "How much lower than the supervisor jobs are prioritised, 0 to 19."),
    setting(
        "worker.drain_timeout",
        &["JOBBER_DRAIN_TIMEOUT"],
        r#""60s""#,
        "How long running jobs may go on after SIGTERM, before they are stopped and given back.",
    ),
    setting(
        "worker.max_jobs",
        &["JOBBER_MAX_JOBS"],
        "",
        "How many attempts `jobber work` begins before it takes no more, lets them end and ends; unset for no such limit.",
    ),
    setting(
        "worker.max_time",
        &["JOBBER_MAX_TIME"],
        "",
        "How long `jobber work` takes jobs before it drains as after SIGTERM; unset for no such limit.",
    ),
    setting(
        "worker.crash_limit",
        &["JOBBER_CRASH_LIMIT"],
        "3",
        "A job that was lost with its worker more often than this in a row has failed.",
    ),
    setting(
        "worker.output_bytes",
        &["JOBBER_OUTPUT_BYTES"],
        r#""64KiB""#,
        "How much of the end of stdout, and of stderr, is kept for each attempt.",
    ),
    setting(
        "worker.spool_bytes",
        &["JOBBER_SPOOL_BYTES"],
        r#""64MiB""#,
        "How much of a running job's output the queue holds for `run` and `logs -f` that fall behind; on Redis, of all jobs of a worker four times as much.",
    ),
    setting(
        "worker.pipe_drain",
        &["JOBBER_PIPE_DRAIN"],
        r#""1s""#,
        "How long to read on when a job has exited but its output is still held open.",
    ),
    setting(
        "worker.crash_patience",
        &["JOBBER_CRASH_PATIENCE"],
        r#""500ms""#,
        "How long a job that crashes may be made to wait while its stack is read; then it ends with what is known. 1s at most\n         serves: most take a millisecond.",
    ),
    setting(
        "worker.pass_environment",
        &["JOBBER_PASS_ENVIRONMENT"],
        r#"["PATH", "HOME", "USER", "LANG", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH"]"#,
        "Variables that jobs inherit; nothing else does. Secrets of Jobber's own never pass, and no job can read them from the\n\
         worker's process, unless it runs as root. What the worker's user may read in files, its jobs may.",
    ),
    setting(
        "worker.set_environment",
        &["JOBBER_SET_ENVIRONMENT"],
        "[]",
        "Variables that jobs get besides, such as [\"MODEL_DIR=/srv/models\"].",
    ),
    setting(
        "worker.metrics_listen",
        &["JOBBER_METRICS_LISTEN"],
        "",
        "Where `jobber work` shows its metrics (GET /metrics), such as 127.0.0.1:9464; unset for nowhere. Anything but loopback\n\
         needs the token of serve.token, which scrapers must send, or serve.insecure.",
    ),
    setting(
        "metrics.bullmq_names",
        &["JOBBER_METRICS_BULLMQ_NAMES"],
        "false",
        "Show bullmq_job_count, bullmq_job_completed_total and bullmq_job_failed_total too, for boards made for BullMQ.",
    ),
    setting(
        "defaults.attempts",
        &["JOBBER_ATTEMPTS"],
        "3",
        "How many attempts may finish badly before the job has failed.",
    ),
    setting(
        "defaults.queue",
        &[],
        "",
        "The queue in which jobs wait; unset for queue.name.\nOf one job: `queue` in JSON, --queue on the command line.",
    ),
    setting("defaults.backoff", &["JOBBER_BACKOFF"], r#""exponential""#, "fixed or exponential."),
    setting("defaults.backoff_delay", &["JOBBER_BACKOFF_DELAY"], r#""1s""#, "The wait after the first bad attempt."),
    setting("defaults.backoff_max", &["JOBBER_BACKOFF_MAX"], r#""1d""#, "The longest wait."),
    setting(
        "defaults.backoff_jitter",
        &["JOBBER_BACKOFF_JITTER"],
        "0.0",
        "The part of the wait that is left to chance, 0 to 1.",
    ),
];

/// The default of a run option.
fn setting_of(option: &RunOption) -> Setting {
    let RunOption { json, flag, help, allowed, unset, .. } = option;
    let unset = if unset.is_empty() { String::new() } else { format!("; unset for {unset}") };
    Setting {
        key: option.setting,
        variables: option.variables,
        default: option.default,
        help: format!("{help}: {allowed}{unset}.\nOf one job: `{json}` in JSON, --{flag} on the command line.").into(),
    }
}

/// The keys that may stand under `[jobs.<name>]`: those of `[defaults]`.
pub(super) fn job_keys() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter_map(|s| s.key.strip_prefix("defaults."))
}

/// The keys that may stand under `[policies.<category>]`.
pub(super) const POLICY_KEYS: &[&str] =
    &["retry", "backoff", "backoff_delay", "backoff_max", "backoff_jitter", "timeout_factor", "memory_factor"];
