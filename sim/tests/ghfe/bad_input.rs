//! What is wrong is answered so, and leaves nothing behind.

use bytes::Bytes;
use serde_json::{Value, json};
use sim::harness::signature;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::bed::{Bed, ORG, PYTORCH, SECRET, body, test};

const UNSIGNED: &str = "the header X-Hub-Signature-256 is missing\n";
const UNREADABLE: &str = "the header X-Hub-Signature-256 holds characters that it cannot have\n";
const FORGED: &str = "the signature does not fit the body: check the webhook secret\n";

/// Numbers become `#`: where a parser stopped is its own affair.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c)
        } else if !out.ends_with('#') {
            out.push('#')
        }
    }
    out
}

/// Whatever the event is, recorded or not: who it is from is looked at before what it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_without_its_right_signature_is_refused() {
    test(async |bed| {
        assert_eq!(bed.job(&body("queued", 1, ORG)).await, (200, "recorded".to_owned()));
        let before = bed.whole_rows().await;
        let queued = body("queued", 2, ORG).to_string();
        let running = body("in_progress", 1, ORG).to_string();
        let gone = json!({ "action": "deleted", "installation": { "id": 503 } }).to_string();
        let events = [
            ("workflow_job", &*queued),
            ("workflow_job", &*running),
            ("installation", &*gone),
            ("ping", "{}"),
            ("push", "{}"),
            ("workflow_job", "not JSON"),
        ];
        for (event, text) in events {
            let right = signature(SECRET, text.as_bytes());
            let digest = right.strip_prefix("sha256=").unwrap();
            let of_another_body = signature(SECRET, b"another body");
            let by_another_secret = signature("another secret", text.as_bytes());
            let cases: Vec<(&str, Option<Vec<u8>>, u16, &str)> = vec![
                ("none", None, 400, UNSIGNED),
                ("empty", Some(b"".to_vec()), 400, UNSIGNED),
                ("not text", Some(b"sha256=\xff\xfe".to_vec()), 400, UNREADABLE),
                ("another secret's", Some(by_another_secret.into_bytes()), 401, FORGED),
                ("another body's", Some(of_another_body.into_bytes()), 401, FORGED),
                ("no prefix", Some(digest.as_bytes().to_vec()), 401, FORGED),
                ("another prefix", Some(format!("sha1={digest}").into_bytes()), 401, FORGED),
                ("prefix alone", Some(b"sha256=".to_vec()), 401, FORGED),
                ("cut", Some(right.as_bytes()[..right.len() - 2].to_vec()), 401, FORGED),
                ("half a digit pair", Some(right.as_bytes()[..right.len() - 1].to_vec()), 401, FORGED),
                ("longer", Some(format!("{right}00").into_bytes()), 401, FORGED),
                ("not hexadecimal", Some(format!("sha256={}", "z".repeat(64)).into_bytes()), 401, FORGED),
            ];
            for (name, given, status, message) in cases {
                let mut request = bed.delivery(event, text.to_owned());
                request.headers_mut().remove("x-hub-signature-256");
                if let Some(given) = given {
                    request.headers_mut().insert("x-hub-signature-256", given.as_slice().try_into().unwrap());
                }
                let answer = bed.send(request).await;
                assert_eq!((answer.status, answer.text.as_str()), (status, message), "{event}: {name}");
            }
        }
        let mut request = bed.delivery("workflow_job", queued.clone());
        request.headers_mut().remove("x-github-event");
        let answer = bed.send(request).await;
        assert_eq!((answer.status, answer.text.as_str()), (400, "the header X-GitHub-Event is missing\n"));
        let mut request = bed.delivery("workflow_job", queued.clone());
        request.headers_mut().insert("x-github-event", b"workflow_\xffjob".as_slice().try_into().unwrap());
        let answer = bed.send(request).await;
        let message = "the header X-GitHub-Event holds characters that it cannot have\n";
        assert_eq!((answer.status, answer.text.as_str()), (400, message));
        assert_eq!(bed.whole_rows().await, before, "no job came, went on or was failed");
        let mut request = bed.delivery("workflow_job", queued.clone());
        let upper = signature(SECRET, queued.as_bytes()).replace("sha256=", "").to_uppercase();
        request.headers_mut().insert("x-hub-signature-256", format!("sha256={upper}").try_into().unwrap());
        assert_eq!(bed.send(request).await.status, 200, "hexadecimal digits have two cases");
        assert_eq!(bed.rows().await, [(1, "pending".to_owned()), (2, "pending".to_owned())]);
        // With their signatures they do something.
        assert_eq!(bed.deliver("workflow_job", running).await.text, "recorded");
        let answer = bed.deliver("installation", gone).await;
        assert!(answer.text.starts_with("1 pending jobs failed: "), "{}", answer.text);
        assert_eq!(bed.rows().await, [(1, "running".to_owned()), (2, "failed".to_owned())]);
    })
    .await;
}

