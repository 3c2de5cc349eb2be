//! The board as people see it.

use expect_test::{Expect, expect};

use super::*;

fn set(name: &str, counts: [usize; 5]) -> Set {
    let [desired, current, updated, ready, available] = counts;
    Set { key: Key::new("default", name), revision: 2, desired, current, updated, ready, available, summary: Vec::new() }
}

fn row(node: &str, set: &str, standing: Standing, reason: &str) -> Row {
    let (pod, code) = match standing {
        Standing::Done => (true, "Runs"),
        Standing::Underway => (true, "Starting"),
        Standing::Stuck => (true, "ImagePull"),
        Standing::NotMeant => (false, "Taint"),
    };
    Row {
        standing,
        node: node.to_owned(),
        state: "Ready".to_owned(),
        set: Some(Key::new("default", set)),
        pod: pod.then(|| format!("{set}-{node}")),
        revision: pod.then_some(2),
        is_ready: standing == Standing::Done,
        code,
        reason: reason.to_owned(),
    }
}

fn board(sets: Vec<Set>, rows: Vec<Row>) -> Board {
    let nodes = rows.iter().map(|row| &row.node).collect::<std::collections::BTreeSet<_>>().len();
    Board { server: "https://127.0.0.1:6443".to_owned(), nodes, nodes_ready: nodes, sets, rows }
}

fn rollout() -> Board {
    let rows = vec![
        row("a", "web", Standing::Done, "available"),
        row("b", "web", Standing::Underway, "container c waits: ContainerCreating"),
        row("c", "web", Standing::Stuck, "container c waits: ImagePullBackOff: no such image"),
        row("d", "web", Standing::NotMeant, "taint maint:NoSchedule is not tolerated"),
    ];
    board(vec![set("web", [3, 3, 3, 1, 1])], rows)
}

fn check(board: &Board, room: Room, expected: Expect) {
    let lines = board.lines(room);
    if let Some(most) = room.lines {
        assert!(lines.len() <= most, "{} lines where {most} fit", lines.len());
    }
    expected.assert_eq(&lines.iter().map(|line| format!("{line}\n")).collect::<String>());
}

fn lines(lines: usize) -> Room {
    Room { lines: Some(lines), columns: None }
}

