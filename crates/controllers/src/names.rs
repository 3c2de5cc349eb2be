//! Names of daemon pods: derived from set, node and attempt, so that making the same pod twice makes it once.

/// Characters of Kubernetes' generated suffixes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;

/// `SET-xxxxx`: the same for the same arguments.
pub fn daemon_pod_name(set_name: &str, set_uid: &str, node: &str, attempt: u64) -> String {
    let mut hash = fnv1a(&[set_uid, node, &attempt.to_string()]);
    let suffix: String = (0..SUFFIX_LEN)
        .map(|_| {
            let at = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or(0);
            hash /= ALPHABET.len() as u64;
            char::from(ALPHABET[at])
        })
        .collect();
    format!("{set_name}-{suffix}")
}

/// 64-bit FNV-1a over the parts, each ended by a zero byte.
fn fnv1a(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // FNV's low bits of short inputs are close to each other.
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_differ_between_nodes_and_attempts() {
        let name = |node: &str, attempt| daemon_pod_name("web", "uid", node, attempt);
        assert_eq!(name("a", 0), name("a", 0));
        assert_ne!(name("a", 0), name("b", 0));
        assert_ne!(name("a", 0), name("a", 1));
        assert!(name("a", 0).starts_with("web-") && name("a", 0).len() == 9);
    }
}
