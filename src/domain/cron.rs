//! Computes the next time of a cron expression in a time zone.
//!
//! Matching is croner's, on the time that clocks on the wall show. What is ours is the way from there to moments, where
//! clocks are put forward or back. The rule is that of Debian's (Vixie's) cron: a job at *fixed* times, whose fields of
//! second, minute and hour hold no `*`, runs once when the gap ends if its time falls into one, and once, at the first
//! coming, if its time comes twice. A *repeating* one goes by real time: what does not exist is passed over, and both
//! hours count.
//!
//! What other programs that share a queue take for an expression is read too ([`normal`]): cron-parser, BullMQ's own, has
//! steps from a start (`5/10`), `?` in every field, fewer fields, and aliases of its own.

use chrono::{DateTime, Duration as Span, FixedOffset, MappedLocalTime, NaiveDateTime, TimeZone, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::Timestamp;

/// A time zone: an IANA name, or a fixed offset as `UTC+5:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Named(chrono_tz::Tz),
    Fixed(FixedOffset),
}

/// An expression and a zone that can be read.
#[derive(Debug, Clone)]
pub struct CronTimes {
    cron: Cron,
    /// The expression as every program that shares a queue reads it.
    expression: String,
    zone: Zone,
    is_fixed: bool,
}

/// What an expression's field may hold: its least and greatest value.
const FIELDS: [(u32, u32); 6] = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];

/// Aliases, as cron-parser and other crons have them.
const ALIASES: [(&str, &str); 11] = [
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
    ("@monthly", "0 0 0 1 * *"),
    ("@weekly", "0 0 0 * * 0"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@hourly", "0 0 * * * *"),
    ("@minutely", "0 * * * * *"),
    ("@secondly", "* * * * * *"),
    ("@weekdays", "0 0 0 * * 1-5"),
    ("@weekends", "0 0 0 * * 0,6"),
];

impl CronTimes {
    /// Reads both.
    ///
    /// # Errors
    /// What is wrong with the expression, for people.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{expression:?} is not a cron expression such as \"30 4 * * mon-fri\": {why}");
        let zone = parse_zone(zone).ok_or_else(|| unknown_zone(zone))?;
        let expression = normal(expression).map_err(|why| wrong(&why))?;
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(&expression).map_err(|e| wrong(&e.to_string()))?;
        let times = expression.split(' ').rev().skip(3);
        let is_fixed = !times.into_iter().any(|field| field.contains('*'));
        Ok(Self { cron, expression, zone, is_fixed })
    }

    /// The expression in the form that every cron reads alike.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The zone by the name that every program knows.
    pub fn zone(&self) -> String {
        match self.zone {
            Zone::Named(zone) => zone.name().to_owned(),
            Zone::Fixed(offset) => match offset.local_minus_utc() {
                0 => "UTC".to_owned(),
                // Named after what is to be added to local time: the other sign.
                s if s % 3600 == 0 && (-14..=12).contains(&(-s / 3600)) => format!("Etc/GMT{:+}", -s / 3600),
                s => {
                    let sign = if s < 0 { '-' } else { '+' };
                    format!("UTC{sign}{}:{:02}", s.abs() / 3600, s.abs() / 60 % 60)
                }
            },
        }
    }

    /// The first time after this one; `None` when none comes.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = Utc.timestamp_millis_opt(after.as_millis()).single()?;
        let next = match self.zone {
            Zone::Named(zone) => self.next_in(&zone, after)?,
            Zone::Fixed(offset) => self.next_in(&offset, after)?,
        };
        Some(Timestamp::from_millis(next.timestamp_millis()))
    }

    fn next_in<Z: TimeZone>(&self, zone: &Z, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.is_fixed { self.next_fixed(zone, after) } else { self.next_repeating(zone, after) }
    }

    /// The first time on the wall that matches: behind `wall`, or at it.
    fn on_the_wall(&self, wall: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        self.cron.find_next_occurrence(&wall.and_utc(), inclusive).ok().map(|found| found.naive_utc())
    }

    fn next_fixed<Z: TimeZone>(&self, zone: &Z, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut wall = wall_of(zone, after);
        loop {
            wall = self.on_the_wall(wall, false)?;
            let moment = match zone.from_local_datetime(&wall) {
                MappedLocalTime::Single(moment) => moment.to_utc(),
                MappedLocalTime::Ambiguous(first, second) => first.to_utc().min(second.to_utc()),
                MappedLocalTime::None => end_of_gap(zone, wall)?.1,
            };
            // Else it was due before: the first coming of a time that comes again.
            if moment > after {
                return Some(moment);
            }
        }
    }

    fn next_repeating<Z: TimeZone>(&self, zone: &Z, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let wall = wall_of(zone, after);
        let back = put_back_after(zone, after, wall);
        let mut found = self.on_the_wall(wall, false)?;
        if let Some(back) = back {
            // In the first of two hours that look the same: what does not come before clocks are put back is sought from
            // there on.
            let first = zone.from_local_datetime(&found).earliest().map(|moment| moment.to_utc());
            if first.is_some_and(|first| first > after && first < back) {
                return first;
            }
            found = self.on_the_wall(wall_of(zone, back), true)?;
        }
        let least = back.map_or(after, |back| back - Span::milliseconds(1));
        loop {
            let (one, two) = match zone.from_local_datetime(&found) {
                MappedLocalTime::Single(moment) => (Some(moment.to_utc()), None),
                MappedLocalTime::Ambiguous(one, two) => (Some(one.to_utc()), Some(two.to_utc())),
                MappedLocalTime::None => (None, None),
            };
            if let Some(moment) = one.into_iter().chain(two).filter(|moment| *moment > least).min() {
                return Some(moment);
            }
            found = match (one, end_of_gap(zone, found)) {
                (None, Some((wall, _))) => self.on_the_wall(wall, true)?,
                _ => self.on_the_wall(found, false)?,
            };
        }
    }
}

