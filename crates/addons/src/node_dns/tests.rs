//! The resolver over real sockets on the loopback interface, with a resolver of others that the
//! test plays.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use brain::dns::{Zone, ZoneSettings};
use brain::model::Key;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::forward::Forwarder;
use super::resolver::Resolver;
use super::server;

const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// Nothing is sent back within this time, or ever.
const SILENCE: Duration = Duration::from_millis(300);
/// More endpoints than a plain answer over UDP has room for.
const MANY: usize = 60;

struct World {
    address: SocketAddr,
    resolver: Arc<Resolver>,
    /// Questions that the resolver of others got.
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

fn zone() -> Zone {
    let mut zone = Zone::new(ZoneSettings {
        domain: "cluster.local".to_owned(),
        server: "10.96.0.10".parse().expect("an address"),
        ranges: vec!["10.0.0.0/8".parse().expect("a range")],
    });
    zone.put_namespace(&"default".into());
    zone.put_service(&Key::new("default", "web"), &json!({"spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}}));
    zone.put_service(&Key::new("default", "out"), &json!({"spec": {"type": "ExternalName", "externalName": "example.org"}}));
    zone.put_service(&Key::new("default", "many"), &json!({"spec": {"clusterIP": "None"}}));
    let endpoints: Vec<_> = (0..MANY).map(|number| json!({"addresses": [format!("10.244.0.{}", number + 1)]})).collect();
    let slice = json!({
        "metadata": {"namespace": "default", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    });
    zone.put_slice(&Key::new("default", "many-1"), slice);
    zone
}

/// Answers `example.org` with an address, everything else with "no such name" that may be kept;
/// tells a lie first, from the right place with the wrong number.
async fn others(asked: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket can be opened");
    let address = socket.local_addr().expect("it has an address");
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            asked.fetch_add(1, Ordering::Relaxed);
            let question = Message::from_vec(&buffer[..length]).expect("a question");
            let mut lie = Message::response(question.metadata.id.wrapping_add(1), OpCode::Query);
            lie.add_queries(question.queries.iter().cloned());
            let _ = socket.send_to(&lie.to_vec().expect("it can be written"), client).await;
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_queries(question.queries.iter().cloned());
            let name = question.queries[0].name().clone();
            match name.to_ascii().as_str() {
                "example.org." => {
                    answer.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 7)))));
                }
                _ => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            let _ = socket.send_to(&answer.to_vec().expect("it can be written"), client).await;
        }
    });
    address
}

async fn world() -> World {
    let asked = Arc::new(AtomicUsize::new(0));
    let others = others(asked.clone()).await;
    let resolver = Arc::new(Resolver::new(Arc::new(RwLock::new(zone())), Forwarder::of(vec![others])));
    resolver.set_synced(true);
    let (stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    // Port 0 would give UDP and TCP different ones.
    let address = loop {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free");
        if let Ok(sockets) = server::Sockets::bind(free) {
            sockets.serve(&resolver, &shutdown, &mut tasks);
            break free;
        }
    };
    World { address, resolver, asked, _tasks: tasks, _stop: stop }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    question
}

impl World {
    async fn udp_bytes(&self, bytes: &[u8], deadline: Duration) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket can be opened");
        socket.connect(self.address).await.expect("the address is there");
        socket.send(bytes).await.expect("it can be sent");
        let mut buffer = vec![0; 65_536];
        let length = timeout(deadline, socket.recv(&mut buffer)).await.ok()?.expect("the socket is open");
        Some(buffer[..length].to_vec())
    }

    async fn udp(&self, question: &Message) -> Message {
        let bytes = question.to_vec().expect("it can be written");
        let answer = self.udp_bytes(&bytes, ANSWER_DEADLINE).await.expect("an answer");
        let answer = Message::from_vec(&answer).expect("a message");
        assert_eq!(answer.metadata.id, question.metadata.id);
        answer
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.udp(&question(name, kind)).await
    }

    async fn tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let bytes = question.to_vec().expect("it can be written");
        stream.write_u16(u16::try_from(bytes.len()).expect("it is short")).await.expect("sent");
        stream.write_all(&bytes).await.expect("sent");
        let length = timeout(ANSWER_DEADLINE, stream.read_u16()).await.expect("in time").expect("an answer");
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.expect("all of it");
        Message::from_vec(&answer).expect("a message")
    }
}

fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn names_of_the_cluster_over_udp_and_tcp() {
    let world = world().await;
    for answer in [
        world.ask("Web.Default.svc.cluster.LOCAL.", RecordType::A).await,
        world.tcp(&question("Web.Default.svc.cluster.LOCAL.", RecordType::A)).await,
    ] {
        assert_eq!(addresses(&answer), ["10.96.0.7"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available && answer.metadata.recursion_desired);
        // As it was asked.
        assert_eq!(answer.answers[0].name.to_ascii(), "Web.Default.svc.cluster.LOCAL.");
        assert_eq!(answer.answers[0].ttl, 5);
    }
    let none = world.ask("nothing.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
    let other = world.ask("web.default.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!((other.metadata.response_code, other.answers.len(), other.authorities.len()), (ResponseCode::NoError, 0, 1));
    assert_eq!(world.asked.load(Ordering::Relaxed), 0, "others are not asked about the cluster");
}

#[tokio::test]
async fn what_does_not_fit_is_asked_again_over_tcp() {
    let world = world().await;
    let cut = world.ask("many.default.svc.cluster.local.", RecordType::A).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut question = question("many.default.svc.cluster.local.", RecordType::A);
    assert_eq!(world.tcp(&question).await.answers.len(), MANY);
    let mut edns = Edns::new();
    edns.set_max_payload(65_535);
    question.set_edns(edns);
    let whole = world.udp(&question).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, MANY));
    assert!(whole.edns.is_some());
    // Another one first the next time.
    assert_ne!(addresses(&world.udp(&question).await)[0], addresses(&whole)[0]);
}

#[tokio::test]
async fn names_of_others_are_asked_for_once() {
    let world = world().await;
    for _ in 0..3 {
        let answer = world.ask("example.org.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["192.0.2.7"]);
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 1);
    // A Service that is another name.
    let answer = world.ask("out.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&answer), ["example.org.", "192.0.2.7"]);
    // That there is no such name is kept only if its zone says for how long.
    for _ in 0..2 {
        assert_eq!(world.ask("nothing.example.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 3);
    assert!(world.resolver.figures().contains("node_dns_cache_hits_total 3\n"), "{}", world.resolver.figures());
}

#[tokio::test]
async fn without_the_clusters_objects_its_names_fail() {
    let world = world().await;
    world.resolver.set_synced(false);
    let failed = world.ask("web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&world.ask("example.org.", RecordType::A).await), ["192.0.2.7"]);
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_ignored() {
    let world = world().await;
    let mut two = question("web.default.svc.cluster.local.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("a.").expect("a name"), RecordType::A));
    assert_eq!(world.udp(&two).await.metadata.response_code, ResponseCode::FormErr);
    let mut newer = question("web.default.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    // BADVERS and BADSIG have the same number.
    assert_eq!(u16::from(world.udp(&newer).await.metadata.response_code), u16::from(ResponseCode::BADVERS));
    let mut update = question("web.default.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(world.udp(&update).await.metadata.response_code, ResponseCode::NotImp);
    // Two servers that answer answers would never end.
    let mut answer = question("web.default.svc.cluster.local.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(world.udp_bytes(&answer.to_vec().expect("it can be written"), SILENCE).await, None);
    assert_eq!(world.udp_bytes(&[0, 7, 1], SILENCE).await, None);
}

#[tokio::test]
async fn any_bytes_leave_it_answering() {
    let world = world().await;
    let whole = question("web.default.svc.cluster.local.", RecordType::A).to_vec().expect("it can be written");
    let mut random = 7_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket can be opened");
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        bytes.truncate(1 + next() % bytes.len());
        // Names that point at themselves, counts of records that are not there.
        socket.send_to(&bytes, world.address).await.expect("it can be sent");
    }
    assert_eq!(addresses(&world.ask("web.default.svc.cluster.local.", RecordType::A).await), ["10.96.0.7"]);
}

#[tokio::test]
async fn a_loop_is_noticed_and_ended() {
    let asked = Arc::new(AtomicUsize::new(0));
    let forwarder = Forwarder::of(vec![others(asked.clone()).await]);
    let resolver = Resolver::new(Arc::new(RwLock::new(zone())), forwarder);
    resolver.look_for_loops().await;
    let before = asked.load(Ordering::Relaxed);
    assert!(before > 0);
    // The question comes back.
    resolver.play_loop();
    let (stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let resolver = Arc::new(resolver);
    resolver.set_synced(true);
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free");
    server::Sockets::bind(free).expect("the port is free").serve(&resolver, &shutdown, &mut tasks);
    let world = World { address: free, resolver, asked, _tasks: tasks, _stop: stop };
    assert_eq!(world.ask("example.org.", RecordType::A).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(world.asked.load(Ordering::Relaxed), before);
    assert_eq!(addresses(&world.ask("web.default.svc.cluster.local.", RecordType::A).await), ["10.96.0.7"]);
}
