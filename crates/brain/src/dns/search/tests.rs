//! Which pods and names the server goes on for; and that a client finds the same with a server that
//! does and one that does not, for three libraries' ways to search.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const DOMAIN: &str = "cluster.local";
const POD: &str = "10.244.1.2";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod(policy: &str) -> Value {
    json!({"spec": {"dnsPolicy": policy}, "status": {"phase": "Running", "podIPs": [{"ip": POD}, {"ip": "fd00::2"}]}})
}

fn with(path: &str, value: Value) -> Value {
    let mut object = pod("ClusterFirst");
    let (parent, field) = path.rsplit_once('/').expect("a path");
    object.pointer_mut(parent).expect("it is there")[field] = value;
    object
}

fn paths(of_node: &[&str]) -> Option<SearchPaths> {
    SearchPaths::new(DOMAIN, &of_node.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
}

fn of(object: &Value) -> SearchPaths {
    let mut paths = paths(&["Corp.example"]).expect("a short list");
    paths.put_pod(&Key::new("shop", "web"), object);
    paths
}

fn names(paths: &SearchPaths, name: &str) -> Vec<String> {
    paths.after(address(POD), name, Type::A).map(|search| search.names).unwrap_or_default()
}

const ASKED: &str = "www.example.org.shop.svc.cluster.local";

#[test]
fn the_rest_of_the_list_in_its_order() {
    let paths = of(&pod("ClusterFirst"));
    let expected =
        ["www.example.org.svc.cluster.local", "www.example.org.cluster.local", "www.example.org.corp.example", "www.example.org"];
    assert_eq!(names(&paths, ASKED), expected);
    assert!(paths.after(address("fd00::2"), ASKED, Type::Aaaa).is_some());
    assert!(paths.after(address("10.244.1.3"), ASKED, Type::A).is_none());
    for kind in [Type::Srv, Type::Txt, Type::Cname, Type::Other] {
        assert!(paths.after(address(POD), ASKED, kind).is_none(), "{kind:?}");
    }
}

#[test]
fn only_questions_that_a_search_begins_with() {
    let paths = of(&pod("ClusterFirst"));
    for name in [
        // What may be the name of a Service, an endpoint or a port that is not there yet.
        "web.shop.svc.cluster.local",
        "web-0.app.shop.svc.cluster.local",
        "_http._tcp.web.shop.svc.cluster.local",
        // With five dots, the name itself was asked for first.
        "a.b.c.d.e.f.shop.svc.cluster.local",
        // Another namespace, another path, and names that are none.
        "www.example.org.other.svc.cluster.local",
        "www.example.org.svc.cluster.local",
        "www.example.org",
        "www.example.orgshop.svc.cluster.local",
        "www..example.org.shop.svc.cluster.local",
        "www.exa\\046mple.org.shop.svc.cluster.local",
        "shop.svc.cluster.local",
        "",
    ] {
        assert!(names(&paths, name).is_empty(), "{name}");
    }
    assert!(!names(&paths, "a.b.c.d.e.shop.svc.cluster.local").is_empty());
    let long = format!("{0}.{0}.{0}", "a".repeat(63));
    assert!(!names(&paths, &format!("{long}.shop.svc.cluster.local")).is_empty());
    let longer = format!("{long}.{}", "b".repeat(50));
    assert!(names(&paths, &format!("{longer}.shop.svc.cluster.local")).is_empty());
}

#[test]
fn only_pods_with_the_usual_list() {
    let keeps = [
        with("/spec/dnsConfig", json!({})),
        with("/spec/dnsConfig", json!(null)),
        with("/spec/dnsConfig", json!({"options": [{"name": "timeout", "value": "1"}], "searches": [], "nameservers": null})),
    ];
    for object in keeps {
        assert!(!names(&of(&object), ASKED).is_empty(), "{object}");
    }
    let others = [
        pod("Default"),
        pod("None"),
        pod("ClusterFirstWithHostNet"),
        with("/spec/dnsPolicy", json!(null)),
        with("/spec/hostNetwork", json!(true)),
        with("/spec/dnsConfig", json!({"searches": ["more.example"]})),
        with("/spec/dnsConfig", json!({"nameservers": ["192.0.2.1"]})),
        with("/spec/dnsConfig", json!({"options": [{"name": "ndots", "value": "1"}]})),
        with("/spec/dnsConfig", json!({"options": [{}]})),
        with("/spec/dnsConfig", json!({"options": "ndots:1"})),
        with("/spec/dnsConfig", json!("ndots:1")),
        with("/status/phase", json!("Pending")),
        with("/status/phase", json!("Unknown")),
        with("/status/phase", json!("Succeeded")),
        with("/status/phase", json!("Failed")),
        with("/status/podIPs", json!("10.244.1.2")),
    ];
    for object in others {
        assert!(names(&of(&object), ASKED).is_empty(), "{object}");
    }
}

#[test]
fn an_address_belongs_to_one_pod() {
    let mut paths = of(&pod("ClusterFirst"));
    let next = Key::new("next", "web");
    // It has the address already, and the other pod has not ended as far as is known.
    paths.put_pod(&next, &with("/status/phase", json!("Pending")));
    assert!(names(&paths, ASKED).is_empty());
    paths.put_pod(&Key::new("shop", "web"), &with("/status/phase", json!("Failed")));
    paths.put_pod(&next, &pod("ClusterFirst"));
    assert!(names(&paths, ASKED).is_empty());
    assert!(!names(&paths, "www.example.org.next.svc.cluster.local").is_empty());
    paths.remove_pod(&next);
    assert!(paths.by_address.is_empty() && paths.pods.is_empty(), "{paths:?}");
}

#[test]
fn lists_that_libraries_cut_are_left_to_them() {
    assert!(paths(&["a", "b", "c"]).is_some());
    for of_node in [&["a", "b", "c", "d"][..], &[""], &["."], &["a..b"], &["a_b"]] {
        assert!(paths(of_node).is_none(), "{of_node:?}");
    }
    let mut long = paths(&[&"a".repeat(63), &format!("{0}.{0}.{0}", "b".repeat(60))]).expect("it may fit");
    long.put_pod(&Key::new("shop", "web"), &pod("ClusterFirst"));
    assert!(names(&long, ASKED).is_empty());
}

/// Of one type: what a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Address(usize),
    Nothing,
    /// The name leads to one without an address.
    Cname,
    NoSuchName,
    Failure,
}

