//! Input that no decent client sends: it gets a clear answer or is cut off, and the server lives
//! on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{Answer, DEADLINE, Server};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

#[test]
fn malformed_json_is_a_bad_request() {
    let server = Server::api_alone();
    for text in ["", "{", "{\"metadata\":", "nul", "[]", "\"text\"", "{\"metadata\": {\"name\": \"a\"}} more", "\0\0\0\0"] {
        post(&server, text.as_bytes()).status(400);
    }
    check_lives(&server);
}

#[test]
fn deep_nesting_is_a_bad_request() {
    const DEPTH: usize = 100_000;
    let server = Server::api_alone();
    post(&server, "[".repeat(DEPTH).as_bytes()).status(400);
    post(&server, (r#"{"data":"#.to_owned() + &"[".repeat(DEPTH) + &"]".repeat(DEPTH) + "}").as_bytes()).status(400);
    post(&server, (r#"{"data":"#.repeat(DEPTH) + "1" + &"}".repeat(DEPTH)).as_bytes()).status(400);
    let admin = server.admin();
    let flow = format!("data: {}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    admin.ask("POST", CONFIG_MAPS, "application/yaml", flow.as_bytes()).unwrap().status(400);
    admin.create(CONFIG_MAPS, &json!({"metadata": {"name": "patched"}}));
    let patch = r#"{"metadata":"#.to_owned() + &r#"{"a":"#.repeat(DEPTH) + "1" + &"}".repeat(DEPTH) + "}";
    for kind in ["application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"] {
        let path = format!("{CONFIG_MAPS}/patched?fieldManager=test");
        let answer = admin.ask("PATCH", &path, kind, patch.as_bytes()).unwrap();
        assert!((400..500).contains(&answer.code), "{kind}: {}", answer.text());
    }
    check_lives(&server);
}

#[test]
fn huge_numbers_are_bad_requests() {
    let server = Server::api_alone();
    let digits = "9".repeat(10_000);
    for number in ["99999999999999999999", "1e999", "-1e999", digits.as_str()] {
        let text = format!(r#"{{"metadata": {{"name": "a", "generation": {number}}}}}"#);
        post(&server, text.as_bytes()).status(400);
    }
    for path in ["?limit=99999999999999999999", "?resourceVersion=99999999999999999999", "?watch=1&timeoutSeconds=99999999999999999999"] {
        server.admin().get(&format!("{CONFIG_MAPS}{path}")).status(400);
    }
    check_lives(&server);
}

#[test]
fn invalid_utf8_is_never_stored() {
    let server = Server::api_alone();
    let answer = post(&server, b"{\"metadata\": {\"name\": \"a\"}, \"data\": {\"key\": \"\xff\xfe\xc0\x80\"}}");
    assert!(answer.status(400).contains("json parse error: invalid character 'ÿ'"), "{}", answer.text());
    assert_eq!(server.admin().get(&format!("{CONFIG_MAPS}/a")).code, 404);
    check_lives(&server);
}

#[test]
fn bodies_over_three_megabytes_are_too_large() {
    let server = Server::api_alone();
    let mut connection = server.admin().connect().unwrap();
    let body = config_map("large", 3 * 1024 * 1024);
    // The server may answer before it has read everything.
    let _ = connection.send("POST", CONFIG_MAPS, JSON, body.to_string().as_bytes());
    let message = connection.answer().unwrap().status(413);
    assert_eq!(message, "Request entity too large: limit is 3145728");
    check_lives(&server);
}

#[test]
fn config_maps_over_a_mebibyte_are_invalid() {
    let server = Server::api_alone();
    let answer = server.admin().post(CONFIG_MAPS, &config_map("large", 1024 * 1024 + 1));
    assert!(answer.status(422).contains("Too long: may not be more than 1048576 bytes"), "{}", answer.text());
    check_lives(&server);
}

#[test]
fn objects_over_what_etcd_takes_are_refused() {
    let server = Server::api_alone();
    let env: Vec<Value> = (0..20).map(|number| json!({"name": format!("E{number}"), "value": "a".repeat(100_000)})).collect();
    let spec = json!({"containers": [{"name": "c", "image": "example.com/c", "env": env}]});
    let answer = server.admin().post("/api/v1/namespaces/default/pods", &json!({"metadata": {"name": "large"}, "spec": spec}));
    assert_eq!(answer.status(500), "etcdserver: request is too large");
    check_lives(&server);
}

#[test]
fn clients_that_say_nothing_are_cut_off() {
    let server = Server::api_alone();
    let mut half_a_head = server.admin().connect().unwrap();
    half_a_head.write(b"GET /api/v1/pods HTTP/1.1\r\nHost: test\r\nX-Rest: ").unwrap();
    let mut half_a_body = server.admin().connect().unwrap();
    half_a_body.write(b"POST /api/v1/namespaces HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{").unwrap();
    let mut no_tls = TcpStream::connect(server.address()).unwrap();
    check_lives(&server);
    assert_closes(&mut no_tls);
    assert!(half_a_head.answer().is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    half_a_body.answer().expect("the server does not wait for the rest").status(504);
    check_lives(&server);
}

#[test]
fn garbage_instead_of_tls_is_cut_off() {
    let server = Server::api_alone();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 1000], vec![0xff; 100_000], b"\x16\x03\x01\xff\xff".repeat(10_000)] {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let _ = stream.write_all(&garbage);
        assert_closes(&mut stream);
    }
    check_lives(&server);
}

#[test]
fn garbage_instead_of_http_is_cut_off() {
    let server = Server::api_alone();
    for garbage in
        [b"\0\0\0\0\r\n\r\n".to_vec(), vec![b'A'; 200_000], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense nonsense nonsense".to_vec()]
    {
        let mut connection = server.admin().connect().unwrap();
        let _ = connection.write(&garbage);
        match connection.answer() {
            Ok(answer) => assert!((400..500).contains(&answer.code), "{}", answer.code),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it was not cut off"),
        }
    }
    check_lives(&server);
}

#[test]
fn a_slow_watcher_gets_everything_or_is_told_to_list_again() {
    // More than the window of events holds, and than sockets buffer.
    const OBJECTS: usize = 45;
    const BYTES: usize = 800_000;
    let server = Server::api_alone();
    let mut watch = server.admin().connect().unwrap();
    watch.send("GET", &format!("{CONFIG_MAPS}?watch=true"), "", b"").unwrap();
    assert_eq!(watch.head().unwrap(), (200, None));
    let mut writer = server.admin().connect().unwrap();
    for number in 0..OBJECTS {
        let body = config_map(&format!("filler-{number}"), BYTES).to_string();
        assert_eq!(writer.ask("POST", CONFIG_MAPS, JSON, body.as_bytes()).unwrap().code, 201);
    }
    check_lives(&server);
    let mut text = Vec::new();
    let mut added = 0;
    while added < OBJECTS {
        let Some(chunk) = watch.chunk().unwrap() else { panic!("the watch ended after {added} events without a word") };
        text.extend(chunk);
        let Some(end) = text.iter().position(|&byte| byte == b'\n') else { continue };
        let rest = text.split_off(end + 1);
        let event: Value = serde_json::from_slice(&std::mem::replace(&mut text, rest)).unwrap();
        if event["type"] == "ERROR" {
            assert_eq!(event["object"]["code"], 410, "{}", event["object"]);
            return;
        }
        assert_eq!(event["object"]["metadata"]["name"], format!("filler-{added}").as_str());
        added += 1;
    }
}

fn post(server: &Server, body: &[u8]) -> Answer {
    server.admin().ask("POST", CONFIG_MAPS, JSON, body).expect("the server answers")
}

fn config_map(name: &str, bytes: usize) -> Value {
    json!({"metadata": {"name": name}, "data": {"filling": "a".repeat(bytes)}})
}

/// The server is ready and does what it is asked.
fn check_lives(server: &Server) {
    assert_eq!(server.anonymous().get("/readyz").code, 200);
    let made = server.admin().create(CONFIG_MAPS, &json!({"metadata": {"generateName": "alive-"}, "data": {"key": "value"}}));
    assert_eq!(made["data"]["key"], "value");
}

/// The other side closes before the deadline; what it says first does not matter.
fn assert_closes(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it was not cut off");
    }
}
