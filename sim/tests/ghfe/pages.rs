//! `/usage` and `/history`: what they hold, what they refuse, and that everybody can read them.

use std::sync::Arc;

use adapters::{
    ghfe::Ghfe,
    ports::{Store, StoreWrite},
};
use engine::{
    decision::{JobFailure, Write},
    facts::{Job, Status},
    ids::{JobId, Span, Time, WorkerName},
    labels::LabelSet,
};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use sim::testing::rows::{START, job, on, worker};

use crate::bed::{Bed, test_with};

/// 2026-05-13T15:06:40Z, a little later.
const NOW: Time = Time(START.0 + 600_000);

async fn test(test: impl AsyncFnOnce(Bed)) {
    let change = |ghfe: &mut Ghfe| {
        ghfe.clock = Arc::new(|| NOW);
        ghfe.public_url = Some("https://runners.example/".to_owned());
    };
    test_with(change, test).await;
}

/// What a screen reader and a strict parser ask for: closed tags, a language, a title, one heading above the others,
/// captions, column headings, labels; and nothing from elsewhere.
fn is_sound(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!doctype html>\n").expect("a doctype");
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag that ends");
        rest = after;
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "in {page}");
        } else if !["meta", "input"].contains(&name) {
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert!(!["script", "img", "link", "iframe", "object"].contains(&name), "{tag}");
        assert!(!tag.starts_with("th ") || tag.contains("scope=\"col\""), "{tag}");
        assert_ne!(tag, "th", "a heading says of what");
        assert!(!tag.contains("src=") && !tag.contains(" on") && !tag.contains("style="), "{tag}");
        if name == "style" {
            let (style, after) = rest.split_once("</style>").unwrap();
            assert!(
                !style.contains("url(") && !style.contains("@import") && style.contains("prefers-color-scheme:dark")
            );
            assert_eq!(style.matches('{').count(), style.matches('}').count());
            open.pop();
            rest = after;
        }
    }
    assert!(open.is_empty(), "{open:?} are open");
    for once in ["<html lang=\"en\">", "<title>", "<h1>", "<main>", "<meta charset=\"utf-8\">", "name=\"viewport\""] {
        assert_eq!(page.matches(once).count(), 1, "{once}");
    }
    assert_eq!(page.matches("<table>").count(), page.matches("<caption>").count());
    assert_eq!(page.matches("<input").count(), page.matches("<label>").count());
}

async fn page(bed: &Bed, path: &str) -> String {
    let answer = bed.get(path).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=utf-8"), "{path}");
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    is_sound(&answer.text);
    answer.text
}

async fn json_of(bed: &Bed, path: &str) -> Value {
    let answer = bed.get(path).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}");
    serde_json::from_str(&answer.text).unwrap()
}