fn wall_of<Z: TimeZone>(zone: &Z, moment: DateTime<Utc>) -> NaiveDateTime {
    zone.from_utc_datetime(&moment.naive_utc()).naive_local()
}

/// Where clocks go on that skip this time: what they show, and the moment.
fn end_of_gap<Z: TimeZone>(zone: &Z, wall: NaiveDateTime) -> Option<(NaiveDateTime, DateTime<Utc>)> {
    /// Some islands have skipped a whole day.
    const LONGEST: i64 = 26 * 60;
    let minute = Span::minutes(1);
    let seconds = wall.and_utc().timestamp().rem_euclid(60);
    let begin = wall - Span::seconds(seconds);
    let mut after = (1..=LONGEST).map(|n| begin + minute * i32::try_from(n).unwrap_or(i32::MAX));
    let exists = |wall: &NaiveDateTime| zone.from_local_datetime(wall).earliest().map(|moment| moment.to_utc());
    let (mut wall, mut moment) = after.find_map(|wall| Some((wall, exists(&wall)?)))?;
    // Local mean times of old ended between two minutes.
    while let Some(earlier) = exists(&(wall - Span::seconds(1))) {
        wall -= Span::seconds(1);
        moment = earlier;
    }
    Some((wall, moment))
}

/// When clocks will be put back, if `after` lies in the first of the two hours that then look the same.
fn put_back_after<Z: TimeZone>(zone: &Z, after: DateTime<Utc>, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    let MappedLocalTime::Ambiguous(one, two) = zone.from_local_datetime(&wall) else { return None };
    let (one, two) = (one.to_utc().min(two.to_utc()), one.to_utc().max(two.to_utc()));
    if after >= two {
        return None;
    }
    // Within this, what is shown goes back once.
    let (mut before, mut behind) = (0, (two - one).num_seconds());
    let shown = |seconds: i64| wall_of(zone, after + Span::seconds(seconds)) - (wall + Span::seconds(seconds));
    while behind - before > 1 {
        let middle = before.midpoint(behind);
        if shown(middle).is_zero() { before = middle } else { behind = middle }
    }
    let second = after + Span::seconds(behind);
    Some(second - Span::milliseconds(second.timestamp_millis().rem_euclid(1000)))
}