#[test]
fn a_rollout() {
    check(
        &rollout(),
        Room::default(),
        expect![[r#"
            server https://127.0.0.1:6443
            nodes  4 of 4 Ready

            NAMESPACE  DAEMONSET  DESIRED  CURRENT  UPDATED  READY  AVAILABLE  REVISION
            default    web              3        3        3      1          1         2

            NODE  STATE  POD    REVISION  READY  WHY
            a     Ready  web-a         2  yes    available
            b     Ready  web-b         2  no     container c waits: ContainerCreating
            c     Ready  web-c         2  no     container c waits: ImagePullBackOff: no such image
            d     Ready  -             -  -      taint maint:NoSchedule is not tolerated
        "#]],
    );
}

#[test]
fn what_is_not_done_is_shown_where_there_is_little_room() {
    check(
        &rollout(),
        lines(9),
        expect![[r#"
            server https://127.0.0.1:6443
            nodes  4 of 4 Ready

            NAMESPACE  DAEMONSET  DESIRED  CURRENT  UPDATED  READY  AVAILABLE  REVISION
            default    web              3        3        3      1          1         2

            NODE  STATE  POD    REVISION  READY  WHY
            c     Ready  web-c         2  no     container c waits: ImagePullBackOff: no such image
            and 3 more rows, 1 not done
        "#]],
    );
}

#[test]
fn long_lines_are_cut() {
    check(
        &rollout(),
        Room { lines: None, columns: Some(60) },
        expect![[r#"
            server https://127.0.0.1:6443
            nodes  4 of 4 Ready

            NAMESPACE  DAEMONSET  DESIRED  CURRENT  UPDATED  READY  AVA…
            default    web              3        3        3      1     …

            NODE  STATE  REVISION  READY  WHY
            a     Ready         2  yes    available
            b     Ready         2  no     container c waits: ContainerC…
            c     Ready         2  no     container c waits: ImagePullB…
            d     Ready         -  -      taint maint:NoSchedule is not…
        "#]],
    );
}

#[test]
fn several_sets_have_a_column_and_what_holds_them_up_a_line() {
    let mut held = set("log", [1, 1, 0, 1, 1]);
    held.summary.push("the rollout waits: nodes without an available pod: 1, maxUnavailable: 1".to_owned());
    let rows = vec![row("a", "log", Standing::Done, "available"), row("a", "web", Standing::Done, "available")];
    check(
        &board(vec![held, set("web", [1, 1, 1, 1, 1])], rows),
        Room::default(),
        expect![[r#"
            server https://127.0.0.1:6443
            nodes  1 of 1 Ready

            NAMESPACE  DAEMONSET  DESIRED  CURRENT  UPDATED  READY  AVAILABLE  REVISION
            default    log              1        1        0      1          1         2
            default    web              1        1        1      1          1         2
            log: the rollout waits: nodes without an available pod: 1, maxUnavailable: 1

            NODE  STATE  DAEMONSET  POD    REVISION  READY  WHY
            a     Ready  log        log-a         2  yes    available
            a     Ready  web        web-a         2  yes    available
        "#]],
    );
}

#[test]
fn more_sets_than_fit_are_counted() {
    let sets: Vec<Set> = (0..9).map(|number| set(&format!("s{number}"), [1, 1, 1, 1, 1])).collect();
    let rows = sets.iter().map(|set| row("a", &set.key.name, Standing::Done, "available")).collect();
    check(
        &board(sets, rows),
        lines(14),
        expect![[r#"
            server https://127.0.0.1:6443
            nodes  1 of 1 Ready

            NAMESPACE  DAEMONSET  DESIRED  CURRENT  UPDATED  READY  AVAILABLE  REVISION
            default    s0               1        1        1      1          1         2
            default    s1               1        1        1      1          1         2
            default    s2               1        1        1      1          1         2
            and 6 more DaemonSets

            NODE  STATE  DAEMONSET  POD   REVISION  READY  WHY
            a     Ready  s0         s0-a         2  yes    available
            a     Ready  s1         s1-a         2  yes    available
            a     Ready  s2         s2-a         2  yes    available
            and 6 more rows, all done
        "#]],
    );
}

#[test]
fn a_screen_of_any_height_is_not_exceeded() {
    for height in 2..20 {
        let lines = rollout().lines(lines(height));
        assert!(lines.len() <= height, "{} lines where {height} fit", lines.len());
    }
}

#[test]
fn nodes_alone() {
    let mut down = row("b", "", Standing::Stuck, "Node was stopped.");
    down.state = "NotReady".to_owned();
    check(
        &board(vec![], vec![row("a", "", Standing::Done, ""), down]),
        Room::default(),
        expect![[r#"
            server https://127.0.0.1:6443
            nodes  2 of 2 Ready

            NODE  STATE     WHY
            a     Ready
            b     NotReady  Node was stopped.
        "#]],
    );
}

#[test]
fn a_log_is_told_of_counts_and_of_nodes_that_are_stuck_once() {
    let before = rollout();
    expect![[r#"
        daemonset/web: 3 desired, 3 current, 3 updated, 1 ready, 1 available (revision 2)
        daemonset/web on c: container c waits: ImagePullBackOff: no such image"#]]
    .assert_eq(&before.news(None).join("\n"));
    assert_eq!(before.news(Some(&before)), Vec::<String>::new());
    let mut after = rollout();
    after.rows[2].reason = "other words for the same".to_owned();
    assert!(after.tells_the_same_as(&before));
    assert_eq!(after.news(Some(&before)), Vec::<String>::new());
    after.sets[0].available = 2;
    after.rows[1] = row("b", "web", Standing::Stuck, "container c waits: CrashLoopBackOff");
    assert!(!after.tells_the_same_as(&before));
    expect![[r#"
        daemonset/web: 3 desired, 3 current, 3 updated, 1 ready, 2 available (revision 2)
        daemonset/web on b: container c waits: CrashLoopBackOff"#]]
    .assert_eq(&after.news(Some(&before)).join("\n"));
}

#[test]
fn many_that_are_stuck_do_not_fill_a_log() {
    let rows = (0..100).map(|number| row(&format!("n{number}"), "web", Standing::Stuck, "no image")).collect();
    let news = board(vec![set("web", [100, 100, 100, 0, 0])], rows).news(None);
    assert_eq!(news.len(), NEWS_MAX + 2);
    assert_eq!(news.last().map(String::as_str), Some("and 80 more nodes that cannot go on"));
}
