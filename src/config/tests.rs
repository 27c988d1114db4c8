use super::*;
use crate::domain::{CrashReport, HostRules, SandboxLevel, Unsupported};

pub(super) fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: Vec<(&'static str, Vec<String>)>,
) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobber.toml");
    fs_err::write(&path, file).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags,
    };
    Config::load(&sources).map_err(|e| e.to_string().replace(&dir.path().display().to_string(), "DIR"))
}

#[expect(clippy::disallowed_methods, reason = "a switch for whoever runs the tests, not a setting")]
#[test]
fn the_example_file_is_up_to_date_and_means_the_defaults() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    if std::env::var_os("JOBBER_BLESS").is_some() {
        fs_err::write(&path, example()).unwrap();
    }
    let text = fs_err::read_to_string(path).unwrap();
    assert!(text == example(), "config.example.toml is stale: run JOBBER_BLESS=1 cargo test --lib config");
    // Each is read from a file of its own, which no sandbox may lead to.
    let loaded = |text: &str| Config { secret_paths: Vec::new(), ..load(text, &[], vec![]).unwrap() };
    let (from_example, defaults) = (loaded(&text), loaded(""));
    assert_eq!(format!("{from_example:?}"), format!("{defaults:?}"));
}

#[test]
fn later_layers_win() {
    let file = "[worker]\ncores_per_process = 2\n";
    let env = [("CORES_PER_CPP_PROCESS", "3")];
    assert_eq!(load("", &[], vec![]).unwrap().worker.cores_per_process, 1);
    assert_eq!(load(file, &[], vec![]).unwrap().worker.cores_per_process, 2);
    assert_eq!(load(file, &env, vec![]).unwrap().worker.cores_per_process, 3);
    let flags = vec![("worker.cores_per_process", vec!["4".to_owned()])];
    assert_eq!(load(file, &env, flags).unwrap().worker.cores_per_process, 4);
}

#[test]
fn the_originals_redis_variables_name_the_queue() {
    let queue = |file: &str, env: &[(&str, &str)]| match load(file, env, vec![]).unwrap().queue.url {
        QueueUrl::Embedded => None,
        QueueUrl::Redis(url) => Some(url),
    };
    let at = |url: &str| Some(url.parse().unwrap());
    assert_eq!(queue("", &[]), None);
    assert_eq!(queue("", &[("REDIS_HOST", "cache")]), at("redis://cache:6379"));
    assert_eq!(queue("", &[("REDIS_PORT", "7000")]), at("redis://127.0.0.1:7000"));
    assert_eq!(queue("", &[("REDIS_HOST", "::1"), ("REDIS_PORT", "7000")]), at("redis://[::1]:7000"));
    let login = [("REDIS_HOST", "h"), ("REDIS_PASSWORD", "a/b@c%"), ("REDIS_USERNAME", "u")];
    assert_eq!(queue("", &login[..2]), at("redis://:a%2Fb%40c%25@h:6379"));
    assert_eq!(queue("", &login), at("redis://u:a%2Fb%40c%25@h:6379"));
    assert_eq!(queue("queue.url = 'rediss://a'", &[]), at("rediss://a"));
    assert_eq!(queue("", &[("REDIS_HOST", "cache"), ("JOBBER_QUEUE_URL", "embedded")]), None);
    assert!(load("queue.url = 'http://a'", &[], vec![]).is_err());
    for password in ["p/w", "p#w", "p?w", "p%w", "5%"] {
        let error = load(&format!("queue.url = 'redis://:{password}@h:6379'"), &[], vec![]).unwrap_err().to_string();
        assert!(error.contains("%2F") && !error.contains(password), "{error}");
    }
    assert!(load("queue.prefix = 'a:b'", &[], vec![]).is_err());
    let shown = format!("{:?}", load("queue.url = 'redis://u:hidden@a'", &[], vec![]).unwrap());
    assert!(!shown.contains("hidden"));
}

