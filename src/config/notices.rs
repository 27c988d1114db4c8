//! The targets of notices, from the sections `[[notify]]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::{ConfigError, Layers, Origin, nearest_of, scalar};
use super::values::{boolean, one_of, path, within};
use crate::domain::notation::{self, number};
use crate::domain::{CategoryId, JobName, QueueName, Secret, Timestamp, UNCATEGORISED};
use crate::notices::{
    CommandTarget, Destination, Glob, Method, Notice, NoticeEvent, NoticeFilter, NoticeTarget, Template, WebhookTarget,
    check_url,
};

/// The keys of a section.
const KEYS: [&str; 24] = [
    "name",
    "on",
    "url",
    "command",
    "secret_file",
    "secret_env",
    "token_file",
    "token_env",
    "template",
    "template_file",
    "content_type",
    "jobs",
    "queues",
    "groups",
    "outcomes",
    "categories",
    "first",
    "timeout",
    "give_up_after",
    "queue_limit",
    "dead_limit",
    "memory",
    "method",
    "enabled",
];
/// What belongs to a webhook alone.
const OF_WEBHOOKS: [&str; 8] =
    ["secret_file", "secret_env", "token_file", "token_env", "template", "template_file", "content_type", "method"];
/// The longest name of a target, which is a label of metrics.
const LONGEST_NAME: usize = 64;
/// How much of a file with a secret or a template is read.
const LONGEST_FILE: usize = 64 * 1024;

/// Reads all sections, in the order of the file.
pub(super) fn targets(layers: &Layers) -> Result<Vec<NoticeTarget>, ConfigError> {
    let mut targets: Vec<NoticeTarget> = Vec::new();
    for (index, (table, origin)) in layers.notify.iter().enumerate() {
        let section = Section { table, origin, index, environment: &layers.environment };
        let target = section.target()?;
        if targets.iter().any(|other| other.name == target.name) {
            return Err(section.conflict(&format!("two sections have the name {:?}", target.name)));
        }
        targets.extend(section.get("enabled", boolean)?.unwrap_or(true).then_some(target));
    }
    Ok(targets)
}

/// The files with secrets that the sections name, to which no sandbox may lead.
pub(super) fn secret_paths(layers: &Layers) -> Vec<PathBuf> {
    let files = layers.notify.iter().flat_map(|(table, _)| ["secret_file", "token_file"].map(|key| table.get(key)));
    files.flatten().map(|file| PathBuf::from(scalar(file))).collect()
}

/// One section.
struct Section<'a> {
    table: &'a toml::Table,
    origin: &'a Origin,
    index: usize,
    environment: &'a BTreeMap<String, String>,
}

