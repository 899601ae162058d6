//! A wasi:http server: shows that a component is served, bodies of any size stream through it, and
//! what one broken request does to the others (nothing). It makes no requests of its own.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | `ok` |
//! | `GET /hello` | a greeting |
//! | `GET /env` | its environment, a line each |
//! | `GET /files/PATH` | the file `/PATH` that it sees |
//! | `POST /echo` | the request's body, chunk by chunk |
//! | `GET /burn?ms=N` | burns CPU for N milliseconds |
//! | `GET /alloc?mib=N` | takes and touches N MiB |
//! | `GET /trap` | none: it traps |
//! | anything else | 404 |

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const MIB: usize = 1 << 20;
const FILES: &str = "/files/";

struct Server;
wasip2::http::proxy::export!(Server);

impl Guest for Server {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let result = match (request.method(), path) {
            (Method::Get, "/healthz") => text(answer, 200, "ok\n"),
            (Method::Get, "/hello") => text(answer, 200, "hello from wasi:http\n"),
            (Method::Get, "/env") => text(answer, 200, &env()),
            (Method::Get, path) if path.starts_with(FILES) => {
                file(answer, &path[FILES.len() - 1..])
            }
            (Method::Post, "/echo") => echo(&request, answer),
            (Method::Get, "/burn") => match number(query, "ms=") {
                Some(ms) => text(answer, 200, &burn(Duration::from_millis(ms))),
                None => text(answer, 400, "expected /burn?ms=N\n"),
            },
            (Method::Get, "/alloc") => match number(query, "mib=") {
                Some(mib) => text(answer, 200, &alloc(mib)),
                None => text(answer, 400, "expected /alloc?mib=N\n"),
            },
            (Method::Get, "/trap") => core::arch::wasm32::unreachable(),
            _ => text(answer, 404, "not found\n"),
        };
        if let Err(error) = result {
            eprintln!("{target}: {error}"); // the client went away: nobody else to tell
        }
    }
}

fn text(answer: ResponseOutparam, status: u16, text: &str) -> io::Result<()> {
    respond(answer, status, &mut text.as_bytes())
}

fn file(answer: ResponseOutparam, path: &str) -> io::Result<()> {
    match File::open(path) {
        Ok(mut file) => respond(answer, 200, &mut file),
        Err(error) => text(answer, 404, &format!("{path}: {error}\n")),
    }
}

/// Streams the body back: what is held is one chunk, whatever the size.
fn echo(request: &IncomingRequest, answer: ResponseOutparam) -> io::Result<()> {
    let gone = |()| io::Error::other("the body was taken before");
    let body = request.consume().map_err(gone)?;
    let mut chunks = body.stream().map_err(gone)?;
    respond(answer, 200, &mut chunks)
}

fn respond(answer: ResponseOutparam, status: u16, from: &mut impl io::Read) -> io::Result<()> {
    let gone = |()| io::Error::other("the answer was taken before");
    let headers = Fields::new();
    headers.append("content-type", b"text/plain").map_err(io::Error::other)?;
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).map_err(gone)?;
    let body = response.body().map_err(gone)?;
    ResponseOutparam::set(answer, Ok(response));

    let mut to = body.write().map_err(gone)?;
    io::copy(from, &mut to)?;
    io::Write::flush(&mut to)?;
    drop(to); // a body may only be finished without its stream
    OutgoingBody::finish(body, None).map_err(io::Error::other)
}

fn env() -> String {
    let mut lines: Vec<_> = std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect();
    lines.sort();
    lines.concat()
}

fn number(query: &str, name: &str) -> Option<u64> {
    query.strip_prefix(name)?.parse().ok()
}

fn burn(time: Duration) -> String {
    let start = Instant::now();
    let mut iterations = 0_u64;
    while start.elapsed() < time {
        iterations = black_box(iterations) + 1;
    }
    format!("iterations {iterations}\n")
}

fn alloc(mib: u64) -> String {
    let held: Vec<Vec<u8>> = (0..mib).map(|_| black_box(vec![7; MIB])).collect();
    format!("took {} MiB\n", black_box(held).len())
}
