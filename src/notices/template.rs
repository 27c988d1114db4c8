//! What is sent in place of a notice's own JSON: the messages of Slack and Matrix, or a text with fields.

use serde_json::json;

use super::notice::Notice;

/// What a target is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// A message for an incoming webhook of Slack, or of what speaks its language (Mattermost, Rocket.Chat).
    Slack,
    /// The event of a message in a Matrix room.
    Matrix,
    /// A text with fields in double braces.
    Text {
        /// The text between fields, and the fields.
        parts: Vec<Part>,
        /// The media type of the result. In JSON, fields are written as the inside of a string.
        content_type: String,
    },
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// A field of the notice.
    Field(&'static str),
}

/// Why a template can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It names a field that there is not.
    #[error("there is no field {{{{{0}}}}}: there are {fields}", fields = FIELDS.join(", "))]
    Unknown(String),
    /// A field has no end.
    #[error("a field begins with {{{{ and has no }}}}")]
    Unended,
    /// Its media type is JSON and what it makes is none.
    #[error("it makes no JSON ({0}): put fields into quotes, or set content_type = \"text/plain\"")]
    NoJson(String),
}

/// The fields of a template. `notice` is all of the notice as JSON, and is not put into quotes.
const FIELDS: [&str; 22] = [
    "text", "event", "id", "at", "target", "job_id", "job_name", "queue", "group", "state", "outcome", "error",
    "category", "attempts", "worker", "host", "build", "part", "healthy", "problem", "server", "notice",
];

impl Template {
    /// Reads a text with fields. `sample` is what it is tried with.
    ///
    /// # Errors
    /// When it names no field, or makes no JSON although it says so.
    pub fn parse(text: &str, content_type: &str, sample: &Notice) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or(TemplateError::Unended)?;
            let name = name.trim();
            let field = FIELDS.iter().find(|field| **field == name);
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Field(field.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let template = Template::Text { parts, content_type: content_type.to_owned() };
        if is_json(content_type) {
            let made = template.render(sample);
            serde_json::from_slice::<serde_json::Value>(&made).map_err(|e| TemplateError::NoJson(e.to_string()))?;
        }
        Ok(template)
    }

    /// The media type of what it makes.
    pub fn content_type(&self) -> &str {
        match self {
            Template::Slack | Template::Matrix => "application/json",
            Template::Text { content_type, .. } => content_type,
        }
    }

    /// What is sent of a notice.
    pub fn render(&self, notice: &Notice) -> Vec<u8> {
        match self {
            Template::Slack => json!({"text": for_slack(&notice.text)}).to_string().into_bytes(),
            Template::Matrix => json!({"msgtype": "m.notice", "body": notice.text}).to_string().into_bytes(),
            Template::Text { parts, content_type } => {
                let mut made = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => made.push_str(text),
                        Part::Field(name) => made.push_str(&written(name, notice, is_json(content_type))),
                    }
                }
                made.into_bytes()
            }
        }
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence == "application/json" || essence.ends_with("+json")
}

/// Escapes what Slack would take for a link, a mention or an entity.
fn for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A field as it stands in what is sent.
fn written(name: &str, notice: &Notice, in_json: bool) -> String {
    let value = field(name, notice);
    if !in_json || name == "notice" {
        return value;
    }
    let quoted = serde_json::to_string(&value).expect("a string is JSON");
    quoted[1..quoted.len() - 1].to_owned()
}