/// What a name is: for both types alike, but that it may have an address of one only.
#[derive(Debug, Clone, Copy)]
enum Thing {
    There { v4: bool, v6: bool },
    Missing,
    Failing,
}

/// How a library searches.
#[derive(Debug, Clone, Copy)]
enum Library {
    Glibc,
    Musl,
    Go,
}

struct World {
    list: Vec<String>,
    things: Vec<Thing>,
    /// Goes on for the client.
    paths: Option<SearchPaths>,
}

impl World {
    fn plain(&self, name: &str, kind: Type) -> Said {
        let Some(at) = self.list.iter().position(|one| one == name) else { return Said::NoSuchName };
        match self.things[at] {
            Thing::There { v4, v6 } if (kind == Type::A && v4) || (kind == Type::Aaaa && v6) => Said::Address(at),
            Thing::There { .. } => Said::Nothing,
            Thing::Missing => Said::NoSuchName,
            Thing::Failing => Said::Failure,
        }
    }

    fn say(&self, name: &str, kind: Type) -> Said {
        let said = self.plain(name, kind);
        let search = self.paths.as_ref().and_then(|paths| paths.after(address(POD), name, kind));
        let Some(mut search) = search.filter(|_| said == Said::NoSuchName) else { return said };
        loop {
            let next = self.plain(search.name(), kind);
            let seen = match next {
                Said::Address(_) => Seen::Records,
                Said::Nothing | Said::Cname => Seen::Empty,
                Said::NoSuchName => Seen::Missing,
                Said::Failure => Seen::Failed,
            };
            match search.take(seen) {
                None => {}
                Some(End::Leads) if next == Said::Nothing => return Said::Cname,
                Some(End::Leads) => return next,
                Some(End::Nothing) => return said,
            }
        }
    }