/// Reads a zone: an IANA name however it is written, `utc`, or an offset as `UTC+3` or `+05:30`.
fn parse_zone(text: &str) -> Option<Zone> {
    let text = text.trim();
    if let Ok(zone) = text.parse() {
        return Some(Zone::Named(zone));
    }
    let offset = text.strip_prefix(['u', 'U']).and_then(|rest| rest.strip_prefix(['t', 'T'])?.strip_prefix(['c', 'C']));
    if let Some(offset) = fixed_offset(offset.unwrap_or(text)) {
        return Some(Zone::Fixed(offset));
    }
    chrono_tz::TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(text)).map(|zone| Zone::Named(*zone))
}

fn fixed_offset(text: &str) -> Option<FixedOffset> {
    let (sign, digits) = match text.strip_prefix('+') {
        Some(digits) => (1, digits),
        None => (-1, text.strip_prefix('-')?),
    };
    let (hours, minutes) = digits.split_once(':').unwrap_or((digits, "0"));
    let number = |text: &str| (1..=2).contains(&text.len()).then(|| text.parse::<i32>().ok()).flatten();
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60).then(|| FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))).flatten()
}

/// What is wrong with a zone, for people.
pub(super) fn unknown_zone(zone: &str) -> String {
    format!("{zone:?} is not a time zone; write it like Europe/Berlin or UTC")
}

/// Whether there is such a zone.
pub(super) fn is_zone(zone: &str) -> bool {
    parse_zone(zone).is_some()
}

/// An expression in the form that every cron reads alike: as many fields, in one writing.
fn normal(expression: &str) -> Result<String, String> {
    let expression = expression.trim();
    if expression.starts_with('@') {
        let alias = ALIASES.iter().find(|(name, _)| name.eq_ignore_ascii_case(expression));
        return alias.map(|(_, fields)| (*fields).to_owned()).ok_or_else(|| "there is no such name".to_owned());
    }
    let given: Vec<_> = expression.split_whitespace().collect();
    if !(1..=6).contains(&given.len()) {
        return Err(format!("it has {} fields, not five, or six with seconds in front", given.len()));
    }
    // What is left out stands in front: a second, then what comes every time.
    let missing = ["0", "*", "*", "*", "*", "*"].into_iter().take(6 - given.len());
    let fields: Vec<_> = missing.chain(given.iter().copied()).zip(FIELDS).map(|(text, of)| field(text, of)).collect();
    // Five fields stay five: so do all write them.
    let skip = usize::from(given.len() == 5);
    Ok(fields[skip..].join(" "))
}

