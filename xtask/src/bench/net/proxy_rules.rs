//! Rules in the shape of kube-proxy's nftables mode, to compare with: a chain for each Service,
//! with an anonymous map of its endpoints, and a map of verdicts that leads there. Written by
//! `nft`, which is how kube-proxy writes them, too. Only what these Services need.

use std::fmt::Write as _;

use super::cluster;
use super::world::{Namespace, Run};

const TABLE: &str = "bench_proxy";

/// In place of all that was there.
pub fn load(node: &Namespace, services: usize) -> anyhow::Result<Run> {
    let mut script = skeleton();
    for number in 0..services {
        add_service(&mut script, number);
    }
    nft(node, &script)
}

pub fn add_one(node: &Namespace, number: usize) -> anyhow::Result<Run> {
    let mut script = String::new();
    add_service(&mut script, number);
    nft(node, &script)
}

fn nft(node: &Namespace, script: &str) -> anyhow::Result<Run> {
    node.run("nft", &["-f", "-"], script)
}

fn add_service(script: &mut String, number: usize) {
    let (address, port, target) = (cluster::address(number), cluster::PORT, cluster::TARGET_PORT);
    let chain = format!("service-{number}/{}/tcp", cluster::namespace(number));
    let endpoints: Vec<String> =
        (0..).zip(cluster::endpoints(number)).map(|(index, address): (u32, _)| format!("{index} : {address} . {target}")).collect();
    let from_outside = format!("ip daddr {address} ip saddr != 10.244.0.0/16 jump mark-for-masquerade");
    let balance =
        format!("meta l4proto tcp dnat ip addr . port to numgen random mod {} map {{ {} }}", endpoints.len(), endpoints.join(", "));
    let _ = writeln!(
        script,
        "add chain ip {TABLE} {chain}\n\
         add rule ip {TABLE} {chain} {from_outside}\n\
         add rule ip {TABLE} {chain} {balance}\n\
         add element ip {TABLE} cluster-ips {{ {address} }}\n\
         add element ip {TABLE} service-ips {{ {address} . tcp . {port} : goto {chain} }}"
    );
    if number == 0 {
        let (outside, node_port) = (format!("external-{number}/{}/tcp", cluster::namespace(number)), cluster::NODE_PORT);
        let _ = writeln!(
            script,
            "add chain ip {TABLE} {outside}\n\
             add rule ip {TABLE} {outside} jump mark-for-masquerade\n\
             add rule ip {TABLE} {outside} goto {chain}\n\
             add element ip {TABLE} service-nodeports {{ tcp . {node_port} : goto {outside} }}"
        );
    }
}

fn skeleton() -> String {
    let node = cluster::NODE_ADDRESS;
    format!(
        "add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{
  set cluster-ips {{ type ipv4_addr; }}
  set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }}; }}
  set hairpin-connections {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; }}
  map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; }}
  chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
  chain reject-chain {{ reject; }}
  chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
  chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
  chain nodeport-endpoints-check {{ ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
  chain cluster-ips-check {{ ip daddr @cluster-ips reject; ip daddr 10.96.0.0/16 drop; }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain masquerading {{
    ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade
    meta mark & 0x4000 == 0 return
    meta mark set meta mark ^ 0x4000
    masquerade fully-random
  }}
  chain filter-prerouting-pre-dnat {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
  chain filter-output-pre-dnat {{ type filter hook output priority -110; ct state new jump firewall-check; }}
  chain filter-input {{
    type filter hook input priority 0
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority 0
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority 0
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"
    )
}