impl Section<'_> {
    /// The key as errors show it: with the name of the section, if it has one.
    fn key(&self, key: &str) -> String {
        match self.table.get("name").and_then(toml::Value::as_str) {
            Some(name) if !name.is_empty() && key != "name" => format!("notify.{name}.{key}"),
            _ => format!("notify[{}].{key}", self.index + 1),
        }
    }

    fn wrong(&self, key: &str, value: &str, allowed: impl Into<String>) -> ConfigError {
        let (origin, key, value) = (self.origin.clone(), self.key(key), value.to_owned());
        ConfigError::Value { origin, key, value, allowed: allowed.into() }
    }

    fn conflict(&self, problem: &str) -> ConfigError {
        let name = self.key("");
        ConfigError::Conflict(format!("{}: {}: {problem}", self.origin, name.trim_end_matches('.')))
    }

    fn get<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        if value.is_array() || value.is_table() {
            return Err(self.wrong(key, &value.to_string(), "one value, not a list"));
        }
        let text = scalar(value);
        read(&text).map(Some).map_err(|allowed| self.wrong(key, &text, allowed))
    }

    fn list<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let items: Vec<String> = match self.table.get(key) {
            None => Vec::new(),
            Some(toml::Value::Array(items)) => items.iter().map(scalar).collect(),
            Some(toml::Value::String(text)) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            Some(other) => return Err(self.wrong(key, &other.to_string(), "a list of texts")),
        };
        items.iter().map(|item| read(item).map_err(|allowed| self.wrong(key, item, allowed))).collect()
    }

    fn target(&self) -> Result<NoticeTarget, ConfigError> {
        if let Some(key) = self.table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let nearest = nearest_of(key, KEYS.into_iter());
            return Err(ConfigError::Key { file: self.origin.to_string(), key: self.key(key), nearest });
        }
        let name = self.get("name", name)?.ok_or_else(|| self.conflict("it needs a name"))?;
        let on = self.list("on", str::parse::<NoticeEvent>)?;
        if on.is_empty() {
            return Err(self.conflict("it needs on = [...]: failed, completed, category, regression, unhealthy"));
        }
        if on.iter().enumerate().any(|(i, event)| on[..i].contains(event)) {
            return Err(self.conflict("on names an event twice"));
        }
        let filter = self.filter(&on)?;
        let is_set = |key: &str| self.table.contains_key(key);
        let destination = match (is_set("url"), is_set("command")) {
            (true, true) => return Err(self.conflict("it has a url and a command: give one of them")),
            (false, false) => return Err(self.conflict("it needs a url or a command")),
            (true, false) if is_set("memory") => return Err(self.conflict("memory belongs to a command, not to a url")),
            (true, false) => Destination::Webhook(self.webhook(on[0])?),
            (false, true) => {
                if let Some(key) = OF_WEBHOOKS.into_iter().find(|key| is_set(key)) {
                    return Err(self.conflict(&format!("{key} belongs to a url, not to a command")));
                }
                Destination::Command(self.command()?)
            }
        };
        let within_time = |least: u64, most: u64| {
            move |text: &str| {
                let value = notation::duration(text)?;
                let (from, to) = (Duration::from_secs(least), Duration::from_secs(most));
                let allowed = || format!("{} to {}", humantime::format_duration(from), humantime::format_duration(to));
                if (from..=to).contains(&value) { Ok(value) } else { Err(allowed()) }
            }
        };
        Ok(NoticeTarget {
            name,
            on,
            filter,
            destination,
            timeout: self.get("timeout", within_time(1, 300))?.unwrap_or(Duration::from_secs(10)),
            give_up_after: self
                .get("give_up_after", within_time(1, 30 * 86_400))?
                .unwrap_or(Duration::from_secs(86_400)),
            queue_limit: self.get("queue_limit", |t| within(number(t)?, 1, 1_000_000))?.unwrap_or(10_000),
            dead_limit: self.get("dead_limit", |t| within(number(t)?, 1, 1_000_000))?.unwrap_or(1_000),
        })
    }

    fn filter(&self, on: &[NoticeEvent]) -> Result<NoticeFilter, ConfigError> {
        let filter = NoticeFilter {
            jobs: self.list("jobs", Glob::parse)?,
            queues: self.list("queues", |t| QueueName::parse(t).map_err(|_| QueueName::RULE.to_owned()))?,
            groups: self.list("groups", Glob::parse)?,
            outcomes: self.list("outcomes", |t| {
                t.parse().map_err(|_| "exit, signal, timeout, cancelled, oom, spawn_error or lost".to_owned())
            })?,
            categories: self.list("categories", |t| match t {
                UNCATEGORISED => Ok(t.to_owned()),
                _ => CategoryId::parse(t).map(|id| id.as_str().to_owned()).map_err(|e| e.to_string()),
            })?,
            first: self.get("first", boolean)?.unwrap_or(false),
        };
        let of_job = [NoticeEvent::Failed, NoticeEvent::Completed, NoticeEvent::Category];
        let tells_of_jobs = on.iter().any(|event| of_job.contains(event));
        if !tells_of_jobs {
            let of_jobs = ["queues", "groups", "outcomes", "categories"];
            if let Some(key) = of_jobs.into_iter().find(|key| self.table.contains_key(*key)) {
                return Err(
                    self.conflict(&format!("{key} belongs to failed, completed and category, which it is not told of"))
                );
            }
        }
        if filter.first && !on.contains(&NoticeEvent::Category) {
            return Err(self.conflict("first belongs to category, which it is not told of"));
        }
        Ok(filter)
    }

    fn webhook(&self, event: NoticeEvent) -> Result<WebhookTarget, ConfigError> {
        let template = self.template(event)?;
        let usual = if template == Some(Template::Matrix) { Method::PutUnderId } else { Method::Post };
        let methods = [("post", Method::Post), ("put", Method::PutUnderId)];
        let url = self.get("url", check_url);
        // The address may hold a secret, so errors do not show it.
        let hidden = |error| match error {
            ConfigError::Value { origin, key, allowed, .. } => {
                ConfigError::Value { origin, key, value: "...".to_owned(), allowed }
            }
            other => other,
        };
        Ok(WebhookTarget {
            url: url.map_err(hidden)?.unwrap_or_default(),
            method: self.get("method", |t| one_of(t, &methods, "post or put"))?.unwrap_or(usual),
            secret: self.secret("secret_file", "secret_env")?,
            token: self.secret("token_file", "token_env")?,
            template,
        })
    }

    fn command(&self) -> Result<CommandTarget, ConfigError> {
        let argv = self.list("command", |t| {
            if t.contains('\0') { Err("a text without NUL characters".to_owned()) } else { Ok(t.to_owned()) }
        })?;
        let [program, arguments @ ..] = argv.as_slice() else {
            return Err(self.conflict("command needs a program: command = [\"/usr/local/bin/tell\", \"argument\"]"));
        };
        let is_name = |path: &PathBuf| {
            path.is_absolute()
                && path.file_name().and_then(|name| JobName::parse(&name.to_string_lossy()).ok()).is_some()
        };
        let program = PathBuf::from(program);
        if !is_name(&program) {
            let allowed = "an absolute path, whose last part has only letters, digits, '.', '_' and '-'";
            return Err(self.wrong("command", &program.display().to_string(), allowed));
        }
        let least = 16 << 20;
        let memory = self.get("memory", |t| {
            let bytes = notation::size(t)?;
            if bytes >= least { Ok(bytes) } else { Err("at least 16MiB".to_owned()) }
        })?;
        Ok(CommandTarget { program, arguments: arguments.to_vec(), memory_bytes: memory.unwrap_or(256 << 20) })
    }

    fn template(&self, event: NoticeEvent) -> Result<Option<Template>, ConfigError> {
        let text = self.get("template", |t| Ok(t.to_owned()))?;
        let file = self.get("template_file", path)?;
        let content_type = self.get("content_type", |t| {
            let is_type = t.contains('/') && t.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
            if is_type {
                Ok(t.to_owned())
            } else {
                Err("a media type such as application/json or text/plain".to_owned())
            }
        })?;
        let text = match (text.as_deref(), file) {
            (Some(_), Some(_)) => {
                return Err(self.conflict("it has a template and a template_file: give one of them"));
            }
            (None, None) if content_type.is_some() => {
                return Err(self.conflict("content_type belongs to a template"));
            }
            (None, None) => return Ok(None),
            (Some("slack" | "matrix"), None) if content_type.is_some() => {
                return Err(self.conflict("content_type belongs to a template of your own"));
            }
            (Some("slack"), None) => return Ok(Some(Template::Slack)),
            (Some("matrix"), None) => return Ok(Some(Template::Matrix)),
            (Some(text), None) if !text.contains("{{") => {
                return Err(self.wrong("template", text, "slack, matrix, or a text with fields such as {{text}}"));
            }
            (Some(text), None) => text.to_owned(),
            (None, Some(file)) => self.read_file("template_file", &file)?,
        };
        let key = if self.table.contains_key("template") { "template" } else { "template_file" };
        let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
        let sample = Notice::sample(event, "sample", Timestamp::EPOCH);
        let template = Template::parse(&text, &content_type, &sample);
        template.map(Some).map_err(|error| self.conflict(&format!("{key}: {error}")))
    }

    /// A secret from a file or from a variable.
    fn secret(&self, file_key: &str, variable_key: &str) -> Result<Option<Secret>, ConfigError> {
        let (file, variable) = (self.get(file_key, path)?, self.get(variable_key, |t| Ok(t.to_owned()))?);
        let (text, key) = match (file, variable) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(self.conflict(&format!("it has {file_key} and {variable_key}: give one of them")));
            }
            (Some(file), None) => (self.read_file(file_key, &file)?, file_key),
            (None, Some(variable)) => match self.environment.get(&variable) {
                Some(text) => (text.clone(), variable_key),
                None => return Err(self.conflict(&format!("{variable_key}: the variable {variable} is not set"))),
            },
        };
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.conflict(&format!("{key}: a secret must be visible ASCII characters, on one line")));
        }
        Ok(Some(Secret::new(text)))
    }

    fn read_file(&self, key: &str, file: &Path) -> Result<String, ConfigError> {
        let problem = |problem: String| self.conflict(&format!("{key}: {problem}"));
        let bytes = fs_err::read(file).map_err(|e| problem(e.to_string()))?;
        if bytes.len() > LONGEST_FILE {
            return Err(problem(format!("{} is longer than 64 KiB", file.display())));
        }
        String::from_utf8(bytes).map_err(|_| problem(format!("{} is not UTF-8 text", file.display())))
    }
}