fn field(text: &str, (_, greatest): (u32, u32)) -> String {
    let parts = text.split(',').map(|part| {
        let part = part.replace('?', "*");
        let Some((range, step)) = part.split_once('/') else { return part };
        let Ok(step) = step.parse::<u32>() else { return part };
        let number = |text: &str| text.parse::<u32>().ok();
        // A step from a start goes on to the end.
        let range = if number(range).is_some() { format!("{range}-{greatest}") } else { range.to_owned() };
        match range.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?))) {
            // Only the first is hit, and some crons refuse to say so by a step.
            Some((first, last)) if step > 0 && first <= last && step > last - first => first.to_string(),
            _ => format!("{range}/{step}"),
        }
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn times(expression: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let cron = CronTimes::parse(expression, zone).unwrap();
        let times = std::iter::successors(cron.next_after(at(from)), |last| cron.next_after(*last));
        times.take(n).map(|time| time.to_string().replace(":00.000Z", "Z")).collect()
    }

    #[test]
    fn lists_of_fixed_times_are_fixed_times() {
        // 2027-03-28: 02:00 becomes 03:00 in Berlin, at 01:00 UTC.
        assert_eq!(
            times("30 2,14 28 3 *", "Europe/Berlin", "2027-03-27T00:00:00Z", 3),
            ["2027-03-28T01:00Z", "2027-03-28T12:30Z", "2028-03-28T00:30Z"]
        );
        assert_eq!(
            times("0,15,30 2-3 28 3 *", "Europe/Berlin", "2027-03-27T00:00:00Z", 4),
            ["2027-03-28T01:00Z", "2027-03-28T01:15Z", "2027-03-28T01:30Z", "2028-03-28T00:00Z"],
            "what falls into the gap runs once, and not beside what is due at its end"
        );
        // 2027-10-31: 03:00 becomes 02:00 in Berlin, at 01:00 UTC.
        assert_eq!(
            times("0,30 2 31 10 *", "Europe/Berlin", "2027-10-30T12:00:00Z", 3),
            ["2027-10-31T00:00Z", "2027-10-31T00:30Z", "2028-10-31T01:00Z"]
        );
        assert_eq!(
            times("15 1,2,3 31 10 *", "Europe/Berlin", "2027-10-30T12:00:00Z", 4),
            ["2027-10-30T23:15Z", "2027-10-31T00:15Z", "2027-10-31T02:15Z", "2028-10-31T00:15Z"]
        );
        // Half an hour, on an island.
        assert_eq!(
            times("0,45 1,2 * * *", "Australia/Lord_Howe", "2026-10-03T14:00:00Z", 4),
            ["2026-10-03T14:30Z", "2026-10-03T15:15Z", "2026-10-03T15:30Z", "2026-10-03T15:45Z"]
        );
    }

    #[test]
    fn what_repeats_goes_by_real_time() {
        assert_eq!(
            times("*/20 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", 2),
            ["2027-03-29T00:00Z", "2027-03-29T00:20Z"],
            "an hour that does not exist is passed over"
        );
        assert_eq!(
            times("*/30 2 31 10 *", "Europe/Berlin", "2027-10-30T12:00:00Z", 5),
            ["2027-10-31T00:00Z", "2027-10-31T00:30Z", "2027-10-31T01:00Z", "2027-10-31T01:30Z", "2028-10-31T01:00Z"]
        );
        assert_eq!(
            times("45 * * * *", "Europe/Berlin", "2027-10-31T00:00:00Z", 3),
            ["2027-10-31T00:45Z", "2027-10-31T01:45Z", "2027-10-31T02:45Z"]
        );
        assert_eq!(
            times("5 */3 * * *", "Europe/Berlin", "2027-10-31T00:30:00Z", 2),
            ["2027-10-31T02:05Z", "2027-10-31T05:05Z"]
        );
    }

    #[test]
    fn what_cron_parser_reads_is_read() {
        let normal = |expression: &str| CronTimes::parse(expression, "utc").unwrap().expression().to_owned();
        assert_eq!(normal("0/3 * * * * *"), "0-59/3 * * * * *");
        assert_eq!(normal("5/90 1/2 ? * ?"), "5 1-23/2 * * *");
        assert_eq!(normal(" */5\t* * * mon-SUN "), "*/5 * * * mon-SUN");
        assert_eq!(normal("1/2,30 * * * 5-7"), "1-59/2,30 * * * 5-7");
        assert_eq!(normal("@Weekdays"), "0 0 0 * * 1-5");
        assert_eq!(normal("4 1 * *"), "0 * 4 1 * *");
        assert_eq!(normal("0 0 L * *"), "0 0 L * *");
        assert_eq!(normal("0 0 * * 5#3"), "0 0 * * 5#3");
        assert!(CronTimes::parse("@reboot", "UTC").is_err());
        assert!(CronTimes::parse("H * * * *", "UTC").is_err());
        // 7 is Sunday, in ranges too: the 29th of November 2026 is one.
        assert_eq!(times("0 0 * * 7", "UTC", "2026-11-24T08:00:00Z", 1), ["2026-11-29T00:00Z"]);
        assert_eq!(times("0 0 * * 6-7", "UTC", "2026-11-24T08:00:00Z", 2), ["2026-11-28T00:00Z", "2026-11-29T00:00Z"]);
        assert_eq!(times("0 0 * * 5L", "UTC", "2026-11-24T08:00:00Z", 1), ["2026-11-27T00:00Z"]);
    }

    #[test]
    fn zones_are_known_however_they_are_written() {
        let zone = |zone: &str| CronTimes::parse("* * * * *", zone).map(|cron| cron.zone());
        for (text, name) in [
            ("utc", "UTC"),
            ("europe/berlin", "Europe/Berlin"),
            ("EST5EDT", "EST5EDT"),
            ("UTC+3", "Etc/GMT-3"),
            ("utc-05:00", "Etc/GMT+5"),
            ("+05:30", "UTC+5:30"),
            ("UTC+5:30", "UTC+5:30"),
            ("gmt", "GMT"),
        ] {
            assert_eq!(zone(text).as_deref(), Ok(name), "{text}");
        }
        for bad in ["", "Mars/Olympus", "UTC+99", "+1:75", "UTC3"] {
            assert!(zone(bad).is_err(), "{bad}");
        }
        assert_eq!(times("30 12 * * *", "utc+5:30", "2026-11-24T08:00:00Z", 1), ["2026-11-25T07:00Z"]);
    }

    /// Second by second, as a cron that never sleeps would see it.
    fn by_hand(cron: &CronTimes, zone: chrono_tz::Tz, from: i64, until: i64) -> Vec<i64> {
        let offset = |s: i64| wall_of(&zone, Utc.timestamp_opt(s, 0).unwrap()).and_utc().timestamp() - s;
        let matches = |wall: i64| cron.cron.is_time_matching(&Utc.timestamp_opt(wall, 0).unwrap()).unwrap();
        let mut due = Vec::new();
        let mut seen = from + offset(from);
        for s in from + 1..until {
            let wall = s + offset(s);
            let is_due = if cron.is_fixed {
                // Whatever clocks have newly shown or jumped over.
                let due = (seen + 1..=wall).any(matches);
                seen = seen.max(wall);
                due
            } else {
                matches(wall)
            };
            if is_due {
                due.push(s);
            }
        }
        due
    }

    fn a_field(least: u32, most: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            2 => Just("*".to_owned()),
            3 => prop::collection::btree_set(least..=most, 1..4)
                .prop_map(|set| set.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
            1 => (2u32..30).prop_map(|n| format!("*/{n}")),
            1 => (least..=most, 2u32..30).prop_map(|(start, n)| format!("{start}/{n}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_time_is_the_one_that_somebody_sees_who_watches_the_clock(
            minute in a_field(0, 59),
            hour in a_field(0, 4),
            place in prop_oneof![
                Just((chrono_tz::Europe::Berlin, "2027-03-27T23:00:00Z")),
                Just((chrono_tz::Europe::Berlin, "2027-10-30T22:30:00Z")),
                Just((chrono_tz::Australia::Lord_Howe, "2027-04-03T13:30:00Z")),
                Just((chrono_tz::Australia::Lord_Howe, "2027-10-02T14:00:00Z")),
                Just((chrono_tz::America::New_York, "2027-11-07T04:30:00Z")),
            ],
            skip in 0i64..3600,
        ) {
            let (zone, from) = place;
            let cron = CronTimes::parse(&format!("{minute} {hour} * * *"), zone.name()).unwrap();
            let from = at(from).as_millis() / 1000 + skip;
            let until = from + 5 * 3600;
            let mut found = Vec::new();
            let mut last = Timestamp::from_millis(from * 1000);
            while let Some(next) = cron.next_after(last) {
                prop_assert!(next > last);
                if next.as_millis() / 1000 >= until {
                    break;
                }
                found.push(next.as_millis() / 1000);
                last = next;
            }
            prop_assert_eq!(found, by_hand(&cron, zone, from, until), "{} {}", minute, hour);
        }
    }
}
