//! Scalars that parsers and validators trip over: empty, huge, not ASCII, almost right, and the words that rules look for.

use super::random::Random;

pub const STRINGS: &[&str] = &[
    "", "a", "b", "A", "d", "-", ".", "/", "a/b", "a/", "/a", "//", "..", "a.b.c/d", "a b", "a\nb", "\0", "é", "日本語", "\u{10ffff}", "é\u{301}",
    "a-very-long-name-that-goes-on-and-on-and-on-until-it-is-longer-than-sixty-three", "0", "-1", "1%", "101%", "-5%", "%", "99999999999%",
    "1.5", "1e3", "0x10", "true", "null", "~", "127.0.0.1", "::1", "::ffff:1.2.3.4", "10.0.0.0/8", "10.0.0.0/33", "fe80::1%eth0", "None",
    "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Equal", "TCP", "UDP", "SCTP", "ClusterIP", "ExternalName", "NodePort",
    "LoadBalancer", "IPv4", "IPv6", "Always", "Never", "OnFailure", "RollingUpdate", "OnDelete", "NoSchedule", "NoExecute", "Container",
    "Pod", "PersistentVolumeClaim", "Opaque", "kubernetes.io/tls", "kubernetes.io/dockerconfigjson", "kubernetes.io/service-account-token",
    "metadata.name", "metadata.labels['a']", "metadata.labels['", "metadata.annotations['é']", "status.podIP", "requests.cpu", "limits.memory",
    "hugepages-2Mi", "hugepages-", "cpu", "memory", "ephemeral-storage", "pods", "count/pods", "count/", "example.com/gpu", "kubernetes.io/x",
    "system-node-critical", "system:node:n", "system:serviceaccount:d:a", "system:serviceaccount:", "Localhost", "RuntimeDefault",
    "2026-01-02T03:04:05Z", "$(E)", "$$(E)", "$(", "{}", "[]", "{\"auths\":{}}", "ScaleDown", "ready", "Ready", "True", "False", "Unknown",
    "kubernetes.io/metadata.name", "node-role.kubernetes.io/", "topology.kubernetes.io/zone", "http", "HTTP", "https", "*", "*.a.b", "a*",
];

pub const QUANTITIES: &[&str] = &[
    "0", "1", "-1", "100m", "1.5", "0.1", ".5", "5.", "1e3", "1E3", "1e-9", "1e-30", "1e30", "12e400", "1Ki", "1Gi", "1.5Gi", "8Ei", "16Ei", "-8Ei",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "170141183460469231731687303715884105727", "1n", "1u", "0.0000000001",
    "99999999999999999999999999999999999999999999", "1Zi", "+1", "+-1", "1 ", "", "m", "1mm", "1e", "1e+", "1ei", "00001", "1.0000000000000000001",
    "é", "1é", "999999999999999999999Ei", "0.5n", "1E", "1Ee", "1e2147483647", "1e-2147483648", "1e99999999999999",
];

pub const SELECTORS: &[&str] = &[
    "", "a", "!a", "a=b", "a==b", "a!=b", "a in (b,c)", "a notin (b)", "a in ()", "a in (", "a,b", ",", "a=,b", "a>1", "a<1", "a>x", "a in b", "in in (in)",
    "a=b,c in (d,e),!f,g", "é=é", "a/b/c=d", "a = b", "!", "!!a", "a!b", "(", ")", "a in (b))", "notin", "a>99999999999999999999", "x in (,)", "a=\\,",
    "metadata.name=a", "metadata.name!=a\\=b,", "status.phase=\\", "spec.nodeName==\\\\", "a=b\\,c", "a\\=b=c",
];

const NUMBERS: &[i64] = &[0, 1, -1, 2, 80, 63, 100, 255, 256, 65535, 65536, 2_147_483_647, -2_147_483_648, 2_147_483_648, 1 << 53, i64::MAX, i64::MIN, i64::MAX - 1];

pub fn int64(random: &mut Random) -> i64 {
    *random.pick(NUMBERS)
}

pub fn int32(random: &mut Random) -> i32 {
    let number = int64(random);
    i32::try_from(number).unwrap_or(if number > 0 { i32::MAX } else { i32::MIN })
}
