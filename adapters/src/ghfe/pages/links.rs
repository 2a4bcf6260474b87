//! What part of the history is asked for, and where its other parts are.

use engine::ids::Time;
use serde::Deserialize;

use crate::ports::HistoryQuery;

/// Jobs of a page when nothing else is asked for, and at most.
const PER_PAGE: (u32, u32) = (100, 1000);
const DAY_MS: i64 = 86_400_000;

/// A history's query string. What is empty is not given: forms send it so.
#[derive(Debug, Default, Deserialize)]
pub(in crate::ghfe) struct Params {
    start: Option<String>,
    end: Option<String>,
    page: Option<String>,
    per_page: Option<String>,
}

/// The same, read.
pub(super) struct Range {
    pub query: HistoryQuery,
    /// As they were given.
    pub start: Option<String>,
    pub end: Option<String>,
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

/// The day's first millisecond: of `2026-01-31`, or of `-7d` for seven days ago. Days are UTC's.
fn day(text: &str, today: i64) -> Option<i64> {
    if let Some(days) = text.strip_prefix('-').and_then(|rest| rest.strip_suffix('d')) {
        let digits = days.bytes().all(|byte| byte.is_ascii_digit());
        let days: i64 = days.parse::<u16>().ok().filter(|_| digits)?.into();
        return Some((today - days) * DAY_MS);
    }
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let date: jiff::civil::Date = text.parse().ok().filter(|_| shape == "0000-00-00")?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

impl Params {
    /// What they ask for; or what is wrong with them, and what to write instead.
    pub(super) fn read(&self, now: Time) -> Result<Range, String> {
        let today = now.0.div_euclid(DAY_MS);
        let day_of = |name: &str, text: Option<&str>| {
            let Some(text) = text else { return Ok(None) };
            let at = day(text, today);
            at.map(Some).ok_or_else(|| format!("{name} is not a day: write YYYY-MM-DD, or -7d for seven days ago"))
        };
        let (start, end) = (given(self.start.as_ref()), given(self.end.as_ref()));
        let page = given(self.page.as_ref()).map_or(Ok(0), str::parse);
        let per_page = given(self.per_page.as_ref()).map_or(Ok(PER_PAGE.0), str::parse);
        let query = HistoryQuery {
            start: day_of("start", start)?,
            // The end day itself is part of the range.
            end: day_of("end", end)?.map(|at| at + DAY_MS),
            page: page.map_err(|_| "page is not a number from 0 up".to_owned())?,
            per_page: per_page
                .ok()
                .filter(|count| (1..=PER_PAGE.1).contains(count))
                .ok_or_else(|| format!("per_page is not a number from 1 to {}", PER_PAGE.1))?,
        };
        if let (Some(start), Some(end)) = (query.start, query.end)
            && start >= end
        {
            return Err("start lies after end: write the earlier day as start".to_owned());
        }
        Ok(Range { query, start: start.map(str::to_owned), end: end.map(str::to_owned) })
    }
}

impl Range {
    /// The days as a query string goes on with them. Both have been read: they hold nothing that needs escaping.
    pub fn days(&self) -> String {
        let day = |name: &str, value: &Option<String>| {
            value.as_ref().map_or_else(String::new, |value| format!("&{name}={value}"))
        };
        day("start", &self.start) + &day("end", &self.end)
    }
}

/// first, prev, next and last, those that exist.
pub(super) struct Links {
    pub all: Vec<(&'static str, String)>,
    pub last_page: u32,
}

impl Links {
    pub fn new(range: &Range, total: u64, base: &str) -> Self {
        let query = range.query;
        let last = u32::try_from(total.saturating_sub(1) / u64::from(query.per_page)).unwrap_or(u32::MAX);
        let days = range.days();
        let url = |page: u32| format!("{base}?page={page}&per_page={}{days}", query.per_page);
        let mut all = vec![("first", url(0))];
        if query.page > 0 {
            all.push(("prev", url((query.page - 1).min(last))));
        }
        if query.page < last {
            all.push(("next", url(query.page + 1)));
        }
        all.push(("last", url(last)));
        Self { all, last_page: last }
    }
}
