//! Against a server of the test's own that speaks as systemd does; systemd itself is spoken to by
//! the tests of control groups, where there is one (`make test-vm`).

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{JoinHandle, spawn};

use super::bus::Bus;
use super::wire::{Reader, Writer};
use super::*;

const JOB: &str = "/org/freedesktop/systemd1/job/7";

/// What the server does about one call.
enum Answer {
    /// It has a job, whose end it tells after its answer.
    Job(&'static str),
    /// The same, told before its answer, in the other byte order.
    Early(&'static str),
    /// Nothing to wait for.
    Done,
    Error(&'static str, &'static str),
    /// It goes away.
    Gone,
    /// It says nothing for as long as we hold on.
    Silent,
}

/// A call as it came: its member, and its body.
type Call = (String, Vec<u8>);

/// A server of one connection, and what it was asked.
fn server(answers: Vec<Answer>) -> (tempfile::TempDir, Systemd, JoinHandle<Vec<Call>>) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("private");
    let listener = UnixListener::bind(&socket).expect("listens");
    let served = spawn(move || {
        let (stream, _) = listener.accept().expect("accepts");
        serve(stream, answers)
    });
    (dir, Systemd { socket }, served)
}

fn serve(stream: UnixStream, answers: Vec<Answer>) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut output = stream.try_clone().expect("clones");
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line).expect("reads");
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
    assert_eq!(line, format!("\0AUTH EXTERNAL {hex}\r\n"));
    output.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").expect("writes");
    line.clear();
    input.read_line(&mut line).expect("reads");
    assert_eq!(line, "BEGIN\r\n");
    for answer in answers {
        // A client that is too slow for its own deadline never calls.
        let Some((serial, call)) = read_call(&mut input) else { return calls };
        calls.push(call);
        let removed = |result: &str, mut body: Writer| {
            body.u32(7);
            [JOB, "a.slice", result].iter().for_each(|text| body.text(text));
            body
        };
        let texts = |texts: &[&str], mut body: Writer| {
            texts.iter().for_each(|text| body.text(text));
            body
        };
        let little = Writer::default;
        let mut send = |bytes: Vec<u8>| output.write_all(&bytes).expect("writes");
        match answer {
            Answer::Job(result) => {
                send(message(4, 0, "UnitNew", texts(&["a.slice", JOB], little())));
                send(message(2, serial, "", texts(&[JOB], little())));
                send(message(4, 0, "JobRemoved", removed(result, little())));
            }
            Answer::Early(result) => {
                send(message(4, 0, "JobRemoved", removed(result, Writer::big())));
                send(message(2, serial, "", texts(&[JOB], Writer::big())));
            }
            Answer::Done => send(message(2, serial, "", little())),
            Answer::Error(name, text) => {
                send(message(3, serial, name, texts(&[text], little())));
            }
            Answer::Gone => return calls,
            Answer::Silent => {
                let _ = input.read(&mut [0]);
            }
        }
    }
    calls
}

fn read_call(input: &mut impl Read) -> Option<(u32, Call)> {
    let mut fixed = [0; 16];
    input.read_exact(&mut fixed).ok()?;
    assert_eq!((fixed[0], fixed[1], fixed[3]), (b'l', 1, 1));
    let mut bytes = fixed.to_vec();
    bytes.resize(16 + message::rest_len(&fixed).expect("fits"), 0);
    input.read_exact(&mut bytes[16..]).expect("reads");
    let mut header = Reader::new(&bytes, false);
    header.u32().expect("order and kind");
    let (body, serial) = (header.u32().expect("a length"), header.u32().expect("a serial"));
    let fields = header.list(8, |field| Ok((field.byte()?, field.value()?))).expect("reads");
    let field = |code| fields.iter().find(|(c, _)| *c == code).map(|(_, v)| v.clone());
    assert_eq!(field(1), Some(Value::Path("/org/freedesktop/systemd1".into())));
    assert_eq!(field(2), Some("org.freedesktop.systemd1.Manager".into()));
    assert_eq!(field(6), Some("org.freedesktop.systemd1".into()));
    let Some(Value::Text(member)) = field(3) else { panic!("{fields:?}") };
    let types = match &*member {
        "StartTransientUnit" => "ssa(sv)a(sa(sv))",
        "StopUnit" => "ss",
        _ => "sba(sv)",
    };
    assert_eq!(field(8), Some(Value::Types(types.into())));
    let len = usize::try_from(body).expect("fits");
    Some((serial, (member, bytes[bytes.len() - len..].to_vec())))
}

/// A message of a kind: a return to a call, an error of a name, a signal of a member.
fn message(kind: u8, to: u32, name: &str, body: Writer) -> Vec<u8> {
    let writer = if body.is_big() { Writer::big() } else { Writer::default() };
    let mut fields = vec![(5, Value::U32(to))];
    match kind {
        3 => fields.push((4, name.into())),
        4 => fields[0] = (3, name.into()),
        _ => {}
    }
    message::header(writer, kind, 9, &fields, &body.bytes())
}

fn shown(body: &mut Reader<'_>) -> Vec<(String, Value)> {
    body.list(8, |one| Ok((one.text()?, one.value()?))).expect("reads")
}

