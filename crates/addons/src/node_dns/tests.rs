//! The resolver over real sockets on the loopback interface, with a resolver of others that the
//! test plays.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use brain::dns::{SearchPaths, Zone, ZoneSettings};
use brain::model::Key;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::forward::Forwarder;
use super::resolver::{Known, Resolver};
use super::{Change, Part, server, take};

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

/// Answers a few names with an address, and everything else with "no such name", which may be kept
/// below `corp.example`; tells a lie first, from the right place with the wrong number.
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
            match (name.to_ascii().as_str(), question.queries[0].query_type()) {
                ("example.org." | "www.example.org." | "db.in.eu.corp.example.", RecordType::A) => {
                    answer.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 7)))));
                }
                ("www.example.org." | "only.v4.eu.corp.example.", _) => {}
                ("only.v4.eu.", _) => {
                    answer.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 9)))));
                }
                ("broken.eu.example.", _) => answer.metadata.response_code = ResponseCode::ServFail,
                (silent, _) if silent.ends_with(".silent.example.") => continue,
                (corp, _) if corp.ends_with(".corp.example.") => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    let zone = Name::from_ascii("corp.example.").expect("a name");
                    let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, 60);
                    answer.authorities.push(Record::from_rdata(zone, 60, RData::SOA(soa)));
                }
                _ => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            let _ = socket.send_to(&answer.to_vec().expect("it can be written"), client).await;
        }
    });
    address
}

async fn world() -> World {
    world_with(None).await
}

/// Its pod, in the namespace `default`, has the address from which the tests ask.
async fn world_with_a_pod() -> World {
    let mut paths = SearchPaths::new("cluster.local", &["corp.example".to_owned()]).expect("a short list");
    let pod = json!({"spec": {"dnsPolicy": "ClusterFirst"}, "status": {"phase": "Running", "podIPs": [{"ip": Ipv4Addr::LOCALHOST}]}});
    paths.put_pod(&Key::new("default", "pod"), &pod);
    world_with(Some(Arc::new(RwLock::new(paths)))).await
}

async fn world_with(search_paths: Option<Arc<RwLock<SearchPaths>>>) -> World {
    let known = Known { zone: Arc::new(RwLock::new(zone())), search_paths };
    let asked = Arc::new(AtomicUsize::new(0));
    let others = others(asked.clone()).await;
    let resolver = Arc::new(Resolver::new(known, Forwarder::of(vec![others])));
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
        self.udp_bytes_from(Ipv4Addr::LOCALHOST, bytes, deadline).await
    }

    async fn udp_bytes_from(&self, client: Ipv4Addr, bytes: &[u8], deadline: Duration) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((client, 0)).await.expect("a socket can be opened");
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
    let resolver = Resolver::new(Known { zone: Arc::new(RwLock::new(zone())), search_paths: None }, forwarder);
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

/// Questions that the resolver of others gets for one of a pod.
async fn cost(world: &World, name: &str, kind: RecordType) -> (Message, usize) {
    let before = world.asked.load(Ordering::Relaxed);
    let answer = world.ask(name, kind).await;
    (answer, world.asked.load(Ordering::Relaxed) - before)
}

