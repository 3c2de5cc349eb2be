//! The log reader on files as runtimes write them.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use expect_test::{Expect, expect};

use super::files::Log;
use super::options::LogOptions;
use super::reader::{Piece, Reader};

const LINES: &str = "\
2026-01-01T00:00:00.000000001Z stdout F one
2026-01-01T00:00:01.000000001Z stderr F two
2026-01-01T00:00:02.000000001Z stdout P thr
2026-01-01T00:00:02.000000002Z stdout P e
2026-01-01T00:00:02.000000003Z stdout F e
2026-01-01T00:00:03.000000001Z stdout F 
2026-01-01T00:00:04.000000001Z stdout F a b  c
";

fn log(dir: &tempfile::TempDir) -> Log {
    Log { dir: dir.path().to_owned(), restarts: 0 }
}

fn read(reader: &mut Reader) -> String {
    let mut out = Vec::new();
    while let Piece::Lines(lines) = reader.next().unwrap() {
        out.extend_from_slice(&lines);
    }
    String::from_utf8(out).unwrap()
}

/// What a query answers of files, by their names and texts.
fn check_files(files: &[(&str, &str)], query: &str, expected: &Expect) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let mut reader = Reader::new(log(&dir), LogOptions::parse(Some(query)).unwrap());
    expected.assert_eq(&read(&mut reader));
}

fn check(query: &str, expected: Expect) {
    check_files(&[("0.log", LINES)], query, &expected);
}

#[test]
fn everything() {
    check(
        "",
        expect![[r#"
        one
        two
        three

        a b  c
    "#]],
    );
}

#[test]
fn timestamps_stand_before_whole_lines_only() {
    check(
        "timestamps=true&tailLines=3",
        expect![[r#"
        2026-01-01T00:00:02.000000001Z three
        2026-01-01T00:00:03.000000001Z 
        2026-01-01T00:00:04.000000001Z a b  c
    "#]],
    );
}

#[test]
fn tails() {
    check("tailLines=0", expect![""]);
    check(
        "tailLines=2",
        expect![[r#"

        a b  c
    "#]],
    );
    check(
        "tailLines=100",
        expect![[r#"
        one
        two
        three

        a b  c
    "#]],
    );
}

#[test]
fn since_a_time() {
    check(
        "sinceTime=2026-01-01T00:00:03Z",
        expect![[r#"

        a b  c
    "#]],
    );
    check("sinceSeconds=1", expect![""]);
}

#[test]
fn one_stream_and_a_limit() {
    check(
        "stream=Stderr",
        expect![[r#"
        two
    "#]],
    );
    check("stream=Stdout&limitBytes=6", expect!["one\nth"]);
}

#[test]
fn rotated_files_come_first() {
    let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
    let (old, middle, new) = (line("old"), line("middle"), line("new"));
    let files = [("0.log", new.as_str()), ("0.log.20260101-000000", &old), ("0.log.20260101-000100", &middle), ("1.log", "another's")];
    check_files(
        &files,
        "",
        &expect![[r#"
        old
        middle
        new
    "#]],
    );
    check_files(
        &files,
        "tailLines=2",
        &expect![[r#"
        middle
        new
    "#]],
    );
}

#[test]
fn what_is_no_log_line_is_left_out() {
    check_files(
        &[("0.log", "garbage\n2026-01-01T00:00:00Z stdout F ok\n2026-01-01T00:00:00Z stdo")],
        "",
        &expect![[r#"
        ok
    "#]],
    );
}

#[test]
fn a_log_that_is_rotated_while_it_is_followed_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (current, rotated) = (dir.path().join("0.log"), dir.path().join("0.log.20260101-000000"));
    let line = |number: u32| format!("2026-01-01T00:00:00Z stdout F {number}\n");
    fs::write(&current, line(1)).unwrap();
    let mut reader = Reader::new(log(&dir), LogOptions::parse(Some("follow=true")).unwrap());
    assert_eq!(read(&mut reader), "1\n");
    let mut writer = fs::OpenOptions::new().append(true).open(&current).unwrap();
    fs::rename(&current, &rotated).unwrap();
    writer.write_all(line(2).as_bytes()).unwrap();
    assert_eq!(read(&mut reader), "2\n");
    fs::write(&current, line(3)).unwrap();
    writer.write_all(line(4).as_bytes()).unwrap();
    assert_eq!(read(&mut reader), "4\n3\n");
}

#[test]
fn the_tail_of_a_large_log_is_found_from_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for number in 0..200_000 {
        writeln!(text, "2026-01-01T00:00:00.123456789Z stdout F line {number}").unwrap();
    }
    fs::write(dir.path().join("0.log"), &text).unwrap();
    // A hole of a gigabyte before it: a reader that began at its start would read all of it, and
    // find no lines.
    let sparse = fs::File::create(dir.path().join("1.log")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, format!("\n{text}").as_bytes(), 1 << 30).unwrap();
    for restarts in [0, 1] {
        let log = Log { dir: dir.path().to_owned(), restarts };
        let before = bytes_read();
        let mut reader = Reader::new(log, LogOptions::parse(Some("tailLines=2")).unwrap());
        assert_eq!(read(&mut reader), "line 199998\nline 199999\n");
        let bytes = bytes_read() - before;
        assert!(bytes < 1 << 20, "{bytes} bytes were read for two lines");
    }
}

/// By this thread, from all files.
fn bytes_read() -> u64 {
    let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
    let count = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
    count.expect("the kernel counts bytes").parse().unwrap()
}
