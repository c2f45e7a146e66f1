//! The echo server over the wire: the program is freestanding, so the finished thing is what can be tested.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use base::Clock;
use serde_json::Value;

use super::ECHO;

/// Far above what anything here takes; it only bounds a broken server.
const DEADLINE: Duration = Duration::from_secs(20);

struct Echo {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Echo {
    fn start(environment: &[(&str, &str)]) -> Self {
        let mut echo = Self::begin(environment);
        // The first line says that it listens.
        let mut line = [0_u8; 8];
        echo.child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        echo
    }

    fn begin(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo-server");
        std::fs::write(&path, ECHO).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(&path);
        command.env_clear().env("PORT", port.to_string()).envs(environment.iter().copied());
        // Another thread that forks while the file above was open for writing makes the kernel call it busy.
        let child = loop {
            match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                other => break other.unwrap(),
            }
        };
        Self { child, port, folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Status and body of one request on a connection of its own.
    fn ask(&self, request: &str) -> (u16, Value) {
        let mut stream = self.connect();
        write!(stream, "{request} HTTP/1.1\r\nHost: shop:80\r\nConnection: close\r\n\r\n").unwrap();
        answer(&mut stream)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads one answer by its length.
fn answer(stream: &mut TcpStream) -> (u16, Value) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_slice(&body).unwrap())
}

#[test]
fn it_says_who_it_is_and_who_asks() {
    let echo = Echo::start(&[("ECHO_VERSION", "v1"), ("POD_NAME", "pod-\"7\"")]);
    let mut stream = echo.connect();
    let here: SocketAddr = stream.local_addr().unwrap();
    write!(stream, "POST /a/b?c=d HTTP/1.1\r\nHost: shop:80\r\nContent-Length: 3\r\n\r\nxyz").unwrap();
    let (status, body) = answer(&mut stream);
    assert_eq!(status, 200);
    let expect = serde_json::json!({
        "version": "v1", "pod": "pod-\"7\"", "caller": here.to_string(), "method": "POST", "path": "/a/b",
        "query": "c=d", "host": "shop:80"
    });
    assert_eq!(body, expect);
    // The connection is kept, and two requests may come at once.
    write!(stream, "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(
        (answer(&mut stream).1["path"].clone(), answer(&mut stream).1["path"].clone()),
        ("/1".into(), "/2".into())
    );
    assert_eq!(echo.ask("GET /env").1["ECHO_VERSION"], "v1");
    assert_eq!(echo.ask("GET /headers").1["Host"], "shop:80");
}

#[test]
fn probes_fail_on_request() {
    let echo = Echo::start(&[("ECHO_UNREADY", "1")]);
    assert_eq!((echo.ask("GET /healthz").0, echo.ask("GET /readyz").0), (200, 503));
    assert_eq!(echo.ask("POST /fail?probe=readiness&on=false").0, 200);
    assert_eq!(echo.ask("POST /fail?probe=liveness&on=true").0, 200);
    assert_eq!((echo.ask("GET /healthz").0, echo.ask("GET /readyz").0), (503, 200));
    assert_eq!((echo.ask("GET /fail?probe=liveness").0, echo.ask("POST /fail").0), (405, 400));
}

#[test]
fn nonsense_gets_its_status_and_ends_the_connection() {
    let echo = Echo::start(&[]);
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let cases = [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        ("POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nNo colon\r\n\r\n", 400),
        (&long, 431),
    ];
    for (bytes, expect) in cases {
        let mut stream = echo.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(answer(&mut stream).0, expect, "{bytes:.40}");
    }
    assert_eq!(echo.ask("GET /").0, 200);
}

#[test]
fn a_slow_answer_holds_up_nobody_else() {
    let echo = Echo::start(&[]);
    let clock = Clock::system();
    let begun = clock.monotonic();
    let mut slow = echo.connect();
    write!(slow, "GET /slow?ms=400 HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(echo.ask("GET /").0, 200);
    assert!(clock.monotonic() - begun < Duration::from_millis(400));
    assert_eq!(answer(&mut slow).1["path"], "/slow");
    assert!(clock.monotonic() - begun >= Duration::from_millis(400));
}

#[test]
fn sigterm_finishes_what_is_under_way_and_takes_what_still_comes() {
    let echo = Echo::start(&[("ECHO_DRAIN_MS", "300")]);
    let mut slow = echo.connect();
    write!(slow, "GET /slow?ms=700 HTTP/1.1\r\n\r\n").unwrap();
    let mut idle = echo.connect();
    write!(idle, "GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(answer(&mut idle).0, 200);
    echo.signal(rustix::process::Signal::TERM);
    assert_eq!(echo.ask("GET /late").0, 200, "new connections are taken while it drains");
    assert_eq!(answer(&mut slow).0, 200);
    assert_eq!(idle.read(&mut [0; 8]).unwrap(), 0, "idle connections are closed");
    assert_eq!(echo.end().code(), Some(0));
}

#[test]
fn it_exits_as_asked() {
    let echo = Echo::start(&[]);
    assert_eq!(echo.ask("GET /exit?code=7").0, 200);
    assert_eq!(echo.end().code(), Some(7));
    let echo = Echo::start(&[("ECHO_EXIT_AFTER_MS", "1"), ("ECHO_EXIT_CODE", "9")]);
    assert_eq!(echo.end().code(), Some(9));
    let mut refusing = Echo::begin(&[("ECHO_REFUSE_ROOT", "1")]);
    let mut message = String::new();
    refusing.child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert!(message.contains("runAsUser"), "{message}");
    assert_eq!(refusing.end().code(), Some(1));
}

#[test]
fn it_takes_little_memory_until_told_to_eat() {
    let echo = Echo::start(&[]);
    for _ in 0..50 {
        assert_eq!(echo.ask("GET /").0, 200);
    }
    let private = || {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", echo.child.id())).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("Private_Clean") || line.starts_with("Private_Dirty"));
        lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert!(private() < 500, "{} KiB", private());
    assert_eq!(echo.ask("GET /eat?mb=8").0, 200);
    assert!(private() > 8 << 10);
}

#[test]
fn datagrams_come_back() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _echo = Echo::start(&[("ECHO_UDP", &port.to_string())]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send_to(b"over here", ("127.0.0.1", port)).unwrap();
    let mut buffer = [0; 32];
    let (count, _) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"over here");
}

#[test]
fn it_is_its_own_client_by_another_name() {
    let echo = Echo::start(&[("ECHO_VERSION", "v2")]);
    let get = echo.folder.path().join("get");
    std::fs::hard_link(echo.folder.path().join("echo-server"), &get).unwrap();
    let run = |url: &str| Command::new(&get).arg(url).output().unwrap();
    let output = run(&format!("http://localhost:{}/x", echo.port));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((body["version"].as_str(), body["path"].as_str()), (Some("v2"), Some("/x")));
    assert_eq!(echo.ask("POST /fail?probe=liveness").0, 200);
    assert_eq!(run(&format!("127.0.0.1:{}/healthz", echo.port)).status.code(), Some(22));
    assert_eq!(run("http://127.0.0.1:1/").status.code(), Some(1));
}

#[test]
fn half_an_answer_is_none_for_its_client() {
    let echo = Echo::start(&[]);
    let get = echo.folder.path().join("get");
    std::fs::hard_link(echo.folder.path().join("echo-server"), &get).unwrap();
    for (answer, code) in [
        ("HTTP/1.0 200 OK\r\ncontent-length: 9\r\n\r\nhalf", 1),
        ("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nhalf", 0),
        ("HTTP/1.0 200 OK\r\n\r\nhalf", 0),
        ("HTTP/1.0 200 OK\r\n", 1),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let output = Command::new(&get).arg(format!("127.0.0.1:{port}")).output().unwrap();
        server.join().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{answer:?}: {complaint}");
    }
}

/// Answers one question for `name` with 127.0.0.1, and others with "no such name". Ends with the test's process.
fn name_server(address: &str, name: &str) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    let labels: Vec<u8> =
        name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let question = &buffer[12..count];
            let known = question.starts_with(&labels) && question[labels.len() + 2] == 1;
            let code = if known { 0 } else { 3 };
            let head = [&buffer[..2], &[0x81, 0x80 | code, 0, 1, 0, u8::from(known), 0, 0, 0, 0]].concat();
            let record: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, 1];
            let _ =
                socket.send_to(&[head.as_slice(), question, if known { record } else { &[] }].concat(), from);
        }
    });
}

#[test]
fn its_client_finds_services_by_the_search_list() {
    let echo = Echo::start(&[]);
    let get = echo.folder.path().join("get");
    std::fs::hard_link(echo.folder.path().join("echo-server"), &get).unwrap();
    let server = "127.0.0.78";
    name_server(server, "backend.default.svc.cluster.local");
    let resolv = echo.folder.path().join("resolv.conf");
    let search = "search default.svc.cluster.local svc.cluster.local cluster.local";
    std::fs::write(&resolv, format!("{search}\nnameserver {server}\noptions ndots:5\n")).unwrap();
    // A mount namespace of its own, so that the machine's own file stays as it is.
    let run = |host: &str| {
        let script = format!(
            "mount --bind {} \"$(readlink -f /etc/resolv.conf)\" && exec {} http://{host}:{}/found",
            resolv.display(),
            get.display(),
            echo.port
        );
        Command::new("unshare").args(["--mount", "sh", "-euc", &script]).output().unwrap()
    };
    for host in ["backend", "backend.default.svc", "backend.default.svc.cluster.local"] {
        let output = run(host);
        assert!(output.status.success(), "{host}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = run("frontend");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("frontend is not known"));
}
