//! How the pages look. They run no script and load nothing; a phone shows each row as a card of its own.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use engine::{
    facts::{Job, Status, Worker},
    ids::{EntityId, Time},
    labels::LabelSet,
};

use super::links::{Links, Range};
use crate::ports::{HistoryPage, Usage};

const STYLE: &str = include_str!("style.css");
/// Rows of one table of `/usage`: a group in a burst has thousands, and its counts say so.
const ROWS: usize = 50;

/// Text that may hold anything, made safe between tags and in quoted attributes.
struct Safe<'a>(&'a str);

impl Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // What is invisible or turns the line around is shown as what it is.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                other => write!(f, "{other}")?,
            }
        }
        Ok(())
    }
}

/// A whole page. `content` is HTML already.
pub(super) fn page(title: &str, now: Time, json: Option<&str>, content: &str) -> String {
    let here = |name: &str| if name == title { " aria-current=\"page\"" } else { "" };
    let json = json.map_or_else(String::new, |url| format!(" &middot; <a href=\"{}\">as JSON</a>", Safe(url)));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
<title>{title} &middot; RISC-V runners</title><style>{STYLE}</style></head>\n<body>\
<header><b>RISC-V runners</b><nav aria-label=\"Pages\"><a href=\"/usage\"{}>Usage</a><a href=\"/history\"{}>History</a></nav></header>\n\
<main><h1>{title}</h1>\n{content}</main>\n<footer>As of {}{json}</footer></body></html>\n",
        here("Usage"),
        here("History"),
        moment(now),
    )
}

/// What was wrong with a request.
pub(super) fn mistake(title: &str, now: Time, message: &str) -> String {
    page(title, now, None, &format!("<p role=\"alert\">{}</p>\n", Safe(message)))
}

pub(super) fn stamp(at: Time) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}

/// A time to the minute, exactly on hovering. UTC.
fn moment(at: Time) -> String {
    let shown = jiff::Timestamp::from_millisecond(at.0).map_or_else(
        |_| at.0.to_string(),
        |at| at.to_zoned(jiff::tz::TimeZone::UTC).datetime().to_string().chars().take(16).collect(),
    );
    format!("<time datetime=\"{0}\" title=\"{0}\">{1} UTC</time>", stamp(at), shown.replace('T', " "))
}

/// How long ago, with the exact time on hovering.
fn ago(at: Option<Time>, now: Time) -> String {
    at.map_or_else(String::new, |at| {
        format!("<time datetime=\"{0}\" title=\"{0}\">{1} ago</time>", stamp(at), now.since(at))
    })
}

fn labels(labels: &LabelSet) -> String {
    labels.iter().map(|label| format!("<span class=\"label\">{}</span> ", Safe(label))).collect()
}