    /// The addresses that a client has in the end: names of the list, by type. Err: it is told to
    /// try again.
    fn find(&self, library: Library, kinds: &[Type]) -> Result<Vec<(Type, usize)>, ()> {
        let mut failed = false;
        for name in &self.list {
            let said: Vec<(Type, Said)> = kinds.iter().map(|kind| (*kind, self.say(name, *kind))).collect();
            let has = |wanted: Said| said.iter().any(|(_, one)| *one == wanted);
            let found: Vec<(Type, usize)> =
                said.iter().filter_map(|(kind, one)| if let Said::Address(at) = one { Some((*kind, *at)) } else { None }).collect();
            match library {
                Library::Musl if has(Said::Failure) => return Err(()),
                Library::Musl if has(Said::NoSuchName) => {}
                Library::Musl => return Ok(found),
                Library::Glibc | Library::Go => {
                    if !found.is_empty() {
                        return Ok(found);
                    }
                    if matches!(library, Library::Glibc) && has(Said::Cname) {
                        break;
                    }
                    failed |= has(Said::Failure);
                }
            }
        }
        if failed { Err(()) } else { Ok(Vec::new()) }
    }
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        4 => Just(Thing::Missing),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(v4, v6)| Thing::There { v4, v6 }),
        1 => Just(Thing::Failing),
    ]
}

fn world(wanted: &str, of_node: usize, things: &[Thing], goes_on: bool) -> World {
    let node_paths = &["one.example", "two.example", "three.example"][..of_node];
    let list_of = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"].iter().chain(node_paths);
    let mut list: Vec<String> = list_of.map(|path| format!("{wanted}.{path}")).collect();
    // With five dots, glibc and Go ask for the name itself first; all others last.
    let at = if wanted.split('.').count() > 5 { 0 } else { list.len() };
    list.insert(at, wanted.to_owned());
    let paths = goes_on.then(|| {
        let mut paths = paths(node_paths).expect("a short list");
        paths.put_pod(&Key::new("shop", "web"), &pod("ClusterFirst"));
        paths
    });
    World { list, things: things.to_vec(), paths }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_client_finds_what_it_would_find_by_itself(
        wanted in prop_oneof![
            4 => Just("www.example.org"), 1 => Just("example.org"), 1 => Just("a.b.c.d.example.org"), 2 => Just("a.b.c.example.org"),
        ],
        of_node in 0..=3usize,
        things in prop::collection::vec(thing(), 7),
        library in prop_oneof![Just(Library::Glibc), Just(Library::Musl), Just(Library::Go)],
        kinds in prop_oneof![Just(vec![Type::A]), Just(vec![Type::Aaaa]), Just(vec![Type::A, Type::Aaaa])],
    ) {
        let [plain, other] = [false, true].map(|goes_on| world(wanted, of_node, &things, goes_on));
        prop_assert_eq!(other.find(library, &kinds), plain.find(library, &kinds));
    }
}

/// The common case takes one question.
#[test]
fn an_external_name_is_found_at_once() {
    let missing = Thing::Missing;
    let things = [missing, missing, missing, missing, Thing::There { v4: true, v6: false }];
    let world = world("www.example.org", 1, &things, true);
    assert_eq!(world.say(ASKED, Type::A), Said::Address(4));
    assert_eq!(world.say(ASKED, Type::Aaaa), Said::Cname);
    let mut at_first = world;
    at_first.list.truncate(1);
    at_first.list.extend(["www.example.org.svc.cluster.local", "x", "y", "www.example.org"].map(str::to_owned));
    assert_eq!(at_first.find(Library::Musl, &[Type::A, Type::Aaaa]), Ok(vec![(Type::A, 4)]));
}