/// What people read: the page without its tags.
fn text_of(page: &str) -> String {
    let (_, body) = page.split_once("<body>").unwrap();
    body.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_service_says_that_nothing_is_to_be_seen() {
    test(async |bed| {
        assert!(text_of(&page(&bed, "/usage").await).contains("Nothing is pending or running."));
        assert!(text_of(&page(&bed, "/history").await).contains("No job was queued in this time."));
        assert_eq!(json_of(&bed, "/usage.json").await, json!({ "jobs": [], "workers": [] }));
        let empty = json!({ "jobs": [], "total": 0, "page": 0, "per_page": 100 });
        assert_eq!(json_of(&bed, "/history.json").await, empty);
    })
    .await;
}

/// A running job of one group, a pending one of another with odd names, and a worker.
async fn fill(bed: &Bed) {
    let running = Job { status: Status::Running, assignment: on("a-runner", Time(START.0 + 61_000)), ..job(1, 7) };
    let mut odd = job(2, 8);
    odd.entity_name = "<b>&\"'\u{202e}</b>".into();
    odd.repo = "<script>alert(1)</script>/x\u{7}".into();
    odd.labels = LabelSet::new(["ubuntu-24.04-riscv", "\"><img src=x>"]);
    odd.html_url = Some("javascript:alert(1)".into());
    bed.store.record(vec![running, odd, job(3, 7)]).await.unwrap();
    let lease = bed.store.acquire("a test", Span::hours(1)).await.unwrap().unwrap();
    let name = "rise-riscv-runner-7-abcdefghi";
    let reserve = Write::Reserve { worker: Box::new(worker(name, 7)), cap: None, phantoms: [].into() };
    let node = Some("node-<1>".into());
    let run = Write::WorkerRunning { name: WorkerName::from(name), at: Time(START.0 + 30_000), node };
    let writes = [reserve, run].map(|write| StoreWrite { write, diagnostics: None });
    bed.store.write(&lease, writes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_groups_what_is_active_and_shows_odd_names_as_they_are() {
    test(async |bed| {
        fill(&bed).await;
        let page = page(&bed, "/usage").await;
        let text = text_of(&page);
        for shown in ["3 jobs: 2 pending, 1 running. 1 worker.", "on scw-em-rv1: 2 jobs, 1 worker", "a-runner"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        for shown in [
            "&lt;b&gt;&amp;&quot;&#39;\\u{202e}&lt;/b&gt;",
            "&lt;script&gt;alert(1)&lt;/script&gt;/x\\u{7}",
            "&quot;&gt;&lt;img src=x&gt;",
            "node-&lt;1&gt;",
            "<a class=\"n\" href=\"https://github.com/org-7/repo/actions/runs/1/job/1\" rel=\"noreferrer\">1</a>",
            "title=\"2026-05-13T15:06:40.001Z\">9m ago",
        ] {
            assert!(page.contains(shown), "{shown}: {page}");
        }
        assert!(!page.contains("javascript:"), "a link leads to the web or is none");
        assert_eq!(page.matches("<section").count(), 2, "one a group");
        let json = json_of(&bed, "/usage.json").await;
        assert_eq!(json["jobs"].as_array().unwrap().len(), 3);
        assert_eq!(json["jobs"][1]["repo_full_name"], "<script>alert(1)</script>/x\u{7}");
        assert_eq!(json["workers"][0]["k8s_node"], "node-<1>");
        assert_eq!(json["workers"][0]["status"], "running");
        for (accept, kind) in [
            ("application/json", "application/json"),
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
            ("text/html, application/json", "text/html; charset=utf-8"),
        ] {
            for path in ["/usage", "/history"] {
                let request = Request::get(format!("http://{}{path}", bed.address)).header("accept", accept);
                let answer = bed.send(request.body(Full::default()).unwrap()).await;
                assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{path} {accept}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_on_several_pools_says_what_is_on_which() {
    test(async |bed| {
        let other = Job { pool: "cloudv10x-<jupiter>".into(), ..job(2, 7) };
        bed.store.record(vec![job(1, 7), other]).await.unwrap();
        let page = page(&bed, "/usage").await;
        assert_eq!(page.matches("<section").count(), 1);
        let text = text_of(&page);
        for shown in ["on cloudv10x-&lt;jupiter&gt;: 1 job, 0 workers; on scw-em-rv1: 1 job, 0 workers", "Pool"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        assert_eq!(page.matches(">scw-em-rv1</td>").count(), 1, "{page}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_counted_whole_and_shown_in_part() {
    test(async |bed| {
        bed.store.record((1..=1600).map(|id| job(id, 7)).collect()).await.unwrap();
        let page = page(&bed, "/usage").await;
        assert!(text_of(&page).contains("1600 jobs: 1600 pending, 0 running. 0 workers."));
        assert!(page.contains("<caption>Jobs: the oldest 50 of 1600</caption>"));
        assert_eq!(page.matches("<tr><td").count(), 50);
        assert!(page.len() < 40_000, "{} bytes", page.len());
        assert_eq!(json_of(&bed, "/usage.json").await["jobs"].as_array().unwrap().len(), 1600);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_by_status_and_then_from_the_newest_over_all_pages() {
    test(async |bed| {
        let mut jobs: Vec<Job> = (1..=7).map(|id| job(id, 7)).collect();
        for ended in &mut jobs[2..] {
            ended.status = Status::Completed;
            ended.assignment = on("r", Time(START.0 + 60_000));
            ended.completed_at = Some(Time(START.0 + 360_000));
        }
        bed.store.record(jobs).await.unwrap();
        let failed = bed.store.fail_installation(job(1, 7).installation, JobFailure::InstallationGone, NOW).await;
        assert_eq!(failed.unwrap().len(), 2);
        bed.store.record(vec![job(8, 9)]).await.unwrap();
        let rows = |page: &str| -> Vec<i64> {
            let cells = page.split("<td data-l=\"Job\">").skip(1);
            cells.map(|cell| cell.split("</a>").next().unwrap().rsplit('>').next().unwrap().parse().unwrap()).collect()
        };
        let first = page(&bed, "/history?per_page=3").await;
        assert_eq!(rows(&first), [8, 7, 6], "the one that is pending, and then the newest that have ended");
        let text = text_of(&first);
        assert!(text.contains("Jobs 1 to 3 of 8: pending, running, ended; of each the newest first."), "{text}");
        assert!(first.contains("<a rel=\"next\" href=\"/history?page=1&amp;per_page=3\">Next</a>"));
        assert!(!first.contains("rel=\"prev\""));
        assert!(first.contains("2026-05-13 15:06 UTC"));
        assert!(first.contains("<td data-l=\"Waited\">59s</td><td data-l=\"Ran\">5m</td>"), "{first}");
        let last = page(&bed, "/history?per_page=3&page=2").await;
        assert_eq!(rows(&last), [2, 1]);
        assert!(last.contains("rel=\"prev\"") && !last.contains("rel=\"next\""));
        assert!(text_of(&last).contains("failed installation_gone"));
        let beyond = page(&bed, "/history?per_page=3&page=9").await;
        assert!(text_of(&beyond).contains("There is no page 9: the last is 2."));
        assert!(beyond.contains("href=\"/history?page=2&amp;per_page=3\">Previous</a>"));
        assert_eq!(
            rows(&page(&bed, "/history?start=&end=&per_page=&page=").await).len(),
            8,
            "a form sends what is empty"
        );
        // What is still to come stands above what is over, and on the first page, however old it is.
        let running = Job { status: Status::Running, ..job(0, 9) };
        let old = Job { created_at: Time(START.0 - 60_000), ..job(11, 9) };
        let ended = Job { status: Status::Completed, ..job(10, 9) };
        bed.store.record(vec![job(9, 9), ended, Job { id: JobId(12), ..running }, old]).await.unwrap();
        assert_eq!(rows(&page(&bed, "/history").await), [9, 8, 11, 12, 10, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(rows(&page(&bed, "/history?per_page=4").await), [9, 8, 11, 12]);
        assert_eq!(rows(&page(&bed, "/history?per_page=4&page=1").await), [10, 7, 6, 5]);

        let answer = bed.get("/history.json?per_page=3&page=1&start=2026-05-13&end=-0d").await;
        let url = |page: u32| {
            format!("<https://runners.example/history.json?page={page}&per_page=3&start=2026-05-13&end=-0d>")
        };
        let rels = [(0, "first"), (0, "prev"), (2, "next"), (3, "last")];
        let link: Vec<String> = rels.iter().map(|(page, rel)| format!("{}; rel=\"{rel}\"", url(*page))).collect();
        assert_eq!(answer.header("link"), link.join(", "));
        let value: Value = serde_json::from_str(&answer.text).unwrap();
        let ids: Vec<i64> = value["jobs"].as_array().unwrap().iter().map(|it| it["job_id"].as_i64().unwrap()).collect();
        assert_eq!(ids, [12, 10, 7], "as on the page for people");
        assert_eq!((&value["total"], &value["page"], &value["per_page"]), (&json!(12), &json!(1), &json!(3)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_utcs_and_include_the_last() {
    test(async |bed| {
        let at = |text: &str| Time(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let times = [
            (1, "2026-05-11T23:59:59.999Z"),
            (2, "2026-05-12T00:00:00Z"),
            (3, "2026-05-12T23:59:59.999Z"),
            (4, "2026-05-13T00:00:00Z"),
            // Its own day there is the 12th.
            (5, "2026-05-12T23:30:00-02:00"),
        ];
        bed.store.record(times.map(|(id, time)| Job { created_at: at(time), ..job(id, 7) }).into()).await.unwrap();
        for (query, expected) in [
            ("start=2026-05-12&end=2026-05-12", vec![3, 2]),
            ("start=2026-05-12", vec![5, 4, 3, 2]),
            ("end=2026-05-11", vec![1]),
            ("start=-0d", vec![5, 4]),
            ("start=-1d&end=-1d", vec![3, 2]),
            ("start=-65535d&end=9999-12-30", vec![5, 4, 3, 2, 1]),
        ] {
            let value = json_of(&bed, &format!("/history.json?{query}")).await;
            let ids: Vec<i64> =
                value["jobs"].as_array().unwrap().iter().map(|it| it["job_id"].as_i64().unwrap()).collect();
            assert_eq!(ids, expected, "{query}");
            assert_eq!(value["total"], expected.len(), "{query}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_be_read_is_told_what_to_write() {
    const DAY: &str = "is not a day: write YYYY-MM-DD, or -7d for seven days ago";
    test(async |bed| {
        for (query, message) in [
            ("start=yesterday", format!("start {DAY}")),
            ("start=2026-02-30", format!("start {DAY}")),
            ("start=2026-5-1", format!("start {DAY}")),
            ("start=20260501", format!("start {DAY}")),
            ("start=2026-05-01T00:00:00", format!("start {DAY}")),
            ("start=%3Cscript%3E", format!("start {DAY}")),
            ("end=7d", format!("end {DAY}")),
            ("end=--7d", format!("end {DAY}")),
            ("end=-%2B7d", format!("end {DAY}")),
            ("end=-65536d", format!("end {DAY}")),
            ("start=2026-05-02&end=2026-05-01", "start lies after end: write the earlier day as start".into()),
            ("page=-1", "page is not a number from 0 up".into()),
            ("page=4294967296", "page is not a number from 0 up".into()),
            ("page=one", "page is not a number from 0 up".into()),
            ("per_page=0", "per_page is not a number from 1 to 1000".into()),
            ("per_page=1001", "per_page is not a number from 1 to 1000".into()),
            ("per_page=1.5", "per_page is not a number from 1 to 1000".into()),
            ("page=1&page=2", "the query cannot be read: give start, end, page and per_page once at most".into()),
        ] {
            let json = bed.get(&format!("/history.json?{query}")).await;
            assert_eq!((json.status, json.text), (400, format!("{message}\n")), "{query}");
            let html = bed.get(&format!("/history?{query}")).await;
            assert_eq!(html.status, 400, "{query}");
            is_sound(&html.text);
            assert!(html.text.contains(&format!("<p role=\"alert\">{message}</p>")), "{query}: {}", html.text);
        }
        let last = json_of(&bed, "/history.json?page=4294967295&per_page=1000").await;
        assert_eq!(last["jobs"], json!([]), "far beyond the end is no mistake");
    })
    .await;
}
