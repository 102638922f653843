//! Days and hours in a school's time zone, for SQL and for the bounds of a report.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Date32Builder, Int64Builder};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use chalkstream_schemas::Timestamp;
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

use crate::lake::tables::timestamp_type;

/// Days before 1970-01-01, as `chrono` counts them from the Common Era.
const EPOCH_DAYS_CE: i32 = 719_163;

/// The instant at which a day begins in a zone: the first one that its clocks show on that day.
pub(crate) fn day_start(zone: Tz, day: NaiveDate) -> Timestamp {
    let midnight = day.and_time(NaiveTime::MIN);
    // Where clocks jump over midnight the day begins later; no jump is longer than a day.
    let start = (0..=96).find_map(|quarters| {
        zone.from_local_datetime(&(midnight + TimeDelta::minutes(15 * quarters))).earliest()
    });
    let ms = start
        .map_or_else(|| midnight.and_utc().timestamp_millis(), |start| start.timestamp_millis());
    Timestamp::from_ms(ms)
}

/// The instant at which the day after this one begins.
pub(crate) fn day_end(zone: Tz, day: NaiveDate) -> Timestamp {
    day.checked_add_days(Days::new(1)).map_or(Timestamp::MAX, |next| day_start(zone, next))
}

/// The SQL functions `school_day(time)` and `school_hour(time)` for a school's zone.
pub(crate) fn functions(zone: Tz) -> [ScalarUDF; 2] {
    let day = move |values: &[ColumnarValue]| {
        over_times(values, |times| {
            let mut days = Date32Builder::with_capacity(times.len());
            for at in local(zone, times) {
                days.append_option(at.map(|at| at.num_days_from_ce() - EPOCH_DAYS_CE));
            }
            Arc::new(days.finish())
        })
    };
    let hour = move |values: &[ColumnarValue]| {
        over_times(values, |times| {
            let mut hours = Int64Builder::with_capacity(times.len());
            for at in local(zone, times) {
                hours.append_option(at.map(|at| i64::from(at.hour())));
            }
            Arc::new(hours.finish())
        })
    };
    let function = |name, returns, implementation| {
        create_udf(name, vec![timestamp_type()], returns, Volatility::Immutable, implementation)
    };
    [
        function("school_day", DataType::Date32, Arc::new(day)),
        function("school_hour", DataType::Int64, Arc::new(hour)),
    ]
}

fn local(zone: Tz, times: &dyn Array) -> impl Iterator<Item = Option<DateTime<Tz>>> + '_ {
    times.as_primitive::<TimestampMicrosecondType>().iter().map(move |us| {
        us.and_then(DateTime::from_timestamp_micros).map(|at| at.with_timezone(&zone))
    })
}

fn over_times(
    values: &[ColumnarValue],
    apply: impl Fn(&dyn Array) -> ArrayRef,
) -> Result<ColumnarValue, DataFusionError> {
    let [times] = values else {
        return Err(DataFusionError::Execution("one point in time is expected".to_owned()));
    };
    match times {
        ColumnarValue::Array(times) => Ok(ColumnarValue::Array(apply(times))),
        ColumnarValue::Scalar(time) => Ok(ColumnarValue::Array(apply(&time.to_array()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(zone: &str, day: &str, start: &str, end: &str) {
        let zone: Tz = zone.parse().unwrap();
        let day = day.parse().unwrap();
        assert_eq!(day_start(zone, day).to_string(), start);
        assert_eq!(day_end(zone, day).to_string(), end);
    }

    #[test]
    fn a_day_is_as_long_as_the_schools_clocks_make_it() {
        check("UTC", "2026-01-31", "2026-01-31T00:00:00.000Z", "2026-02-01T00:00:00.000Z");
        check(
            "Europe/Berlin",
            "2026-03-29",
            "2026-03-28T23:00:00.000Z",
            "2026-03-29T22:00:00.000Z",
        );
        check(
            "Europe/Berlin",
            "2026-10-25",
            "2026-10-24T22:00:00.000Z",
            "2026-10-25T23:00:00.000Z",
        );
        // Clocks in Santiago jump from 00:00 to 01:00.
        check(
            "America/Santiago",
            "2026-09-06",
            "2026-09-06T04:00:00.000Z",
            "2026-09-07T03:00:00.000Z",
        );
        // Samoa had no 30 December 2011.
        check("Pacific/Apia", "2011-12-29", "2011-12-29T10:00:00.000Z", "2011-12-30T10:00:00.000Z");
    }
}