/// The value of a field; empty where the notice has none.
fn field(name: &str, notice: &Notice) -> String {
    let (job, health) = (notice.job.as_ref(), notice.health.as_ref());
    let of_regression = notice.regression.as_ref();
    let value = match name {
        "text" => Some(notice.text.clone()),
        "event" => Some(notice.event.as_str().to_owned()),
        "id" => Some(notice.id.clone()),
        "at" => Some(notice.at.to_string()),
        "target" => Some(notice.target.clone()),
        "job_id" => job.map(|job| job.id.to_string()),
        "job_name" => job.map(|job| job.name.to_string()).or_else(|| of_regression.map(|r| r.name.to_string())),
        "queue" => job.map(|job| job.queue.to_string()),
        "group" => job.and_then(|job| job.group.as_ref()).map(ToString::to_string),
        "state" => job.map(|job| job.state.to_string()),
        "outcome" => job.and_then(|job| job.outcome).map(|outcome| outcome.to_string()),
        "error" => job.and_then(|job| job.error.clone()),
        "category" => job.and_then(|job| job.category.clone()),
        "attempts" => job.map(|job| job.attempts.to_string()),
        "worker" => job.and_then(|job| job.worker.as_ref()).map(ToString::to_string),
        "host" => job.and_then(|job| job.host.clone()),
        "build" => job.and_then(|job| job.build.as_ref()).or(of_regression.map(|r| &r.build)).map(ToString::to_string),
        "part" => health.map(|turn| turn.part.clone()),
        "healthy" => health.map(|turn| turn.healthy.to_string()),
        "problem" => health.map(|turn| turn.problem.clone()),
        "server" => health.map(|turn| turn.server.clone()),
        "notice" => serde_json::to_string(notice).ok(),
        _ => None,
    };
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::notice::tests::failed;
    use super::*;

    fn render(template: &Template) -> String {
        String::from_utf8(template.render(&failed())).unwrap()
    }

    #[test]
    fn slack_and_matrix_get_their_own_messages() {
        insta::assert_snapshot!(render(&Template::Slack), @r#"{"text":"resize has failed [file-not-found] after 2 attempts, exit 3 (job j1): can't open \"in.png\" &amp; co"}"#);
        insta::assert_snapshot!(render(&Template::Matrix), @r#"{"msgtype":"m.notice","body":"resize has failed [file-not-found] after 2 attempts, exit 3 (job j1): can't open \"in.png\" & co"}"#);
    }

    #[test]
    fn a_text_has_fields_which_are_escaped_in_json() {
        let parse = |text: &str, content_type: &str| Template::parse(text, content_type, &failed()).unwrap();
        let json = parse(r#"{"title": "{{ job_name }} {{outcome}}", "why": "{{error}}"}"#, "application/json");
        insta::assert_snapshot!(render(&json), @r#"{"title": "resize exit 3", "why": "can't open \"in.png\" & co\nmore"}"#);
        let plain = parse("{{category}} in {{queue}}/{{group}}, {{part}} {x}", "text/plain; charset=utf-8");
        insta::assert_snapshot!(render(&plain), @"file-not-found in jobs/batch-7,  {x}");
        let wrapped: serde_json::Value =
            serde_json::from_str(&render(&parse(r#"{"it": {{notice}}}"#, "application/json"))).unwrap();
        assert_eq!(wrapped["it"]["job"]["id"], "j1");
    }

    #[test]
    fn mistakes_in_a_template_are_named() {
        let error = |text: &str| Template::parse(text, "application/json", &failed()).unwrap_err().to_string();
        insta::assert_snapshot!(error("{{jobname}}"), @"there is no field {{jobname}}: there are text, event, id, at, target, job_id, job_name, queue, group, state, outcome, error, category, attempts, worker, host, build, part, healthy, problem, server, notice");
        insta::assert_snapshot!(error("{\"a\": \"{{text\"}"), @"a field begins with {{ and has no }}");
        insta::assert_snapshot!(error("{\"a\": {{text}}}"), @r#"it makes no JSON (expected value at line 1 column 7): put fields into quotes, or set content_type = "text/plain""#);
    }

    #[test]
    fn every_field_is_known_to_the_notice() {
        let made = |name: &str| field(name, &failed());
        let of_health = ["part", "healthy", "problem", "server"];
        for name in FIELDS {
            assert_eq!(made(name).is_empty(), of_health.contains(&name), "{name}");
        }
    }
}