#[test]
fn the_original_port_variable_sets_the_port_alone() {
    let listen = |file: &str, env: &[(&str, &str)]| load(file, env, vec![]).unwrap().serve.listen.to_string();
    assert_eq!(listen("", &[("PORT", "8080")]), "127.0.0.1:8080");
    assert_eq!(listen("[serve]\nlisten = \"[::1]:1\"", &[("PORT", "8080")]), "[::1]:8080");
    assert_eq!(listen("", &[("PORT", "8080"), ("JOBBER_LISTEN", "127.0.0.1:9")]), "127.0.0.1:9");
}

#[test]
fn a_job_name_has_defaults_of_its_own() {
    let config = load(
        "[defaults]\nattempts = 5\n[jobs.mandelbrot]\ntimeout = \"10m\"\nno_retry_exit_codes = [2]\n",
        &[],
        vec![],
    )
    .unwrap();
    let its = &config.jobs[&JobName::parse("mandelbrot").unwrap()];
    assert_eq!((its.attempts, its.timeout), (5, Some(Duration::from_secs(600))));
    assert_eq!(its.no_retry_exit_codes, Some(vec![2]));
    assert_eq!(config.defaults.no_retry_exit_codes, None);
    assert_eq!(config.defaults.timeout, None);
}

#[test]
fn errors_name_the_place_the_key_and_what_is_allowed() {
    let error = |file: &str, env: &[(&str, &str)]| load(file, env, vec![]).unwrap_err();
    insta::assert_snapshot!(error("[worker]\ncores_per_proces = 2\n", &[]), @"DIR/jobber.toml: there is no setting worker.cores_per_proces; did you mean worker.cores_per_process?");
    insta::assert_snapshot!(error("zzzzzzzzzzzzz = 2\n", &[]), @"DIR/jobber.toml: there is no setting zzzzzzzzzzzzz");
    insta::assert_snapshot!(error("", &[("CORES_PER_CPP_PROCESS", "-1")]), @r#"environment variable CORES_PER_CPP_PROCESS: worker.cores_per_process = "-1" is not allowed: it must be a whole number, not negative and not too large"#);
    insta::assert_snapshot!(error("[queue]\nlease = 5\n", &[]), @r#"DIR/jobber.toml: queue.lease = "5" is not allowed: it must be a duration such as 250ms, 90s, 15m, 1h or 1d, at most ten years"#);
    insta::assert_snapshot!(error("[store]\nurl = \"mongodb://x\"\n", &[]), @r#"DIR/jobber.toml: store.url = "mongodb://x" is not allowed: it must be embedded, or couchbase:// or couchbases:// with user:password@host/bucket"#);
    insta::assert_snapshot!(error("[jobs.\"../x\"]\nattempts = 2\n", &[]), @r#"DIR/jobber.toml: section [jobs."../x"]: job name "../x" is not valid: letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128"#);
    insta::assert_snapshot!(error("[serve]\ntoken = \"short\"\n", &[]), @"DIR/jobber.toml: serve.token: a token must be at least 8 visible ASCII characters; try `openssl rand -hex 16`");
    insta::assert_snapshot!(error("serve = 3\n", &[]), @"DIR/jobber.toml: serve is a section: write [serve], and its settings below");
    insta::assert_snapshot!(error("[colour]\n", &[]), @"DIR/jobber.toml: there is no setting colour");
    insta::assert_snapshot!(error("[jobs.a.b]\ncores = 2\n", &[]), @"DIR/jobber.toml: there is no setting jobs.a.b");
    insta::assert_snapshot!(error("[queue]\nurl = \"redis://me:pa@ss@h:0\"\n", &[]), @r#"DIR/jobber.toml: queue.url = "redis://...@h:0" is not allowed: it must be embedded, or redis://, rediss://, redis-cluster:// or rediss-cluster:// with a host, and a port from 1 to 65535 if any"#);
    insta::assert_snapshot!(error("[defaults]\nno_retry_exit_codes = [300]\n", &[]), @r#"DIR/jobber.toml: defaults.no_retry_exit_codes = "300" is not allowed: it must be an exit code, 1 to 255"#);
    insta::assert_snapshot!(error("", &[("REDIS_HOST", "a"), ("REDIS_PORT", "x")]), @r#"environment variable REDIS_HOST, REDIS_PORT: queue.url = "redis://a:x" is not allowed: it must be embedded, or redis://, rediss://, redis-cluster:// or rediss-cluster:// with a host, and a port from 1 to 65535 if any"#);
    assert!(error("a = [", &[]).starts_with("DIR/jobber.toml: "));
}

#[test]
fn variables_that_are_no_settings_are_found() {
    let of = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), "1".to_owned())).collect();
    let known: BTreeMap<_, _> =
        of(&["JOBBER_DATA_DIR", "JOBBER_SERVER", "JOBBER_JOB_ID", "JOBBER_PORT_3000_TCP", "HOME"]);
    assert_eq!(unknown_variables(&known), []);
    let unknown: BTreeMap<_, _> = of(&["JOBBER_DATADIR", "JOBBER_ZZZZZZZZZZZZ"]);
    let found = [("JOBBER_DATADIR", Some("JOBBER_DATA_DIR")), ("JOBBER_ZZZZZZZZZZZZ", None)];
    assert_eq!(unknown_variables(&unknown), found);
}

#[test]
fn history_is_kept_at_least_as_long_as_the_queue_keeps_its_jobs() {
    let kept = |file: &str| load(file, &[], vec![]).map(|c| c.retention.map(|age| age.as_secs() / 86_400));
    assert_eq!(kept(""), Ok(Some(90)));
    assert_eq!(kept("store.retention = 'forever'"), Ok(None));
    assert_eq!(kept("store.retention = '1d'"), Ok(Some(1)));
    insta::assert_snapshot!(kept("store.retention = '23h'").unwrap_err(), @r#"DIR/jobber.toml: store.retention = "23h" is not allowed: it must be forever, or a duration of at least 1d and at most ten years"#);
    insta::assert_snapshot!(kept("store.retention = '7d'\nqueue.failed_age = '8d'").unwrap_err(), @"store.retention is shorter than queue.failed_age: history would lose jobs that the queue still holds; raise the one or lower the other");
}

#[test]
fn viewers_have_a_token_of_their_own_beside_the_operators() {
    let view_token = |file: &str| load(file, &[], vec![]).map(|config| config.serve.view_token.is_some());
    assert_eq!(view_token("[serve]\ntoken = \"operators\"\nview_token = \"for-viewers\"\n"), Ok(true));
    insta::assert_snapshot!(view_token("[serve]\nview_token = \"for-viewers\"\n").unwrap_err(), @"serve.view_token has no use without serve.token: without that every caller may do everything");
    insta::assert_snapshot!(view_token("[serve]\ntoken = \"operators\"\nview_token = \"operators\"\n").unwrap_err(), @"serve.view_token and serve.token must differ: the second is for callers that may not act");
    insta::assert_snapshot!(view_token("[serve]\ntoken = \"operators\"\nview_token = \"short\"\n").unwrap_err(), @"DIR/jobber.toml: serve.view_token: a token must be at least 8 visible ASCII characters; try `openssl rand -hex 16`");
}

#[test]
fn a_token_is_not_printed() {
    let config = load("[serve]\ntoken = \"very-secret-token\"\n", &[], vec![]).unwrap();
    assert!(!format!("{config:?}").contains("very-secret"));
}

#[test]
fn the_embedder_is_built_in_unless_an_endpoint_is_named() {
    let built_in = |config: Config| matches!(config.embedder, EmbedderConfig::BuiltIn);
    assert!(built_in(load("", &[], vec![]).unwrap()));
    assert!(built_in(load("", &[("OPENAI_API_KEY", "sk-1")], vec![]).unwrap()), "a key alone sends nothing anywhere");
    let file = "[embedder]\nurl = \"openai\"\n";
    let EmbedderConfig::Endpoint(endpoint) = load(file, &[("OPENAI_API_KEY", "sk-1")], vec![]).unwrap().embedder else {
        panic!("an endpoint was named")
    };
    assert_eq!(endpoint.url, "https://api.openai.com/v1");
    assert_eq!(endpoint.model, "text-embedding-3-small");
    assert!(!format!("{endpoint:?}").contains("sk-1"));
    for (file, says) in [
        (file, "set OPENAI_API_KEY"),
        ("[embedder]\nurl = \"ftp://x\"\n", "http:// or https://"),
        ("[embedder]\nurl = \"http://x\"\nmodel = \"bge-m3\"\n", "set embedder.dimension"),
        ("[embedder]\nbatch = 0\n", "1 to 2048"),
        ("[embedder]\ntimeout = \"1ms\"\n", "100ms to 1h"),
    ] {
        let error = load(file, &[], vec![]).unwrap_err();
        assert!(error.contains(says), "{file}: {error}");
    }
}

#[test]
fn what_a_host_demands_of_its_jobs_falls_back_to_its_defaults_field_by_field() {
    let rules = |file: &str| load(file, &[], vec![]).map(|config| config.host_rules);
    let of = |rules: &HostRulesByName, name: &str| (**rules.of(&JobName::parse(name).unwrap())).clone();
    assert_eq!(of(&rules("").unwrap(), "any"), HostRules::default());
    let two = rules(
        "[defaults]\nsandbox = 'basic'\ncrash_report = 'tree'\nsandbox_read = ['/srv/a', '/srv/b']\n\
         [jobs.render]\nsandbox = 'strict'\nnetwork = false\nsandbox_unsupported = 'best_effort'\n\
         [jobs.plain]\nsandbox = 'off'\nsandbox_read = []\ncrash_report = false\n",
    )
    .unwrap();
    let (any, render, plain) = (of(&two, "any"), of(&two, "render"), of(&two, "plain"));
    assert_eq!((any.sandbox.level, any.sandbox.network), (SandboxLevel::Basic, true));
    assert_eq!((render.sandbox.level, render.sandbox.network), (SandboxLevel::Strict, false));
    assert_eq!(render.sandbox.read, [PathBuf::from("/srv/a"), PathBuf::from("/srv/b")]);
    let wanted = [any.sandbox.unsupported, render.sandbox.unsupported];
    assert_eq!(wanted, [Unsupported::Refuse, Unsupported::BestEffort]);
    assert_eq!((plain.sandbox.level, plain.sandbox.read.len()), (SandboxLevel::Off, 0));
    let reports = [any, render, plain].map(|rules| rules.crash_report);
    assert_eq!(reports, [CrashReport::Tree, CrashReport::Tree, CrashReport::Off]);
    insta::assert_snapshot!(rules("defaults.sandbox = 'tight'").unwrap_err(), @r#"DIR/jobber.toml: defaults.sandbox = "tight" is not allowed: it must be off, basic or strict"#);
    insta::assert_snapshot!(rules("defaults.sandbox_write = ['here']").unwrap_err(), @r#"DIR/jobber.toml: defaults.sandbox_write = "here" is not allowed: it must be absolute paths, such as ["/srv/models"]"#);
    insta::assert_snapshot!(rules("defaults.crash_report = 'all'").unwrap_err(), @r#"DIR/jobber.toml: defaults.crash_report = "all" is not allowed: it must be true, false or "tree""#);
    insta::assert_snapshot!(rules("[jobs.a]\nnetwork = false\n").unwrap_err(), @r#"[jobs.a] forbids the network to jobs that have no sandbox; set sandbox = "basic" there, or network = true"#);
}