fn name(text: &str) -> Result<String, String> {
    let is_name = (1..=LONGEST_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if is_name { Ok(text.to_owned()) } else { Err("letters, digits, '.', '_' and '-', at most 64".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::load;

    const OPS: &str = "[[notify]]\nname = \"ops\"\non = [\"failed\"]\nurl = \"http://127.0.0.1:9/hook\"\n";

    fn notify(text: &str, environment: &[(&str, &str)]) -> Result<Vec<NoticeTarget>, String> {
        load(text, environment, vec![]).map(|config: Config| config.notify)
    }

    #[test]
    fn a_section_says_where_notices_go_and_which() {
        let text = format!(
            "{OPS}jobs = [\"re*\", \"blur\"]\nqueues = \"gpu\"\noutcomes = [\"timeout\"]\ngive_up_after = \"1h\"\n\
             secret_env = \"HOOK_SECRET\"\n\
             [[notify]]\nname = \"pager\"\non = [\"unhealthy\", \"regression\"]\n\
             command = [\"/usr/local/bin/page\", \"-v\"]\nmemory = \"64MiB\"\n"
        );
        let targets = notify(&text, &[("HOOK_SECRET", "s3cret")]).unwrap();
        assert_eq!(targets.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["ops", "pager"]);
        let ops = &targets[0];
        assert_eq!((ops.filter.jobs.len(), ops.filter.queues.len(), ops.filter.outcomes.len()), (2, 1, 1));
        assert_eq!((ops.timeout, ops.give_up_after), (Duration::from_secs(10), Duration::from_secs(3600)));
        assert!(!format!("{targets:?}").contains("s3cret"));
        let Destination::Command(page) = &targets[1].destination else { panic!() };
        assert_eq!((page.program.to_str(), page.memory_bytes), (Some("/usr/local/bin/page"), 64 << 20));
        assert!(notify(&format!("{OPS}enabled = false\n"), &[]).unwrap().is_empty());
    }

    #[test]
    fn matrix_is_put_under_the_id() {
        let text = format!("{OPS}template = \"matrix\"\n");
        let Destination::Webhook(webhook) = &notify(&text, &[]).unwrap()[0].destination else { panic!() };
        assert_eq!((webhook.method, webhook.template.clone()), (Method::PutUnderId, Some(Template::Matrix)));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| notify(text, &[]).unwrap_err();
        let ops = |more: &str| error(&format!("{OPS}{more}\n"));
        insta::assert_snapshot!(error("[notify]\nname = \"a\"\n"), @"DIR/jobber.toml: notify is a list of sections: write [[notify]]");
        insta::assert_snapshot!(error("[[notify]]\non = [\"failed\"]\n"), @"DIR/jobber.toml: notify[1]: it needs a name");
        insta::assert_snapshot!(error("[[notify]]\nname = \"a b\"\n"), @r#"DIR/jobber.toml: notify[1].name = "a b" is not allowed: it must be letters, digits, '.', '_' and '-', at most 64"#);
        insta::assert_snapshot!(error("[[notify]]\nname = \"a\"\nurl = \"http://h/\"\n"), @"DIR/jobber.toml: notify.a: it needs on = [...]: failed, completed, category, regression, unhealthy");
        insta::assert_snapshot!(error("[[notify]]\nname = \"a\"\non = [\"broken\"]\n"), @r#"DIR/jobber.toml: notify.a.on = "broken" is not allowed: it must be failed, completed, category, regression or unhealthy"#);
        insta::assert_snapshot!(error("[[notify]]\nname = \"a\"\non = [\"failed\"]\n"), @"DIR/jobber.toml: notify.a: it needs a url or a command");
        insta::assert_snapshot!(error(&format!("{OPS}{OPS}")), @r#"DIR/jobber.toml: notify.ops: two sections have the name "ops""#);
        insta::assert_snapshot!(ops("command = [\"/bin/true\"]"), @"DIR/jobber.toml: notify.ops: it has a url and a command: give one of them");
        insta::assert_snapshot!(ops("urls = \"x\""), @"DIR/jobber.toml: there is no setting notify.ops.urls; did you mean url?");
        insta::assert_snapshot!(error("[[notify]]\nname = \"a\"\non = [\"failed\"]\nurl = \"hooks.example/secret\"\n"), @r#"DIR/jobber.toml: notify.a.url = "..." is not allowed: it must be an address that begins with http:// or https:// and names a host"#);
        let missing = ops("secret_file = \"/nowhere/at/all\"");
        assert!(
            missing.starts_with("DIR/jobber.toml: notify.ops: secret_file: ") && missing.contains("/nowhere/at/all")
        );
        insta::assert_snapshot!(ops("secret_env = \"HOOK_SECRET\""), @"DIR/jobber.toml: notify.ops: secret_env: the variable HOOK_SECRET is not set");
        insta::assert_snapshot!(ops("template = \"{\\\"text\\\": \\\"{{txt}}\\\"}\""), @"DIR/jobber.toml: notify.ops: template: there is no field {{txt}}: there are text, event, id, at, target, job_id, job_name, queue, group, state, outcome, error, category, attempts, worker, host, build, part, healthy, problem, server, notice");
        insta::assert_snapshot!(ops("template = \"teams\""), @r#"DIR/jobber.toml: notify.ops.template = "teams" is not allowed: it must be slack, matrix, or a text with fields such as {{text}}"#);
        insta::assert_snapshot!(ops("timeout = \"10m\""), @r#"DIR/jobber.toml: notify.ops.timeout = "10m" is not allowed: it must be 1s to 5m"#);
        insta::assert_snapshot!(ops("queues = [\"a:b\"]"), @r#"DIR/jobber.toml: notify.ops.queues = "a:b" is not allowed: it must be 1 to 128 printable ASCII characters, none of them ':', and the first no '.'"#);
        insta::assert_snapshot!(ops("outcomes = [\"crash\"]"), @r#"DIR/jobber.toml: notify.ops.outcomes = "crash" is not allowed: it must be exit, signal, timeout, cancelled, oom, spawn_error or lost"#);
        insta::assert_snapshot!(ops("first = true"), @"DIR/jobber.toml: notify.ops: first belongs to category, which it is not told of");
        insta::assert_snapshot!(error("[[notify]]\nname = \"a\"\non = [\"failed\"]\ncommand = [\"page\"]\n"), @r#"DIR/jobber.toml: notify.a.command = "page" is not allowed: it must be an absolute path, whose last part has only letters, digits, '.', '_' and '-'"#);
        insta::assert_snapshot!(error("[[notify]]\nname = \"a\"\non = [\"failed\"]\ncommand = [\"/bin/true\"]\nsecret_env = \"A\"\n"), @"DIR/jobber.toml: notify.a: secret_env belongs to a url, not to a command");
        insta::assert_snapshot!(error("[[notify]]\nname = \"a\"\non = [\"unhealthy\"]\nurl = \"http://h/\"\ngroups = [\"g\"]\n"), @"DIR/jobber.toml: notify.a: groups belongs to failed, completed and category, which it is not told of");
    }
}