/// A count with its word.
fn some(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A table; each cell is HTML already.
fn table(caption: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = format!("<table><caption>{caption}</caption><thead><tr>");
    for column in columns {
        out += &format!("<th scope=\"col\">{column}</th>");
    }
    out += "</tr></thead><tbody>\n";
    for row in rows {
        out += "<tr>";
        for (cell, column) in row.iter().zip(columns) {
            out += &format!("<td data-l=\"{column}\">{cell}</td>");
        }
        out += "</tr>\n";
    }
    out + "</tbody></table>\n"
}

fn status(status: Status, why: Option<&str>) -> String {
    let word = status.as_str();
    let why = why.map_or_else(String::new, |why| format!(" <span class=\"soft\">{}</span>", Safe(why)));
    format!("<span class=\"{word}\">{word}</span>{why}")
}

/// A link only where it leads to the web.
fn job_link(job: &Job) -> String {
    match job.html_url.as_deref().filter(|url| url.starts_with("https://")) {
        Some(url) => format!("<a class=\"n\" href=\"{}\" rel=\"noreferrer\">{}</a>", Safe(url), job.id),
        None => format!("<span class=\"n\">{}</span>", job.id),
    }
}

/// How long it waited for a runner, and how long it ran, until now where that goes on.
fn spans(job: &Job, now: Time) -> (String, String) {
    let end = job.completed_at.unwrap_or(now);
    let started = job.assignment.as_ref().map(|it| it.started_at);
    let waited = started.unwrap_or(end).since(job.created_at).to_string();
    (waited, started.map_or_else(String::new, |at| end.since(at).to_string()))
}

/// By name first, as people look for it.
type GroupKey<'a> = (&'a str, EntityId, &'a LabelSet);

/// Active jobs and workers by (entity, labels).
pub(super) fn usage(usage: &Usage, now: Time) -> String {
    let mut groups: BTreeMap<GroupKey<'_>, (Vec<&Job>, Vec<&Worker>)> = BTreeMap::new();
    for job in &usage.jobs {
        groups.entry((&job.entity_name, job.entity, &job.labels)).or_default().0.push(job);
    }
    for worker in &usage.workers {
        groups.entry((&worker.entity_name, worker.entity, &worker.labels)).or_default().1.push(worker);
    }
    if groups.is_empty() {
        return "<p>Nothing is pending or running. <a href=\"/history\">What was</a></p>\n".to_owned();
    }
    let pending = usage.jobs.iter().filter(|job| job.status == Status::Pending).count();
    let mut out = format!(
        "<p>{}: {pending} pending, {} running. {}.</p>\n",
        some(usage.jobs.len(), "job", "jobs"),
        usage.jobs.len() - pending,
        some(usage.workers.len(), "worker", "workers"),
    );
    for (i, ((name, _, set), (jobs, workers))) in groups.into_iter().enumerate() {
        // One entity's rules may send the same labels of different repositories to different pools.
        let mut pools: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        jobs.iter().for_each(|job| pools.entry(job.pool.as_str()).or_default().0 += 1);
        workers.iter().for_each(|worker| pools.entry(worker.pool.as_str()).or_default().1 += 1);
        let counts = pools.iter().map(|(pool, (jobs, workers))| {
            let (jobs, workers) = (some(*jobs, "job", "jobs"), some(*workers, "worker", "workers"));
            format!("on {}: {jobs}, {workers}", Safe(pool))
        });
        let counts = counts.collect::<Vec<_>>().join("; ");
        out += &format!("<section aria-labelledby=\"g{i}\"><h2 id=\"g{i}\">{}</h2>\n", Safe(name));
        out += &format!("<p>{}<span class=\"soft\">{counts}</span></p>\n", labels(set));
        out += &usage_jobs(&jobs, pools.len() > 1, now);
        out += &usage_workers(&workers, pools.len() > 1, now);
        out += "</section>\n";
    }
    out
}

fn caption(word: &str, count: usize) -> String {
    if count > ROWS { format!("{word}: the oldest {ROWS} of {count}") } else { word.to_owned() }
}

/// `pools`: whether the group has several, so that each row has to say which is its own.
fn usage_jobs(jobs: &[&Job], pools: bool, now: Time) -> String {
    if jobs.is_empty() {
        return String::new();
    }
    let rows = jobs.iter().take(ROWS).map(|job| {
        let (waited, ran) = spans(job, now);
        let runner = job.assignment.as_ref().map_or("", |it| &*it.runner);
        let (repo, runner) = (Safe(&job.repo).to_string(), Safe(runner).to_string());
        let mut row =
            vec![job_link(job), status(job.status, None), repo, ago(Some(job.created_at), now), waited, ran, runner];
        row.extend(pools.then(|| Safe(job.pool.as_str()).to_string()));
        row
    });
    let columns = ["Job", "Status", "Repository", "Queued", "Waited", "Ran", "Runner", "Pool"];
    table(&caption("Jobs", jobs.len()), &columns[..columns.len() - usize::from(!pools)], rows)
}

/// See [`usage_jobs`].
fn usage_workers(workers: &[&Worker], pools: bool, now: Time) -> String {
    if workers.is_empty() {
        return String::new();
    }
    let rows = workers.iter().take(ROWS).map(|worker| {
        let node = worker.node.as_ref().map_or("", |node| node.as_str());
        let (name, node) = (Safe(worker.name.as_str()).to_string(), Safe(node).to_string());
        let (reserved, running) = (ago(Some(worker.created_at), now), ago(worker.running_at, now));
        let mut row = vec![name, status(worker.status, None), node, reserved, running];
        row.extend(pools.then(|| Safe(worker.pool.as_str()).to_string()));
        row
    });
    let columns = ["Worker", "Status", "Node", "Reserved", "Running", "Pool"];
    table(&caption("Workers", workers.len()), &columns[..columns.len() - usize::from(!pools)], rows)
}

/// A page of jobs, in the order that the store gives them.
pub(super) fn history(page: &HistoryPage, range: &Range, links: &Links, now: Time) -> String {
    let jobs = &page.jobs;
    let field = |name: &str, title: &str, hint: &str, value: &str| {
        format!(
            "<label>{title}<input name=\"{name}\" value=\"{}\" placeholder=\"{hint}\" autocomplete=\"off\"></label>\n",
            Safe(value)
        )
    };
    let mut out = String::from("<form action=\"/history\" method=\"get\">\n");
    out += &field("start", "From day", "YYYY-MM-DD or -7d", range.start.as_deref().unwrap_or(""));
    out += &field("end", "To day", "YYYY-MM-DD or -0d", range.end.as_deref().unwrap_or(""));
    out += &field("per_page", "Jobs a page", "100", &range.query.per_page.to_string());
    out += "<button>Show</button>\n<span class=\"soft\">Days are UTC's, the last one included.</span></form>\n";
    let first = u64::from(range.query.page) * u64::from(range.query.per_page);
    if jobs.is_empty() && page.total == 0 {
        return out + "<p>No job was queued in this time.</p>\n";
    }
    if jobs.is_empty() {
        out += &format!("<p>There is no page {}: the last is {}.</p>\n", range.query.page, links.last_page);
    } else {
        let last = first + jobs.len() as u64;
        out += &format!(
            "<p>Jobs {} to {last} of {}: pending, running, ended; of each the newest first.</p>\n",
            first + 1,
            page.total
        );
    }
    out += &paging(links);
    if jobs.is_empty() {
        return out;
    }
    let rows = jobs.iter().map(|job| {
        let (waited, ran) = spans(job, now);
        let runner = job.assignment.as_ref().map_or("", |it| &*it.runner);
        let why = job.failure.map(engine::decision::JobFailure::as_str);
        vec![
            job_link(job),
            status(job.status, why),
            Safe(&job.repo).to_string(),
            labels(&job.labels),
            moment(job.created_at),
            waited,
            ran,
            Safe(runner).to_string(),
        ]
    });
    let columns = ["Job", "Status", "Repository", "Labels", "Queued", "Waited", "Ran", "Runner"];
    out += &table("Jobs", &columns, rows);
    out + &paging(links)
}

fn paging(links: &Links) -> String {
    if links.last_page == 0 && links.all.len() <= 2 {
        return String::new();
    }
    let title = |rel: &str| match rel {
        "first" => "First",
        "prev" => "Previous",
        "next" => "Next",
        _ => "Last",
    };
    let all: String = links
        .all
        .iter()
        .map(|(rel, url)| format!("<a rel=\"{rel}\" href=\"{}\">{}</a>", Safe(url), title(rel)))
        .collect();
    format!("<nav aria-label=\"More of the history\">{all}</nav>\n")
}