#[tokio::test]
async fn a_pod_has_one_answer_for_its_list() {
    let world = world_with_a_pod().await;
    let name = "WWW.example.org.default.svc.cluster.local.";
    let (answer, questions) = cost(&world, name, RecordType::A).await;
    assert_eq!(addresses(&answer), ["www.example.org.", "192.0.2.7"]);
    assert_eq!((answer.answers[0].name.to_ascii().as_str(), answer.answers[0].ttl), (name, 5));
    assert_eq!(answer.queries[0].name().to_ascii(), name);
    assert!(!answer.metadata.authoritative && !answer.metadata.authentic_data);
    // The node's path, and the name itself; then both are known.
    assert_eq!(questions, 2);
    let again = world.tcp(&question(name, RecordType::A)).await;
    assert_eq!((addresses(&again), world.asked.load(Ordering::Relaxed)), (addresses(&answer), 2));
    // It is there, without such an address: musl takes no answer for "no such name".
    let other = world.ask(name, RecordType::AAAA).await;
    assert_eq!((other.metadata.response_code, addresses(&other)), (ResponseCode::NoError, vec!["www.example.org.".to_owned()]));
    // Found in the cluster, and with a path of the node.
    let (inside, questions) = cost(&world, "web.default.svc.cluster.local.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!((addresses(&inside), questions), (vec!["web.default.svc.cluster.local.".to_owned(), "10.96.0.7".to_owned()], 1));
    let (by_path, _) = cost(&world, "db.in.eu.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&by_path), ["db.in.eu.corp.example.", "192.0.2.7"]);
    assert!(world.resolver.figures().contains("node_dns_searches_total 5\n"), "{}", world.resolver.figures());
}

#[tokio::test]
async fn where_the_list_leads_nowhere_the_question_has_its_own_answer() {
    let world = world_with_a_pod().await;
    for (name, questions) in [
        ("not.there.example.default.svc.cluster.local.", 2),
        // Libraries disagree on whether the search ends where the address is missing.
        ("only.v4.eu.default.svc.cluster.local.", 1),
        // Others fail: the pod goes on by itself. Each of two rounds asks once.
        ("broken.eu.example.default.svc.cluster.local.", 3),
        // No search begins with it.
        ("web-0.org.default.svc.cluster.local.", 0),
        ("www.example.org.other.svc.cluster.local.", 0),
    ] {
        let (answer, cost) = cost(&world, name, RecordType::A).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NXDomain, 0), "{name}");
        assert_eq!(answer.authorities[0].name.to_ascii(), "cluster.local.", "{name}");
        assert_eq!(cost, questions, "{name}");
    }
    let text = question("www.example.org.default.svc.cluster.local.", RecordType::TXT);
    assert_eq!(world.udp(&text).await.metadata.response_code, ResponseCode::NXDomain);
    // A client that is none of the node's pods.
    let bytes = question("www.example.org.default.svc.cluster.local.", RecordType::A).to_vec().expect("it can be written");
    let answer = world.udp_bytes_from(Ipv4Addr::new(127, 0, 0, 2), &bytes, ANSWER_DEADLINE).await.expect("an answer");
    assert_eq!(Message::from_vec(&answer).expect("a message").metadata.response_code, ResponseCode::NXDomain);
}

/// Searches take places as all other questions to others do, and end before the pod asks again.
#[tokio::test]
async fn searches_have_a_share_and_an_end() {
    let world = Arc::new(world_with_a_pod().await);
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    for number in 0..150 {
        let world = world.clone();
        waiting.spawn(async move {
            let answer = world.ask(&format!("a{number}.silent.example.default.svc.cluster.local."), RecordType::A).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
            began.elapsed()
        });
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(time) = waiting.join_next().await {
        times.push(time.expect("an answer"));
    }
    times.sort_unstable();
    assert!(times.last() < Some(&Duration::from_millis(4900)), "{times:?}");
    // Those above the share have their own answer at once.
    assert!(times[49] < Duration::from_secs(2) && times[60] > Duration::from_secs(3), "{times:?}");
}

#[test]
fn pods_come_and_go_with_their_watch() {
    let paths = Arc::new(RwLock::new(SearchPaths::new("cluster.local", &[]).expect("a short list")));
    let known = Known { zone: Arc::new(RwLock::new(zone())), search_paths: Some(paths.clone()) };
    let mut listed = BTreeSet::new();
    let pod = json!({"spec": {"dnsPolicy": "ClusterFirst"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.1"}]}});
    let key = Key::new("default", "pod");
    let is_known = || {
        let paths = paths.read().expect("no test panics with it");
        let name = "www.example.org.default.svc.cluster.local";
        paths.after("10.244.0.1".parse().expect("an address"), name, brain::dns::Type::A).is_some()
    };
    for (change, is_known_then) in [
        (Change::Put(key.clone(), pod.clone()), true),
        (Change::Listed(BTreeSet::from([key.clone()])), true),
        (Change::Gone(key.clone()), false),
        (Change::Put(key.clone(), pod), true),
        (Change::Listed(BTreeSet::new()), false),
    ] {
        take(&known, Part::SearchPaths, change, &mut listed);
        assert_eq!(is_known(), is_known_then);
    }
    assert!(listed.is_empty(), "answers do not wait for pods");
}
