//! Time: the only file that reads the wall clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Datelike};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::deserialize_text;

/// The longest duration that Jobber takes: ten years.
pub const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A moment, in milliseconds since 1970-01-01T00:00:00Z. Written as RFC 3339 in JSON (`2026-11-24T08:00:00.000Z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-24T03:38:51.604Z")]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The moment `ms` milliseconds after the epoch, held within the years that RFC 3339 can write.
    pub fn from_millis(ms: i64) -> Self {
        const YEAR_9999: i64 = 253_370_764_800_000;
        Self(ms.clamp(0, YEAR_9999))
    }

    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The UTC day that this moment falls on.
    pub fn day(self) -> Day {
        Day(i32::try_from(self.0.div_euclid(86_400_000)).expect("the range of a timestamp fits"))
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// Reads RFC 3339 (`2026-11-24T08:00:00Z`, any offset), also without seconds.
    ///
    /// # Errors
    /// A message for people when the text is no such time.
    pub fn parse(text: &str) -> Result<Self, String> {
        const TO_THE_MINUTE: &str = "%Y-%m-%dT%H:%M%#z";
        DateTime::parse_from_rfc3339(text)
            .or_else(|_| DateTime::parse_from_str(text, TO_THE_MINUTE))
            .map(|moment| Self::from_millis(moment.timestamp_millis()))
            .map_err(|_| format!("{text:?} is not an RFC 3339 time such as 2026-11-24T08:00:00Z"))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, by: Duration) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, by: Duration) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = DateTime::from_timestamp_millis(self.0).ok_or(fmt::Error)?.date_naive();
        let (seconds, ms) = (self.0.rem_euclid(86_400_000) / 1000, self.0.rem_euclid(1000));
        // Twenty times for each job: the calendar is chrono's, but not the writing, which takes several times as long.
        let parts = [
            (0..4, i64::from(date.year())),
            (5..7, i64::from(date.month())),
            (8..10, i64::from(date.day())),
            (11..13, seconds / 3600),
            (14..16, seconds / 60 % 60),
            (17..19, seconds % 60),
            (20..23, ms),
        ];
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (place, mut number) in parts {
            for digit in text[place].iter_mut().rev() {
                *digit = b"0123456789"[usize::try_from(number % 10).unwrap_or(0)];
                number /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, Timestamp::parse)
    }
}

/// A UTC day. Written `2026-11-24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = Date, example = "2026-11-24")]
pub struct Day(i32);

impl Day {
    /// The day's first moment.
    pub fn start(self) -> Timestamp {
        Timestamp::from_millis(i64::from(self.0) * 86_400_000)
    }

    /// The day after.
    pub fn next(self) -> Self {
        Day(self.0.saturating_add(1))
    }

    /// Reads `2026-11-24`.
    ///
    /// # Errors
    /// A message for people when the text is no such day.
    pub fn parse(text: &str) -> Result<Self, String> {
        Timestamp::parse(&format!("{text}T00:00:00Z"))
            .map(Timestamp::day)
            .map_err(|_| format!("{text:?} is not a day such as 2026-11-24"))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.start().to_string();
        f.pad(text.get(..10).unwrap_or(&text))
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, Day::parse)
    }
}

/// Tells the time; passed in, so that tests own it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(start.as_millis()))))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(ms) => Timestamp(ms.load(Ordering::SeqCst)),
            None => {
                let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
        }
    }

    /// Moves a manual clock forward; the system's clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Some(ms) = &self.0 {
            ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

/// For `#[serde(with = ...)]`: a duration as whole milliseconds.
pub mod millis {
    use super::*;

    /// Writes milliseconds.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }

    /// The same for a duration that may be absent.
    pub mod option {
        use super::*;

        /// Writes milliseconds or null.
        pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            value.map(|v| u64::try_from(v.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
        }

        /// Reads milliseconds or null.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_rfc_3339() {
        let t = Timestamp::from_millis(1_795_507_200_123);
        assert_eq!(t.to_string(), "2026-11-24T08:00:00.123Z");
        assert_eq!(Timestamp::parse("2026-11-24T09:00:00.123+01:00"), Ok(t));
        assert_eq!(t.day().to_string(), "2026-11-24");
        assert_eq!(Day::parse("2026-11-24"), Ok(t.day()));
        let on_the_hour = Timestamp::from_millis(1_795_507_200_000);
        for text in ["2026-11-24T08:00Z", "2026-11-24T08:00:00z", "2026-11-24T09:30+01:30", "2026-11-24T03:00:00-05:00"]
        {
            assert_eq!(Timestamp::parse(text), Ok(on_the_hour), "{text}");
        }
        assert_eq!(Timestamp::EPOCH.to_string(), "1970-01-01T00:00:00.000Z");
        for text in ["yesterday", "2026-11-24", "2026-11-24T08:00:00", "2026-13-24T08:00:00Z", ""] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }
}
