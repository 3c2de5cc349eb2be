//! Example tests, one rule each.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn check(texts: &[&str], expect: Expect) {
    let lines: Vec<String> = texts
        .iter()
        .map(|text| match Selector::parse(text) {
            Ok(selector) => format!("{text} => {selector}\n"),
            Err(error) => format!("{text}: {error}\n"),
        })
        .collect();
    expect.assert_eq(&lines.concat());
}

#[test]
fn query_texts_parse_as_in_go() {
    check(
        &["", "a=b,c!=d,e in (y,x),!f,g,h>5", "x in (foo,,baz),y notin ()", "a==b", "in", "a=", "a in (,)", "z,a"],
        expect![[r#"
             => 
            a=b,c!=d,e in (y,x),!f,g,h>5 => a=b,c!=d,e in (x,y),!f,g,h>5
            x in (foo,,baz),y notin () => x in (,baz,foo),y notin ()
            a==b => a==b
            in => in
            a= => a=
            a in (,) => a in ()
            z,a => a,z
        "#]],
    );
}

#[test]
fn bad_query_texts_are_refused_in_go_s_words() {
    check(
        &["a===b", "a in b", "a b", "a>b", "!!", "a,", "a in (b", "a in (b c)", ")", "a=b c", "-a", "a=-b"],
        expect![[r#"
            a===b: unable to parse requirement: found '=', expected: identifier
            a in b: unable to parse requirement: found 'b' expected: '('
            a b: unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt
            a>b: unable to parse requirement: values[0]: Invalid value: "b": for 'Gt', 'Lt' operators, the value must be an integer
            !!: unable to parse requirement: found '!', expected: identifier
            a,: found '', expected: identifier after ','
            a in (b: unable to parse requirement: found '', expected: ',' or ')'
            a in (b c): unable to parse requirement: found 'c', expected: ',' or ')'
            ): found ')', expected: !, identifier, or 'end of string'
            a=b c: found 'c', expected: ',' or 'end of string'
            -a: unable to parse requirement: <nil>: Invalid value: "-a": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            a=-b: unable to parse requirement: values[0][a]: Invalid value: "-b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
        "#]],
    );
}

#[test]
fn selectors_match_labels() {
    let labels = json!({"a": "1", "b": "x"});
    let labels = labels.as_object().unwrap();
    let matches = |text: &str| Selector::parse(text).unwrap().matches(labels);
    assert!(matches("a=1,b in (x,y),!c,c!=1,a>0,a<2") && !matches("a!=1") && !matches("c") && !matches("b>1"));
    let object = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["y"]}]});
    assert!(Selector::from_object(Some(&object)).unwrap().matches(labels));
    assert!(Selector::from_object(Some(&json!({}))).unwrap().is_everything());
    assert!(!Selector::from_object(None).unwrap().matches(labels));
}

#[test]
fn node_selectors_match_labels_and_names() {
    let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cpus": "8"}}});
    let matches = |term| node_selector_matches(&json!({"nodeSelectorTerms": [term]}), &node);
    assert!(matches(json!({"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}]})));
    assert!(matches(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})));
    assert!(!matches(json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]})));
    assert!(!matches(json!({})));
}

#[test]
fn field_selectors() {
    let parse = |text: &str| match FieldSelector::parse(text) {
        Ok(selector) => format!("{:?}", selector.requirements.iter().map(|r| (&r.field, r.is_equal, &r.value)).collect::<Vec<_>>()),
        Err(error) => error.to_string(),
    };
    expect![[r#"[("a", true, "b"), ("c", false, "d,e")]"#]].assert_eq(&parse(r"a==b,c!=d\,e"));
    expect!["invalid selector: 'a'; can't understand 'a'"].assert_eq(&parse("a"));
    expect!["invalid field selector: unescaped character in value: 61"].assert_eq(&parse("a=b=c"));
    expect![r"invalid field selector: invalid escape sequence: \x"].assert_eq(&parse(r"a=\x"));
    let selector = FieldSelector::parse("metadata.name=x").unwrap();
    assert!(selector.matches(|_| "x") && !selector.matches(|_| "y"));
}
