//! Points in time: milliseconds since 1970 in UTC, read strictly from RFC 3339.
//!
//! Always true: a [`Timestamp`] lies in the years 1970 to 2261, which `DateTime64(3)` of ClickHouse
//! and nanosecond readers of the lake can both hold.
//! Not here: the clock (callers pass the time in), time zones of schools.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The last representable millisecond: 2261-12-31T23:59:59.999Z.
const MAX_MS: i64 = 9_214_646_399_999;

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text is no timestamp. `Display` completes the sentence "the time …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The text does not follow RFC 3339.
    #[error("is not RFC 3339; write it like 2026-01-31T09:30:00.250Z or 2026-01-31T10:30:00+01:00")]
    Syntax,
    /// The text ends where the offset from UTC should stand.
    #[error("has no offset from UTC; end it with Z or an offset such as +01:00")]
    NoOffset,
    /// The text follows the form, but there is no such day or time.
    #[error("names a day or time that does not exist")]
    NoSuchTime,
    /// Before 1970 or after 2261.
    #[error("lies outside the years 1970 to 2261")]
    OutOfRange,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const MIN: Self = Self(0);
    /// 2261-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(MAX_MS);

    /// Takes milliseconds since 1970 from a clock or a table; what lies outside the range becomes
    /// its nearest end. For foreign numbers use [`Timestamp::try_from_ms`].
    pub const fn from_ms(ms: i64) -> Self {
        if ms < 0 {
            Self::MIN
        } else if ms > MAX_MS {
            Self::MAX
        } else {
            Self(ms)
        }
    }

    /// Takes milliseconds since 1970, or nothing where they lie outside the range.
    pub const fn try_from_ms(ms: i64) -> Option<Self> {
        if ms < 0 || ms > MAX_MS { None } else { Some(Self(ms)) }
    }

    /// Milliseconds since 1970.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Microseconds since 1970, as Arrow and the lake count.
    pub const fn as_us(self) -> i64 {
        self.0 * 1000
    }

    /// The milliseconds from `earlier` to here; negative where `earlier` is the later one.
    pub const fn ms_since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }

    /// This point moved by milliseconds, kept within the range.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self::from_ms(self.0.saturating_add(ms))
    }

    /// This point moved forward, kept within the range.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        self.plus_ms(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
    }

    /// This point moved back, kept within the range.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        self.plus_ms(i64::try_from(duration.as_millis()).map_or(i64::MIN, |ms| -ms))
    }

    /// Reads RFC 3339 strictly: `T` between day and time, an offset at the end. Digits beyond the
    /// millisecond are cut off. The second 60 is taken only where UTC can have one, and becomes the
    /// midnight that follows it.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimestampError> {
        let (day_and_time, rest) =
            text.as_bytes().split_first_chunk().ok_or(TimestampError::Syntax)?;
        let [year, month, day, hour, minute, second] = civil(day_and_time)?;
        let mut digits = Digits { rest };
        let ms = digits.fraction()?;
        let offset_minutes = digits.offset()?;
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return Err(TimestampError::NoSuchTime);
        }
        if hour > 23 || minute > 59 || second > 60 {
            return Err(TimestampError::NoSuchTime);
        }
        let minutes =
            days_from_civil(year, month, day) * 1440 + hour * 60 + minute - offset_minutes;
        if second == 60 && minutes.rem_euclid(1440) != 1439 {
            return Err(TimestampError::NoSuchTime);
        }
        let ms = if second == 60 { 0 } else { ms };
        let ms = (minutes * 60 + second) * 1000 + ms;
        Self::try_from_ms(ms).ok_or(TimestampError::OutOfRange)
    }
}

/// Year, month, day, hour, minute and second, written as `2026-01-31T09:30:00`.
fn civil(text: &[u8; 19]) -> Result<[i64; 6], TimestampError> {
    let [c, y, e, a, b'-', m, n, b'-', d, f, b'T' | b't', h, i, b':', p, q, b':', s, t] = *text
    else {
        return Err(TimestampError::Syntax);
    };
    let digits = [c, y, e, a, m, n, d, f, h, i, p, q, s, t];
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(TimestampError::Syntax);
    }
    Ok([two(c, y) * 100 + two(e, a), two(m, n), two(d, f), two(h, i), two(p, q), two(s, t)])
}

/// The number that two digits write.
const fn two(tens: u8, ones: u8) -> i64 {
    (tens - b'0') as i64 * 10 + (ones - b'0') as i64
}

struct Digits<'a> {
    rest: &'a [u8],
}

impl Digits<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn number(&mut self, count: usize) -> Result<i64, TimestampError> {
        let mut number = 0;
        for _ in 0..count {
            match self.next() {
                Some(digit @ b'0'..=b'9') => number = number * 10 + i64::from(digit - b'0'),
                _ => return Err(TimestampError::Syntax),
            }
        }
        Ok(number)
    }

    fn byte(&mut self, allowed: &[u8]) -> Result<(), TimestampError> {
        match self.next() {
            Some(byte) if allowed.contains(&byte) => Ok(()),
            _ => Err(TimestampError::Syntax),
        }
    }

    fn fraction(&mut self) -> Result<i64, TimestampError> {
        if self.rest.first() != Some(&b'.') {
            return Ok(0);
        }
        self.byte(b".")?;
        let (mut ms, mut weight, mut any) = (0, 100, false);
        while let Some(digit @ b'0'..=b'9') = self.rest.first().copied() {
            ms += i64::from(digit - b'0') * weight;
            weight /= 10;
            any = true;
            self.next();
        }
        if any { Ok(ms) } else { Err(TimestampError::Syntax) }
    }

    /// The offset from UTC in minutes; it must be all that is left.
    fn offset(&mut self) -> Result<i64, TimestampError> {
        let sign = match self.next() {
            None => return Err(TimestampError::NoOffset),
            Some(b'Z' | b'z') if self.rest.is_empty() => return Ok(0),
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return Err(TimestampError::Syntax),
        };
        let hours = self.number(2)?;
        self.byte(b":")?;
        let minutes = self.number(2)?;
        if !self.rest.is_empty() {
            return Err(TimestampError::Syntax);
        }
        if hours > 23 || minutes > 59 {
            return Err(TimestampError::NoSuchTime);
        }
        Ok(sign * (hours * 60 + minutes))
    }
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant's algorithm).
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a day since 1970-01-01: the inverse of [`days_from_civil`].
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with milliseconds and `Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(86_400_000));
        let ms = self.0.rem_euclid(86_400_000);
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, ms) = (ms / 1000 % 60, ms % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({self})")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).map_err(de::Error::custom)
    }
}
