//! What a container may and may not do, and what it sees: checked from inside.

use std::collections::BTreeMap;
use std::path::PathBuf;

use containers::{Error, ImageMount, Mount, Propagation, Seccomp};
use runtime::port::Runtime as _;

use crate::fixture::{Left, Node};

const STATUS: &str = "cat /proc/self/status; id; ls /dev | tr '\\n' ' '";

fn status(left: &Left) -> BTreeMap<String, String> {
    left.lines().iter().filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect()
}

fn mount(host: &std::path::Path, container: &str) -> Mount {
    Mount {
        host_path: host.to_owned(),
        container_path: PathBuf::from(container),
        read_only: false,
        recursive_read_only: false,
        image: None,
        propagation: Propagation::Private,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_defaults() {
    let Some(node) = Node::new().await else { return };
    let left = node.run_script(STATUS).await;
    let status = status(&left);
    for (name, value) in [
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapInh", "0000000000000000"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "0"),
        ("SigIgn", "0000000000000000"),
        ("SigBlk", "0000000000000000"),
        ("Groups", "0"),
    ] {
        assert_eq!(status[name], value, "{name}");
    }
    // Where the kernel shows its memory in /proc there is a link to it, which leads to a masked
    // file.
    let devices = left.lines().last().unwrap().trim().replace("kcore ", "");
    assert_eq!(devices, "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero");
    let mut unmasked = node
        .script("wc -c < /proc/interrupts; touch /proc/sys/vm/stat_interval 2>&1; ls /sys/devices/virtual/powercap 2>/dev/null | wc -l");
    unmasked.security.unmasked_proc = true;
    let left = node.run(&unmasked).await;
    // Root of the container is root of the node here, which /proc/sys obeys.
    assert_eq!(left.lines(), ["0", "touch: /proc/sys/vm/stat_interval: Read-only file system", "0"], "{}", left.log);
    let checks = "touch /proc/sys/kernel/hostname 2>&1; wc -c < /proc/interrupts; ls /sys/firmware | wc -l; touch /sys/x 2>&1; touch /file && echo wrote
        mknod /dev/sda b 8 0; cat /dev/sda 2>&1 | head -1; ls -d /declared; echo $FROM_IMAGE; ls -ld / | cut -c1-10";
    let left = node.run_script(checks).await;
    assert_eq!(
        left.lines(),
        [
            "touch: /proc/sys/kernel/hostname: Read-only file system",
            "0",
            "0",
            "touch: /sys/x: Read-only file system",
            "wrote",
            "cat: can't open '/dev/sda': Operation not permitted",
            "/declared",
            "yes",
            "drwxr-xr-x",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_groups() {
    let Some(node) = Node::new().await else { return };
    let mut config = node.script("id -u; id -g; id -G; echo $HOME $HOSTNAME; pwd; grep CapEff /proc/self/status; echo ok > /dev/stderr");
    config.security.run_as_username = Some("web".into());
    config.security.supplemental_groups = vec![500];
    config.working_dir = Some("/srv/deep".into());
    let left = node.run(&config).await;
    assert_eq!(
        left.lines(),
        ["33", "34", "34 77 500", "/home/web pod-name", "/srv/deep", "CapEff:\t0000000000000000", "ok"],
        "{}",
        left.log
    );
    // The image says that 1000 is the name of root.
    let passwd = node.place.dir.path().join("layer/etc/passwd");
    let honest = std::fs::read_to_string(&passwd).unwrap();
    std::fs::write(&passwd, format!("1000:x:0:0:root:/root:/bin/sh\n{honest}")).unwrap();
    let mut config = node.script("id -u; id -g");
    config.security.run_as_user = Some(1000);
    assert_eq!(node.run(&config).await.lines(), ["1000", "0"]);
    std::fs::write(&passwd, honest).unwrap();
    let mut config = node.script("true");
    config.security.run_as_username = Some("ghost".into());
    let error = node.create(&config).await.unwrap_err();
    assert_eq!(error, Error::Failed("unable to find user ghost: no matching entries in passwd file".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_and_privileges() {
    let Some(node) = Node::new().await else { return };
    let mut config = node.script(STATUS);
    config.security.drop_capabilities = vec!["ALL".into()];
    config.security.add_capabilities = vec!["NET_ADMIN".into()];
    config.security.no_new_privileges = true;
    let seen = status(&node.run(&config).await);
    assert_eq!((&*seen["CapEff"], &*seen["CapBnd"], &*seen["NoNewPrivs"]), ("0000000000001000", "0000000000001000", "1"));

    let mut config = node.script("grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted; ls /dev | wc -l; wc -c < /proc/sysrq-trigger; touch /sys/fs/cgroup/memory/x 2>/dev/null; mount | grep ' /sys ' | grep -o '(r[ow]'");
    config.security.privileged = true;
    config.security.seccomp = Seccomp::RuntimeDefault;
    let left = node.run(&config).await;
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = all.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap();
    assert_eq!(left.lines()[..2], [&*format!("CapEff:\t{own}"), "mounted"], "{}", left.log);
    assert!(left.log.contains("(rw"), "{}", left.log);

    config.security.privileged = false;
    config.security.add_capabilities = vec!["BOGUS".into()];
    config.log_path = "c/bogus.log".into();
    assert_eq!(node.create(&config).await, Err(Error::Invalid("unknown capability \"BOGUS\"".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn seccomp_filters() {
    let Some(node) = Node::new().await else { return };
    let script =
        "grep -E '^(Seccomp|NoNewPrivs|CapEff|CapBnd):' /proc/self/status; unshare -n true 2>&1; mkdir /made && echo made; sleep 60";
    for (nnp, user) in [(false, None), (true, None), (false, Some(33))] {
        let mut config = node.script(script);
        config.security.seccomp = Seccomp::RuntimeDefault;
        config.security.no_new_privileges = nnp;
        config.security.run_as_user = user;
        let id = node.start(&config).await;
        node.wait_log(&id, "unshare").await;
        let log = std::fs::read_to_string(node.runtime.container(&id).await.unwrap().log_path).unwrap();
        assert!(log.contains("Seccomp:\t2"), "{log}");
        assert!(log.contains(&format!("NoNewPrivs:\t{}", u8::from(nnp))), "{log}");
        assert!(log.contains("CapBnd:\t00000000a80425fb"), "the filter's needs are not the program's: {log}");
        assert!(log.contains(if user.is_some() { "CapEff:\t0000000000000000" } else { "CapEff:\t00000000a80425fb" }), "{log}");
        assert!(log.contains("Operation not permitted"), "{log}");
        let seen = node.runtime.exec_sync(&id, &["cat".into(), "/proc/self/status".into()], None).await.unwrap();
        let seen = String::from_utf8(seen.stdout).unwrap();
        assert!(seen.contains("Seccomp:\t2") && seen.contains("CapBnd:\t00000000a80425fb"), "commands are filtered too: {seen}");
        node.runtime.remove_container(&id).await.unwrap();
    }
    let profile = node.place.dir.path().join("profile.json");
    // Whatever a profile lets through, forbids or pretends: what was dropped stays dropped, also
    // from commands.
    let allow = r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#;
    let pretend =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["capset","prctl","capget"],"action":"SCMP_ACT_ERRNO","errnoRet":0}]}"#;
    let forbid = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["capset","prctl"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    let log = r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[]}"#;
    for (text, user, nnp) in
        [allow, pretend, forbid, log].into_iter().flat_map(|t| [(t, None, false), (t, Some(33), false), (t, None, true)])
    {
        std::fs::write(&profile, text).unwrap();
        let mut config = node.script("grep -E '^Cap(Eff|Prm|Bnd|Inh|Amb)' /proc/self/status; echo seen; sleep 60");
        config.security.seccomp = Seccomp::Localhost(profile.clone());
        (config.security.run_as_user, config.security.no_new_privileges) = (user, nnp);
        config.security.drop_capabilities = vec!["ALL".into()];
        let id = node.start(&config).await;
        node.wait_log(&id, "seen").await;
        let log = std::fs::read_to_string(node.runtime.container(&id).await.unwrap().log_path).unwrap();
        let command = ["sh".into(), "-c".into(), "grep -E '^Cap' /proc/self/status".into()];
        let seen = String::from_utf8(node.runtime.exec_sync(&id, &command, None).await.unwrap().stdout).unwrap();
        for text in [&log, &seen] {
            assert_eq!(text.matches("\t0000000000000000").count(), 5, "{user:?} {nnp} {text}");
        }
        node.runtime.remove_container(&id).await.unwrap();
    }
    for (place, why) in [("missing.json", "no such file or directory"), ("", "is not a file of a profile's size")] {
        let mut config = node.script("true");
        config.security.seccomp = Seccomp::Localhost(node.place.dir.path().join(place));
        let error = node.create(&config).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot load seccomp profile \"") && error.ends_with(why), "{error}");
    }
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
    std::fs::write(&profile, text).unwrap();
    let mut config = node.script("mkdir /made 2>&1; touch /file && echo touched");
    config.security.seccomp = Seccomp::Localhost(profile);
    assert_eq!(node.run(&config).await.lines(), ["mkdir: can't create directory '/made': Permission denied", "touched"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts() {
    let Some(node) = Node::new().await else { return };
    let host = node.place.dir.path().join("volume");
    std::fs::create_dir_all(host.join("sub")).unwrap();
    std::fs::write(host.join("file"), "content").unwrap();
    let mut config = node.script(
        "cat /v/file /single; echo; touch /v/new && echo rw; touch /ro/x 2>&1; pwd; touch /root-is-read-only 2>&1; cat /etc/hostname; df /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2",
    );
    let mut read_only = mount(&host, "/ro");
    (read_only.read_only, read_only.recursive_read_only) = (true, true);
    config.mounts = vec![mount(&host, "/v"), read_only, mount(&host.join("file"), "/single")];
    config.working_dir = Some("/v/made".into());
    config.security.read_only_root = true;
    let left = node.run(&config).await;
    let expected = [
        "contentcontent",
        "rw",
        "touch: /ro/x: Read-only file system",
        "/v/made",
        "touch: /root-is-read-only: Read-only file system",
        "pod-name",
        "65536",
    ];
    assert_eq!(left.lines(), expected);
    assert!(host.join("made").is_dir() && host.join("new").exists());

    let mut config = node.script("true");
    config.mounts = vec![mount(&host.join("missing"), "/v")];
    let error = node.create(&config).await.unwrap_err().to_string();
    assert!(error.contains("volume/missing: no such file or directory"), "{error}");

    std::fs::create_dir(host.join("missing")).unwrap();
    let id = node.create(&config).await.unwrap();
    std::fs::remove_dir(host.join("missing")).unwrap();
    let error = node.runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("volume/missing"), "it went away before the start: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mount_propagation() {
    let Some(node) = Node::new().await else { return };
    let shared = node.place.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let no = None::<&str>;
    nix::mount::mount(Some("t"), &shared, Some("tmpfs"), nix::mount::MsFlags::empty(), no).unwrap();
    nix::mount::mount(no, &shared, no, nix::mount::MsFlags::MS_SHARED, no).unwrap();
    for name in ["in", "out"] {
        std::fs::create_dir(shared.join(name)).unwrap();
    }
    let mut alone = node.script("echo ready; sleep 60");
    alone.mounts = vec![mount(&shared, "/v")];
    let alone = node.start(&alone).await;
    let mut config = node.script("echo ready; while ! test -e /v/in/seen; do sleep 0.05; done; echo seen; ls /none/in");
    let mut volume = mount(&shared, "/v");
    volume.propagation = Propagation::HostToContainer;
    config.mounts = vec![volume.clone(), mount(&shared, "/none")];
    let id = node.start(&config).await;
    node.wait_log(&id, "ready").await;
    nix::mount::mount(Some("t"), &shared.join("in"), Some("tmpfs"), nix::mount::MsFlags::empty(), no).unwrap();
    std::fs::write(shared.join("in/seen"), "").unwrap();
    assert_eq!(node.wait(&id).await.lines(), ["ready", "seen"], "what was mounted later does not show in a private mount");
    let seen = node.runtime.exec_sync(&alone, &["ls".into(), "/v/in".into()], None).await.unwrap();
    assert_eq!((String::from_utf8(seen.stdout).unwrap().as_str(), seen.exit_code), ("", 0));

    let mut config = node.script("mount -t tmpfs t /v/out && touch /v/out/made && echo mounted; sleep 60");
    volume.propagation = Propagation::Bidirectional;
    config.mounts = vec![volume];
    assert!(node.create(&config).await.is_err(), "not without privileges");
    config.security.privileged = true;
    let id = node.start(&config).await;
    node.wait_log(&id, "mounted").await;
    assert!(shared.join("out/made").exists());
    node.runtime.remove_container(&id).await.unwrap();
    assert!(!node.place.mounts().iter().any(|m| m.ends_with("rootfs")), "{:?}", node.place.mounts());

    // Beside a volume that the node is to see the others keep what they ask for.
    let mut follows = mount(&shared, "/follows");
    follows.propagation = Propagation::HostToContainer;
    let script = "for v in none follows; do mount -t tmpfs t /$v/in && touch /$v/in/$v; done; \
                  mkdir /v/copy && mount --bind /none /v/copy && mount -t tmpfs t /v/copy/out && ls /none/out; echo mounted; \
                  while ! test -e /follows/late/seen; do sleep 0.05; done; ls /none/late; echo end";
    let volumes = vec![config.mounts[0].clone(), mount(&shared, "/none"), follows];
    let mut config = node.script(script);
    config.mounts = volumes;
    config.security.privileged = true;
    std::fs::write(shared.join("out/here"), "").unwrap();
    std::fs::create_dir(shared.join("late")).unwrap();
    let id = node.start(&config).await;
    node.wait_log(&id, "mounted").await;
    assert!(!shared.join("in/none").exists() && !shared.join("in/follows").exists(), "only the bidirectional volume shows on the node");
    assert!(shared.join("copy").exists());
    nix::mount::mount(Some("t"), &shared.join("late"), Some("tmpfs"), nix::mount::MsFlags::empty(), no).unwrap();
    std::fs::write(shared.join("late/seen"), "").unwrap();
    assert_eq!(node.wait(&id).await.lines(), ["here", "made", "mounted", "end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn image_volumes() {
    let Some(node) = Node::new().await else { return };
    let image = |container: &str, part: Option<&str>| Mount {
        container_path: PathBuf::from(container),
        image: Some(ImageMount { id: "busybox".into(), sub_path: part.map(PathBuf::from) }),
        ..Mount::default()
    };
    let script = "tail -1 /img/etc/group; touch /img/x 2>&1; /img/bin/busybox true 2>&1; ls /part; cat /file | head -1; test -e /img/nope || echo whole";
    let mut config = node.script(script);
    config.mounts = vec![image("/img", None), image("/part", Some("home")), image("/file", Some("etc/passwd"))];
    let left = node.run(&config).await;
    let expected = [
        "logs:x:77:web",
        "touch: /img/x: Read-only file system",
        "/bin/sh: /img/bin/busybox: Permission denied",
        "web",
        "root:x:0:0:root:/root:/bin/sh",
        "whole",
    ];
    assert_eq!(left.lines(), expected, "{}", left.log);
    let mut config = node.script("true");
    config.mounts = vec![image("/img", Some("none"))];
    let id = node.create(&config).await.unwrap();
    let error = node.runtime.start_container(&id).await.unwrap_err().to_string();
    assert_eq!(error, "no such file or directory");
    config.mounts = vec![Mount { image: Some(ImageMount { id: "missing".into(), sub_path: None }), ..image("/img", None) }];
    assert!(node.create(&config).await.unwrap_err().to_string().contains("image \"missing\" not found"));
}

/// A pod could have its folders made in what it may only read: in hostPaths that are read-only, and
/// in the layers of images.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_behind_a_read_only_mount() {
    let Some(node) = Node::new().await else { return };
    let host = node.place.dir.path().join("volume");
    std::fs::create_dir_all(host.join("there")).unwrap();
    let mut config = node.script("pwd");
    config.mounts = vec![Mount { read_only: true, ..mount(&host, "/ro") }];
    config.working_dir = Some("/ro/made/deep".into());
    let id = node.create(&config).await.unwrap();
    assert!(node.runtime.start_container(&id).await.is_err());
    assert!(!host.join("made").exists());
    config.working_dir = Some("/ro/there".into());
    assert_eq!(node.run(&config).await.lines(), ["/ro/there"]);
}

/// They lay in the node's memory, where a container could write as much as it liked.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_sandbox_are_shared_on_the_disk_and_counted() {
    let Some(node) = Node::new().await else { return };
    let script =
        "echo 'nameserver 10.9.9.9' >> /etc/resolv.conf; dd if=/dev/urandom of=/etc/hostname bs=65536 count=32 2>&1; echo ready; sleep 60";
    let writer = node.start(&node.script(script)).await;
    node.wait_log(&writer, "ready").await;
    let reader = node.start(&node.script("cat /etc/resolv.conf; echo ready; sleep 60")).await;
    node.wait_log(&reader, "10.9.9.9").await;
    let stats = node.runtime.container_stats().await.unwrap();
    let counted: Vec<bool> = stats.iter().map(|stats| stats.rootfs_used_bytes >= 32 * 65536).collect();
    assert_eq!(counted.iter().filter(|counted| **counted).count(), 1, "once for the sandbox: {stats:?}");
    let mut config = node.script("echo x 2>&1 >> /etc/resolv.conf; echo x 2>&1 >> /etc/hostname");
    config.security.read_only_root = true;
    let left = node.run(&config).await;
    assert_eq!(left.log.matches("Read-only file system").count(), 2, "{}", left.log);
}