/// Sends bytes as they are, all of them, and only then reads: until the other side closes, or this end of its answer is there.
async fn raw(bed: &Bed, parts: impl IntoIterator<Item = Bytes>, expected: &str) -> String {
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    for part in parts {
        stream.write_all(&part).await.expect("all of it is taken");
    }
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(expected.as_bytes()) {
        let read = stream.read(&mut part).await.expect("the connection ends well");
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&part[..read]);
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_before_it_is_taken_in() {
    test(async |bed| {
        let head = |framing: &str| {
            Bytes::from(format!(
                "POST / HTTP/1.1\r\nhost: ghfe\r\nconnection: close\r\nx-github-event: workflow_job\r\n\
                 x-hub-signature-256: sha256=00\r\n{framing}\r\n\r\n"
            ))
        };
        let expected = "the body is larger than 25 MB, GitHub's own limit\n";
        // Said beforehand: refused without a byte of it.
        let announced = head(&format!("content-length: {}", (25 << 20) + 1));
        let answer = raw(&bed, [announced.clone()], expected).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(expected), "{answer}");
        // And one that sends it all before it looks finds the answer.
        let all = std::iter::repeat_n(Bytes::from(vec![b' '; 1 << 20]), 25).chain([Bytes::from(" ")]);
        let answer = raw(&bed, std::iter::once(announced.clone()).chain(all.clone()), expected).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(expected), "{answer}");
        // So does one who has taken the wrong path.
        let elsewhere = String::from_utf8_lossy(&announced).replacen("POST / ", "POST /webhook ", 1);
        let nowhere = "no such page: see /usage and /history\n";
        let answer = raw(&bed, std::iter::once(Bytes::from(elsewhere)).chain(all), nowhere).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with(nowhere), "{answer}");
        // Not said: refused once it is too much.
        let mebibyte = Bytes::from(format!("100000\r\n{}\r\n", " ".repeat(1 << 20)));
        let endless = std::iter::once(head("transfer-encoding: chunked")).chain(std::iter::repeat_n(mebibyte, 26));
        let answer = raw(&bed, endless, expected).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(expected), "{answer}");
        // The largest there may be.
        let mut largest = body("queued", 1, ORG).to_string();
        largest.push_str(&" ".repeat((25 << 20) - largest.len()));
        let answer = bed.deliver("workflow_job", largest).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "recorded"));
        assert_eq!(bed.rows().await, [(1, "pending".to_owned())]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_refused() {
    const NOT_JSON: &str = "the body is not JSON, at line # column #\n";
    const NOT_TEXT: &str = "the body is not JSON: it is not text in UTF-#, at byte #\n";
    const WRONG: &str = "a field has a wrong type or value, at line # column #\n";
    const RANGE: &str = "workflow_job.id must be a whole number from # to #\n";
    const HALF: &str = "a text holds half a character, at line # column #\n";
    const LARGE: &str = "a number is out of range, at line # column #\n";
    test(async |bed| {
        let good = body("queued", 1, ORG).to_string();
        let power = |exponent: i32| good.replacen("\"id\":1,", &format!("\"id\":1e{exponent},"), 1);
        let digits = good.replacen("\"id\":1,", &format!("\"id\":1{},", "0".repeat(400)), 1);
        assert!(power(400) != good && digits != good);
        let nested = format!("{{\"action\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let beside = format!("{{\"other\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let twice = good.replacen("\"action\":", "\"action\":\"queued\",\"action\":", 1);
        let mut beside_text = good.replacen("{", "{\"other\":\"?\",", 1).into_bytes();
        let place = beside_text.iter().position(|&byte| byte == b'?').unwrap();
        beside_text[place] = 0xff;
        let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
            ("nothing", vec![], 400, NOT_JSON),
            ("cut", good.as_bytes()[..good.len() / 2].to_vec(), 400, NOT_JSON),
            ("more behind it", format!("{good}{good}").into_bytes(), 400, NOT_JSON),
            ("not UTF-8", b"{\"action\":\"\xff\"}".to_vec(), 400, NOT_TEXT),
            ("not UTF-8 where nobody reads", beside_text, 400, NOT_TEXT),
            ("half a surrogate pair", b"{\"action\":\"\\ud800\"}".to_vec(), 400, HALF),
            ("and followed by another character", b"{\"action\":\"\\ud800\\u0041\"}".to_vec(), 400, HALF),
            ("a number", b"5".to_vec(), 400, WRONG),
            ("an id of 401 digits", digits.into_bytes(), 400, LARGE),
            ("an id beyond all floating point", power(400).into_bytes(), 400, LARGE),
            ("and one within", power(300).into_bytes(), 400, RANGE),
            ("null", b"null".to_vec(), 400, WRONG),
            ("a list", b"[]".to_vec(), 400, WRONG),
            ("a field twice", twice.into_bytes(), 400, "action is there twice, at line # column #\n"),
            (
                "deeply nested in a field that is read",
                nested.into_bytes(),
                400,
                "action has a wrong type or value, at line # column #\n",
            ),
            (
                "deeply nested beside them",
                beside.into_bytes(),
                200,
                "ignored: only queued, in_progress and completed are recorded",
            ),
        ];
        for (name, body, status, message) in cases {
            let answer = bed.deliver("workflow_job", body).await;
            assert_eq!((answer.status, without_numbers(&answer.text).as_str()), (status, message), "{name}");
        }
        // Also of what is answered without being read, which is captured: a ping is the first that tells of such a setting.
        for event in ["ping", "push", "installation"] {
            for body in ["zzz", "", "{} {}"] {
                let answer = bed.deliver(event, body).await;
                let text = without_numbers(&answer.text);
                assert_eq!((answer.status, text.as_str()), (400, NOT_JSON), "{event}: {body}");
            }
        }
        for event in ["workflow_job", "ping"] {
            let mut form = bed.delivery(event, "payload=%7B%7D");
            form.headers_mut().insert("content-type", "application/x-www-form-urlencoded".try_into().unwrap());
            let message =
                "the body is not JSON: set the webhook's content type to application/json, at line 1 column 1\n";
            let answer = bed.send(form).await;
            assert_eq!((answer.status, answer.text.as_str()), (400, message), "{event}");
        }
        assert_eq!(bed.rows().await, []);
    })
    .await;
}

/// Every place of the body that is read, with what may be wrong there.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_missing_null_empty_negative_or_overflowing_is_named() {
    test(async |bed| {
        let ids = ["/workflow_job/id", "/repository/id", "/repository/owner/id", "/installation/id"];
        let texts =
            ["/workflow_job/html_url", "/repository/full_name", "/repository/owner/login", "/repository/owner/type"];
        let mut cases: Vec<(&str, Value, String)> = Vec::new();
        for place in ids {
            let field = place[1..].replace('/', ".");
            let range = format!("{field} must be a whole number from 1 to 9223372036854775807\n");
            for wrong in [
                json!(0),
                json!(-5),
                json!(i64::MIN),
                json!(i64::MAX as u64 + 1),
                json!(u64::MAX),
                json!(1e300),
                json!(1.5),
                json!("1"),
                json!(true),
                json!([1]),
                json!({ "id": 1 }),
            ] {
                cases.push((place, wrong, range.clone()));
            }
            cases.push((place, Value::Null, format!("{field} is missing or empty\n")));
        }
        for place in texts {
            let field = place[1..].replace('/', ".");
            cases.push((place, Value::Null, format!("{field} is missing or empty\n")));
            cases.push((place, json!(""), format!("{field} is missing or empty\n")));
            for wrong in [json!(5), json!([]), json!({})] {
                let message = format!("{field} has a wrong type or value, at line # column #\n");
                cases.push((place, wrong, message));
            }
            if place != "/repository/owner/type" {
                cases.push((place, json!("a\0b"), format!("{field} holds a NUL character\n")));
                let long = format!("{field} has 1025 bytes, at most 1024\n");
                cases.push((place, json!("x".repeat(1025)), long));
            }
        }
        for word in ["Bot", "organization", "Enterprise\u{1b}[31m"] {
            let message = format!("repository.owner.type is {word:?}, expected \"Organization\" or \"User\"\n");
            cases.push(("/repository/owner/type", json!(word), message));
        }
        for (place, message) in [
            ("/workflow_job", "workflow_job.id is missing or empty\n"),
            ("/repository", "repository.full_name is missing or empty\n"),
            ("/repository/owner", "repository.owner.id is missing or empty\n"),
            ("/installation", "installation.id is missing or empty\n"),
        ] {
            cases.push((place, Value::Null, message.to_owned()));
        }
        for wrong in [json!("yesterday"), json!("2026-02-30T00:00:00Z"), json!(5)] {
            let message = "workflow_job.created_at has a wrong type or value, at line # column #\n".to_owned();
            cases.push(("/workflow_job/created_at", wrong, message));
        }
        let early = json!("-009000-01-01T00:00:00Z");
        cases.push(("/workflow_job/created_at", early, "workflow_job.created_at lies before 1970\n".to_owned()));
        for (place, value, message) in cases {
            let mut wrong = body("queued", 1, ORG);
            *wrong.pointer_mut(place).unwrap() = value.clone();
            let (status, text) = bed.job(&wrong).await;
            let text = if message.contains('#') { without_numbers(&text) } else { text };
            assert_eq!((status, text), (400, message.clone()), "{place} {value}");
            if value.is_null() {
                let (parent, key) = place.rsplit_once('/').unwrap();
                wrong.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
                assert_eq!(bed.job(&wrong).await, (400, message), "{place} absent");
            }
        }
        assert_eq!(bed.rows().await, []);
        assert_eq!(bed.job(&body("queued", 1, ORG)).await, (200, "recorded".to_owned()), "what they were made from");
        assert_eq!(bed.rows().await, [(1, "pending".to_owned())]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_deliveries_do_without_what_only_the_first_needs() {
    test(async |bed| {
        for (id, action, status) in [(1, "in_progress", "running"), (2, "completed", "completed")] {
            let mut bare = body(action, id, ORG);
            bare["installation"] = json!({ "id": "none" });
            bare["workflow_job"]["html_url"] = Value::Null;
            bare["repository"]["owner"]["login"] = Value::Null;
            assert_eq!(bed.job(&bare).await, (200, "recorded".to_owned()), "{action}");
            assert_eq!(bed.rows().await.last(), Some(&(id, status.to_owned())));
        }
        let mut poisoned = body("in_progress", 3, ORG);
        poisoned["workflow_job"]["runner_name"] = json!("a\0b");
        assert_eq!(bed.job(&poisoned).await, (400, "workflow_job.runner_name holds a NUL character\n".to_owned()));
        poisoned["workflow_job"]["runner_name"] = json!("r".repeat(3000));
        let message = "workflow_job.runner_name has 3000 bytes, at most 1024\n".to_owned();
        assert_eq!(bed.job(&poisoned).await, (400, message));
        assert_eq!(bed.rows().await.len(), 2);
    })
    .await;
}

/// Text that no compression makes shorter.
fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b"abcdefghijklmnopqrstuvwxyz0123456789.,:;-_+*/()=?!#@%&$~"[(state % 56) as usize])
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_may_be_odd_but_not_endless() {
    const IGNORED: (u16, &str) = (200, "ignored: no platform has these labels");
    test(async |bed| {
        let mine = "ubuntu-24.04-riscv".to_owned();
        let many = |count: usize| -> Vec<String> { (0..count).map(|i| format!("label-{i}")).collect() };
        let mine_and = |count: usize| [many(count), vec![mine.clone()]].concat();
        // As many bytes as there may be, in as many labels: the index takes the row.
        let mut largest: Vec<String> = (0..99).map(|i| noise(20, i)).collect();
        largest.push(mine.clone());
        let left = 2048 - largest.iter().map(String::len).sum::<usize>();
        largest[0].push_str(&noise(left, 1000));
        let mut too_large = largest.clone();
        too_large[0].push('x');
        let odd = ["<script>", "a\"b\\c", "новый", "🦀", "\u{202e}rtl", "a\tb\nc", "'; drop table jobs; --", " "];
        let odd: Vec<String> = odd.iter().map(|&label| label.to_owned()).chain([mine.clone()]).collect();
        let nul = vec![mine.clone(), "a\0b".to_owned()];
        let cases: Vec<(i64, &str, Value, (u16, &str))> = vec![
            (1, "ten thousand", json!(mine_and(9_999)), (400, "workflow_job.labels has 10000 entries, at most 100\n")),
            (2, "one too many", json!(mine_and(100)), (400, "workflow_job.labels has 101 entries, at most 100\n")),
            (14, "ten thousand, no platform's", json!(many(10_000)), IGNORED),
            (3, "null", Value::Null, IGNORED),
            (4, "none", json!([]), IGNORED),
            (5, "an empty one", json!([""]), IGNORED),
            (6, "no platform's", json!(["ubuntu-latest"]), IGNORED),
            (7, "not a list", json!("x"), (400, "workflow_job.labels has a wrong type or value, at line # column #\n")),
            (
                8,
                "not text",
                json!([1]),
                (400, "workflow_job.labels[#] has a wrong type or value, at line # column #\n"),
            ),
            (9, "a NUL", json!(nul), (400, "workflow_job.labels holds a NUL character\n")),
            (10, "too long", json!(too_large), (400, "workflow_job.labels has 2049 bytes, at most 2048\n")),
            (11, "the most", json!(largest), (200, "recorded")),
            (12, "odd", json!(odd), (200, "recorded")),
            (13, "twice, in capitals", json!(["UBUNTU-24.04-RISCV", mine, mine]), (200, "recorded")),
        ];
        for (id, name, labels, (status, message)) in cases {
            let mut body = body("queued", id, PYTORCH);
            body["workflow_job"]["labels"] = labels;
            let (got, text) = bed.job(&body).await;
            let text = if message.contains('#') { without_numbers(&text) } else { text };
            assert_eq!((got, text.as_str()), (status, message), "{name}");
        }
        let rows = bed.whole_rows().await;
        assert_eq!(rows.iter().map(|row| row["job_id"].as_i64().unwrap()).collect::<Vec<_>>(), [11, 12, 13]);
        let mut sorted = odd;
        sorted.sort();
        assert_eq!(rows[1]["job_labels"], json!(sorted), "as they came, sorted");
        assert_eq!(rows[2]["job_labels"], json!(["ubuntu-24.04-riscv"]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_not_recorded_say_so() {
    test(async |bed| {
        for (event, body, message) in [
            ("ping", "{}", "pong"),
            ("push", "{}", "ignored: push is not an event this service records"),
            ("", "{}", "the header X-GitHub-Event is missing\n"),
            ("workflow_job", "{}", "ignored: only queued, in_progress and completed are recorded"),
            ("workflow_job", r#"{"action":"waiting"}"#, "ignored: only queued, in_progress and completed are recorded"),
            ("installation", r#"{"action":"created"}"#, "ignored: only deleted ends jobs"),
            ("installation", r#"{"action":"deleted"}"#, "installation.id is missing or not positive\n"),
            (
                "installation",
                r#"{"action":"deleted","installation":{"id":-1}}"#,
                "installation.id is missing or not positive\n",
            ),
            (
                "installation",
                r#"{"action":"deleted","installation":{"id":18446744073709551615}}"#,
                "installation.id is missing or not positive\n",
            ),
        ] {
            let answer = bed.deliver(event, body).await;
            let status = if message.ends_with('\n') { 400 } else { 200 };
            assert_eq!((answer.status, answer.text.as_str()), (status, message), "{event} {body}");
        }
        for (method, path, status) in
            [("GET", "/", 405), ("POST", "/usage", 405), ("GET", "/nothing", 404), ("GET", "/health", 200)]
        {
            let request = http::Request::builder().method(method).uri(format!("http://{}{path}", bed.address));
            let answer = bed.send(request.body(Default::default()).unwrap()).await;
            assert_eq!(answer.status, status, "{method} {path}");
        }
        assert_eq!(bed.rows().await, []);
    })
    .await;
}
