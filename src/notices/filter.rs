//! Which notices a target wants.

use super::notice::{Notice, NoticeEvent, NoticeJob};
use crate::domain::{OutcomeKind, QueueName};

/// A name with wildcards: `*` for any text, `?` for one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Takes any text that is not empty.
    ///
    /// # Errors
    /// What is allowed, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a name, in which * stands for any text and ? for one character".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether the name is one of those that are meant.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        let (mut at, mut in_name) = (0, 0);
        // Where the last star is, and up to where of the name it reaches.
        let mut star: Option<(usize, usize)> = None;
        while in_name < name.len() {
            if pattern.get(at).is_some_and(|c| *c != '*' && (*c == '?' || *c == name[in_name])) {
                at += 1;
                in_name += 1;
            } else if pattern.get(at) == Some(&'*') {
                star = Some((at, in_name));
                at += 1;
            } else if let Some((star_at, reached)) = star {
                star = Some((star_at, reached + 1));
                at = star_at + 1;
                in_name = reached + 1;
            } else {
                return false;
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

/// The conditions of a target. All that are given must hold; one that is empty always does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoticeFilter {
    /// Names of jobs.
    pub jobs: Vec<Glob>,
    /// Queues of jobs.
    pub queues: Vec<QueueName>,
    /// Groups of jobs.
    pub groups: Vec<Glob>,
    /// How the last attempt ended.
    pub outcomes: Vec<OutcomeKind>,
    /// Categories of the error with which a job failed, by id; `uncategorised` for errors near to none.
    pub categories: Vec<String>,
    /// Of `category`: only the first failure of each category.
    pub first: bool,
}

impl NoticeFilter {
    /// Whether the target wants to be told of this end of a job, as far as that is known before its category.
    pub(super) fn takes_job(&self, event: NoticeEvent, job: &NoticeJob) -> bool {
        let outcome = job.outcome.map(|outcome| outcome.kind());
        // A caller who cancels a job knows of it.
        let is_wanted = match (event, outcome) {
            (NoticeEvent::Failed | NoticeEvent::Category, Some(OutcomeKind::Cancelled)) => {
                self.outcomes.contains(&OutcomeKind::Cancelled)
            }
            _ => true,
        };
        is_wanted
            && self.takes_name(job.name.as_str())
            && (self.queues.is_empty() || self.queues.contains(&job.queue))
            && (self.groups.is_empty()
                || job.group.as_ref().is_some_and(|group| self.groups.iter().any(|glob| glob.matches(group.as_str()))))
            && (self.outcomes.is_empty() || outcome.is_some_and(|outcome| self.outcomes.contains(&outcome)))
    }

    /// Whether the target wants to be told of jobs of this name.
    pub(super) fn takes_name(&self, name: &str) -> bool {
        self.jobs.is_empty() || self.jobs.iter().any(|glob| glob.matches(name))
    }

    /// Whether only the category of its error decides if the notice is wanted.
    pub(super) fn needs_category(&self, notice: &Notice) -> bool {
        notice.job.as_ref().is_some_and(|job| job.fingerprint.is_some())
            && (notice.event == NoticeEvent::Category || !self.categories.is_empty())
    }

    /// Whether the target wants the notice, whose category is known by now. `None` is an error near to no category.
    pub(super) fn takes_category(&self, event: NoticeEvent, category: Option<&str>) -> bool {
        match category {
            Some(category) => self.categories.is_empty() || self.categories.iter().any(|wanted| wanted == category),
            None => {
                let names_none = self.categories.iter().any(|wanted| wanted == crate::domain::UNCATEGORISED);
                names_none || self.categories.is_empty() && event != NoticeEvent::Category
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::notice::tests::failed_job;
    use super::*;
    use crate::domain::Outcome;

    #[test]
    fn a_glob_matches_whole_names() {
        for (pattern, name, expected) in [
            ("resize", "resize", true),
            ("resize", "resizer", false),
            ("re*", "resize", true),
            ("*size", "resize", true),
            ("*s*z*", "resize", true),
            ("*s*s*", "resize", false),
            ("resiz?", "resize", true),
            ("resize?", "resize", false),
            ("*", "", true),
            ("**a", "bca", true),
            ("a*b*c", "aXbYbZc", true),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
        assert!(Glob::parse("").is_err() && Glob::parse("a b").is_err());
    }

    #[test]
    fn all_conditions_must_hold() {
        let job = failed_job();
        let takes = |filter: &NoticeFilter| filter.takes_job(NoticeEvent::Failed, &job);
        assert!(takes(&NoticeFilter::default()));
        let glob = |text| vec![Glob::parse(text).unwrap()];
        let named = NoticeFilter { jobs: glob("re*"), groups: glob("batch-*"), ..NoticeFilter::default() };
        assert!(takes(&named));
        assert!(!takes(&NoticeFilter { groups: glob("other"), ..named.clone() }));
        assert!(!takes(&NoticeFilter { queues: vec![QueueName::parse("gpu").unwrap()], ..named.clone() }));
        assert!(!takes(&NoticeFilter { outcomes: vec![OutcomeKind::Timeout], ..named.clone() }));
        assert!(takes(&NoticeFilter { outcomes: vec![OutcomeKind::Timeout, OutcomeKind::Exit], ..named }));
    }

    #[test]
    fn a_cancelled_job_has_failed_only_for_those_who_ask_for_it() {
        let job = NoticeJob { outcome: Some(Outcome::Cancelled), ..failed_job() };
        assert!(!NoticeFilter::default().takes_job(NoticeEvent::Failed, &job));
        let asked = NoticeFilter { outcomes: vec![OutcomeKind::Cancelled], ..NoticeFilter::default() };
        assert!(asked.takes_job(NoticeEvent::Failed, &job));
    }

    #[test]
    fn a_category_is_asked_for_by_its_id_and_none_by_its_own_word() {
        let of = |categories: &[&str]| NoticeFilter {
            categories: categories.iter().map(|c| (*c).to_owned()).collect(),
            ..NoticeFilter::default()
        };
        let (failed, category) = (NoticeEvent::Failed, NoticeEvent::Category);
        assert!(of(&[]).takes_category(failed, None) && !of(&[]).takes_category(category, None));
        assert!(of(&[]).takes_category(category, Some("disk-full")));
        assert!(of(&["disk-full"]).takes_category(failed, Some("disk-full")));
        assert!(!of(&["disk-full"]).takes_category(failed, Some("timeout")));
        assert!(!of(&["disk-full"]).takes_category(failed, None));
        assert!(of(&["uncategorised"]).takes_category(category, None));
    }
}
