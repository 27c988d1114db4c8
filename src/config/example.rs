//! The example file: every setting with its default, and what it does.

use super::settings::SETTINGS;

/// What the example says of notices.
const NOTIFY: &str = r#"
# Whom to tell of what happens: one section for each target, see docs/operations/notices.md.
# [[notify]]
# name = "ops"                                   # letters, digits, '.', '_' and '-'
# on = ["failed", "category", "regression", "unhealthy", "completed"]
# url = "https://hooks.example/jobber"           # a webhook; or:
# command = ["/usr/local/bin/tell", "--ops"]     # a program, which gets the notice on its standard input
# enabled = true
#
# Of these, which (all conditions must hold; * and ? in names of jobs and groups):
# jobs = ["resize", "render-*"]
# queues = ["gpu"]
# groups = ["nightly-*"]
# outcomes = ["timeout", "oom"]                  # exit, signal, timeout, cancelled, oom, spawn_error, lost
# categories = ["timeout"]                       # by id, see `jobber category ls`; "uncategorised" for none
# first = false                                  # of `category`: only the first failure of each category
#
# A webhook is signed with the secret, and gets the token as `Authorization: Bearer`:
# secret_file = "/etc/jobber/hook.secret"        # or secret_env = "HOOK_SECRET"
# token_file = "/etc/jobber/matrix.token"        # or token_env = "MATRIX_TOKEN"
# template = "slack"                             # or "matrix", or a text of your own: '{"title": "{{text}}"}'
# template_file = "/etc/jobber/hook.template"
# content_type = "application/json"              # of a template of your own
# method = "post"                                # or "put", under the notice's id
#
# A command's memory:
# memory = "256MiB"
#
# One try, how long tries go on, how many wait, how many that were given up are kept:
# timeout = "10s"
# give_up_after = "24h"
# queue_limit = 10000
# dead_limit = 1000
"#;

/// The text of `config.example.toml`.
pub fn example() -> String {
    let mut text = String::from(
        "# Every setting of Jobber with its default. A setting is looked for in this order, the last found wins:\n\
         # built-in default, this file (--config FILE, or JOBBER_CONFIG, or ./jobber.toml), environment, command line.\n\
         # A line that begins with `#` and holds a setting without a default is unset.\n",
    );
    let mut section = "";
    for setting in SETTINGS.iter() {
        let (its, key) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if its != section {
            text.push_str(&format!("\n[{its}]\n"));
            section = its;
        } else {
            text.push('\n');
        }
        for line in setting.help.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        if !setting.variables.is_empty() {
            text.push_str(&format!("# Variable: {}\n", setting.variables.join(", ")));
        }
        if setting.default.is_empty() {
            text.push_str(&format!("# {key} =\n"));
        } else {
            text.push_str(&format!("{key} = {}\n", setting.default));
        }
    }
    text.push_str(
        "\n# The same keys as in [defaults], for one job name.\n\
         # [jobs.mandelbrot]\n\
         # timeout = \"10m\"\n\
         # cores = 2\n\
         # no_retry_exit_codes = [2, 3]\n\
         # sandbox = \"strict\"\n\
         # sandbox_read = [\"/srv/fractals\"]\n\
         \n# What follows on failures of a category (by id, see `jobber category ls`), when it is known in time: no other\n\
         # attempt, another wait, or so many times the time and memory for the next attempt.\n\
         # [policies.null-pointer-exception]\n\
         # retry = false\n\
         # [policies.timeout]\n\
         # backoff = \"fixed\"\n\
         # backoff_delay = \"1m\"\n\
         # timeout_factor = 2.0\n\
         # memory_factor = 1.0\n",
    );
    text.push_str(NOTIFY);
    text
}
