//! Whether this host can do what the sandboxes of its jobs say.

use super::Finding;
use crate::config::Config;
use crate::domain::{HostRulesByName, SandboxLevel, Unsupported};
use crate::runner::{SandboxSupport, check_sandboxes};

const CHECK: &str = "sandbox";

pub(super) fn check(config: &Config) -> Finding {
    match check_sandboxes(&config.host_rules, &config.secret_paths) {
        Ok(()) => judge(&config.host_rules, SandboxSupport::detect()),
        Err(error) => Finding::failed(CHECK, error, "correct the paths"),
    }
}

fn judge(rules: &HostRulesByName, support: SandboxSupport) -> Finding {
    if support.level() == SandboxLevel::Strict {
        return Finding::ok(CHECK, format!("basic and strict can be had (seccomp, Landlock {})", support.landlock));
    }
    let lacks = |level| format!("{level} lacks: {}", support.missing(level).join("; "));
    let found = format!("{}. {}", lacks(SandboxLevel::Basic), lacks(SandboxLevel::Strict));
    let asked: Vec<_> = rules.all().map(|rules| &rules.sandbox).filter(|asked| asked.level > support.level()).collect();
    if asked.iter().any(|sandbox| sandbox.unsupported == Unsupported::Refuse) {
        return Finding::failed(
            CHECK,
            format!("jobs with a sandbox can't be run here. {found}"),
            "use Linux 6.12 or newer with Landlock (lsm=landlock,...), and a container runtime whose seccomp profile \
             knows landlock_create_ruleset; or set sandbox_unsupported = \"best_effort\"",
        );
    }
    if !asked.is_empty() {
        return Finding::warning(
            CHECK,
            format!("jobs run in less than was asked for. {found}"),
            "use Linux 6.12 or newer",
        );
    }
    Finding::ok(CHECK, format!("no job asks for one. {found}"))
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::*;
    use crate::domain::{HostRules, Sandbox};

    #[test]
    fn what_a_host_can_not_do_is_a_failure_where_jobs_need_it() {
        let with = |level, unsupported| {
            let sandbox = Sandbox { level, unsupported, ..Sandbox::default() };
            let defaults = HostRules { sandbox, ..HostRules::default() };
            HostRulesByName { defaults: defaults.into(), ..HostRulesByName::default() }
        };
        let (new, old) = (SandboxSupport { filters: true, landlock: 7 }, SandboxSupport { filters: true, landlock: 4 });
        let status = |rules: &HostRulesByName, support| judge(rules, support).status;
        let refuse = with(SandboxLevel::Basic, Unsupported::Refuse);
        assert_eq!([status(&refuse, new), status(&refuse, old)], [Health::Ok, Health::Failed]);
        assert_eq!(status(&with(SandboxLevel::Strict, Unsupported::BestEffort), old), Health::Warning);
        let off = judge(&with(SandboxLevel::Off, Unsupported::Refuse), old);
        assert_eq!(off.status, Health::Ok);
        assert!(off.found.contains("strict lacks: signals and abstract sockets"), "{}", off.found);
    }
}
