use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

/// Far longer than an answer takes here.
const SOON: Duration = Duration::from_secs(20);

/// A server that gives one answer until it is given another, and keeps what it was asked last.
struct Server {
    url: String,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<Mutex<(u32, String)>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}/pods", listener.local_addr().expect("an address"));
        let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
        let asked: Arc<Mutex<(u32, String)>> = Arc::default();
        let (give, keep) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut some = [0; 1024];
                    match stream.read(&mut some).await {
                        Ok(0) | Err(_) => break,
                        Ok(read) => request.extend_from_slice(&some[..read]),
                    }
                }
                let whole = give.lock().expect("whole").clone();
                let _ = stream.write_all(&whole).await;
                let _ = stream.shutdown().await;
                let mut keep = keep.lock().expect("whole");
                *keep = (keep.0 + 1, String::from_utf8_lossy(&request).into_owned());
            }
        });
        Self { url, answer, asked }
    }

    fn answer(&self, status: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
        *self.answer.lock().expect("whole") = [head.as_bytes(), body].concat();
    }

    /// Waits until it was asked so often again that the answer of now was heard.
    async fn is_heard(&self) {
        let count = || self.asked.lock().expect("whole").0;
        let before = count();
        let heard = async {
            while count() < before + 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, heard).await.expect("it goes on asking");
    }
}

fn item(name: &str, image: &str) -> String {
    format!(
        r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"containers": [{{"name": "c", "image": "{image}"}}]}}}}"#
    )
}

fn list(items: &[String]) -> Vec<u8> {
    format!(r#"{{"apiVersion": "v1", "kind": "PodList", "items": [{}]}}"#, items.join(",")).into()
}

fn options(url: &str, kept: Vec<Pod>) -> UrlOptions {
    let mut headers = HeaderMap::new();
    headers.append("x-token", "secret".parse().expect("a value"));
    headers.append("x-token", "other".parse().expect("a value"));
    let every = Duration::from_millis(10);
    UrlOptions { url: url.parse().expect("an address"), headers, every, node: "n1".into(), kept }
}

fn images(update: &Update) -> Vec<&str> {
    let spec = update.pods.iter().filter_map(|pod| pod.spec.as_ref());
    spec.filter_map(|spec| spec.containers[0].image.as_deref()).collect()
}

async fn next(heard: &mut mpsc::Receiver<Update>) -> Update {
    timeout(SOON, heard.recv()).await.expect("in time").expect("it goes on")
}

#[tokio::test]
async fn what_is_there_is_followed_and_no_failure_ends_a_pod() {
    let server = Server::start().await;
    server.answer("200 OK", &list(&[item("a", "1"), item("b", "2")]));
    let (updates, mut heard) = mpsc::channel(1);
    follow(options(&server.url, Vec::new()), updates);
    let first = next(&mut heard).await;
    assert_eq!((images(&first), first.is_seen), (vec!["1", "2"], true));
    let request = server.asked.lock().expect("whole").1.clone();
    assert!(request.starts_with("GET /pods HTTP/1.1"), "{request}");
    assert!(request.contains("x-token: secret\r\nx-token: other\r\n"), "{request}");
    for (status, body) in [
        ("500 Internal Server Error", list(&[])),
        ("404 Not Found", list(&[])),
        ("200 OK", Vec::new()),
        ("200 OK", b"not: [a, pod".to_vec()),
        ("200 OK", b"{}".to_vec()),
        ("200 OK", vec![b' '; 11 << 20]),
        ("200 OK", b"\xff\xff".to_vec()),
    ] {
        server.answer(status, &body);
        server.is_heard().await;
        assert!(heard.try_recv().is_err(), "{status}: nothing is said");
    }
    *server.answer.lock().expect("whole") = b"nonsense".to_vec();
    server.is_heard().await;
    assert!(heard.try_recv().is_err(), "nothing is said");
    // One wrong pod leaves its last version and the others' new ones.
    let wrong = item("b", "9").replace(r#""name": "c""#, r#""name": "C""#);
    server.answer("200 OK", &list(&[item("a", "3"), wrong, item("d", "4")]));
    assert_eq!(images(&next(&mut heard).await), ["3", "4", "2"]);
    let one = item("a", "5").replacen('{', r#"{"apiVersion": "v1", "kind": "Pod", "#, 1);
    server.answer("200 OK", one.as_bytes());
    assert_eq!(images(&next(&mut heard).await), ["5"]);
    server.answer("200 OK", &list(&[]));
    assert_eq!(images(&next(&mut heard).await), [""; 0]);
}

#[tokio::test]
async fn what_was_there_is_remembered_until_the_address_answers() {
    let server = Server::start().await;
    server.answer("200 OK", &list(&[item("a", "1")]));
    let (updates, mut heard) = mpsc::channel(1);
    follow(options(&server.url, Vec::new()), updates);
    let kept = next(&mut heard).await.pods;
    drop(heard);
    server.answer("503 Service Unavailable", b"");
    let (updates, mut heard) = mpsc::channel(1);
    follow(options(&server.url, kept.clone()), updates);
    let update = next(&mut heard).await;
    assert_eq!((&update.pods, update.is_seen), (&kept, false));
    server.answer("200 OK", &list(&[item("a", "1")]));
    let update = next(&mut heard).await;
    assert_eq!((&update.pods, update.is_seen), (&kept, true));
}

#[test]
fn an_address_is_shown_without_its_secrets() {
    let url = "https://user:password@host:8443/pods?token=t".parse().expect("an address");
    assert_eq!(shown(&url), "https://host:8443/pods");
}