fn property(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.into(), value.into())
}

/// The unit and properties of a call that starts one.
fn started((member, body): &Call) -> (String, Vec<(String, Value)>) {
    assert_eq!(member, "StartTransientUnit");
    let mut body = Reader::new(body, false);
    let (unit, mode) = (body.text().expect("a unit"), body.text().expect("a mode"));
    let properties = shown(&mut body);
    let aux = body.list(8, |_| Ok(())).expect("a list");
    assert!(mode == "replace" && aux.is_empty());
    (unit, properties)
}

#[test]
fn a_slice_is_started_and_one_that_is_there_is_changed() {
    let first = || vec![("CPUWeight", 100_u64.into())];
    let limits = || vec![("MemoryMax", 5_u64.into()), ("CPUAccounting", true.into())];
    for answer in [Answer::Job("done"), Answer::Early("done")] {
        let (_dir, systemd, served) = server(vec![answer]);
        assert!(systemd.ensure_slice("a-b.slice", "d", first(), limits()).expect("starts"));
        let (unit, properties) = started(&served.join().expect("serves")[0]);
        assert_eq!(unit, "a-b.slice");
        let all = [
            property("Description", "d"),
            property("DefaultDependencies", false),
            property("CPUWeight", 100_u64),
            property("MemoryMax", 5_u64),
            property("CPUAccounting", true),
        ];
        assert_eq!(properties, all);
    }
    let there = Answer::Error("org.freedesktop.systemd1.UnitExists", "Unit a.slice exists.");
    let (_dir, systemd, served) = server(vec![there, Answer::Done]);
    assert!(!systemd.ensure_slice("a.slice", "d", first(), limits()).expect("changes"));
    let (member, body) = served.join().expect("serves").remove(1);
    let mut body = Reader::new(&body, false);
    let (unit, runtime) = (body.text().expect("a unit"), body.u32().expect("yes or no"));
    assert_eq!((member.as_str(), unit.as_str(), runtime), ("SetUnitProperties", "a.slice", 1));
    let changed = [property("MemoryMax", 5_u64), property("CPUAccounting", true)];
    assert_eq!(shown(&mut body), changed);
}

#[test]
fn a_scope_takes_a_process_and_a_unit_that_is_gone_is_stopped() {
    let (_dir, systemd, served) = server(vec![Answer::Job("done")]);
    systemd.start_scope("copepod-1.scope", "a.slice", "d", 42).expect("starts");
    let (unit, properties) = started(&served.join().expect("serves")[0]);
    assert_eq!(unit, "copepod-1.scope");
    for wanted in [
        property("Slice", "a.slice"),
        property("PIDs", vec![42]),
        property("DelegateControllers", Vec::<String>::new()),
    ] {
        assert!(properties.contains(&wanted), "{wanted:?}: {properties:?}");
    }
    for answer in [
        Answer::Job("done"),
        Answer::Error("org.freedesktop.systemd1.NoSuchUnit", "Unit a.slice not loaded."),
    ] {
        let (_dir, systemd, served) = server(vec![answer]);
        systemd.stop("a.slice").expect("is gone");
        assert_eq!(served.join().expect("serves")[0].0, "StopUnit");
    }
}

#[test]
fn what_fails_is_told() {
    let (_dir, systemd, _) = server(vec![Answer::Job("failed")]);
    let failed = systemd.start_scope("s.scope", "a.slice", "d", 1).expect_err("failed");
    assert_eq!(failed.to_string(), "its job ended as \"failed\"");
    let (_dir, systemd, _) = server(vec![Answer::Error("org.x.Y", "no")]);
    let refused = systemd.set("a.slice", &[]).expect_err("refused");
    assert_eq!(refused.to_string(), "no (org.x.Y)");
    let (_dir, systemd, _) = server(vec![Answer::Gone]);
    let gone = systemd.set("a.slice", &[]).expect_err("gone");
    assert!(matches!(gone, SystemdError::Transfer(_)), "{gone}");
    let (_dir, Systemd { socket }, served) = server(vec![Answer::Silent]);
    let mut bus = Bus::open(&socket, Duration::from_secs(1)).expect("opens");
    let late = bus.stop("a.slice").expect_err("late");
    assert!(matches!(late, SystemdError::Timeout(1)), "{late}");
    drop(bus);
    served.join().expect("serves");
    let none = Systemd::at(Path::new("/nonexistent")).expect_err("nobody");
    assert!(matches!(none, SystemdError::Connect { .. }), "{none}");
}

#[test]
fn a_message_has_a_bound() {
    let mut fixed = [0; 16];
    fixed[0] = b'l';
    fixed[4..8].copy_from_slice(&[0, 0, 16, 0]);
    assert_eq!(message::rest_len(&fixed).expect("fits"), 1 << 20);
    fixed[4] = 1;
    assert!(
        matches!(message::rest_len(&fixed), Err(SystemdError::Long(len)) if len == (1 << 20) + 1)
    );
    fixed[12..16].copy_from_slice(&[0xff; 4]);
    assert!(message::rest_len(&fixed).is_err());
    assert!(message::read(&fixed).is_err());
}
