//! The example file: every setting with its default, and what it does.

use super::settings::SETTINGS;

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
    text
}
