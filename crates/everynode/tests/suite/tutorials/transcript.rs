//! A terminal session as a text: commands, and what they are expected to print.
//!
//! ```text
//! # A comment, after an empty line.
//! $ kubectl apply -f agent.yaml
//! daemonset.apps/agent created
//!
//! until$ kubectl get daemonset agent
//! NAME    DESIRED   CURRENT   READY   UP-TO-DATE   AVAILABLE   NODE SELECTOR   AGE
//! agent   3         3         3       3            3           <none>          <age>
//!
//! $ cat <<EOF | kubectl apply -f -
//! > ...
//! > EOF
//! namespace/dev created
//! ```
//!
//! `$` runs a command once, `until$` again and again until it prints what is expected. `> `
//! continues a command. Output ends at the next command or at an empty line with a comment after
//! it. A line `...` stands for any lines; `[exit 1]` at the end says that the command fails; `or:
//! WHY` begins another form that the output may have.

const ONCE: &str = "$ ";
const REPEATED: &str = "until$ ";
const CONTINUED: &str = ">";
const OTHER_FORM: &str = "or:";

#[derive(Debug)]
pub struct Transcript {
    /// With the commands' own lines; expectations are replaced in them.
    lines: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Debug, PartialEq)]
pub struct Step {
    /// Of the file, from 1.
    pub line: usize,
    pub command: String,
    pub is_repeated: bool,
    /// Any of these is right. Never empty; none ends with an empty line.
    pub forms: Vec<Vec<String>>,
    /// Where the first form lies in the file, from 0.
    first_form: std::ops::Range<usize>,
}

impl Transcript {
    /// Text before the first command that is no comment is a mistake.
    pub fn parse(text: &str) -> Result<Transcript, String> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut steps = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            if let Some((command, is_repeated)) = prompt(&lines[at]) {
                let (step, next) = parse_step(&lines, at, command, is_repeated);
                steps.push(step);
                at = next;
            } else if lines[at].is_empty() || lines[at].starts_with('#') {
                at += 1;
            } else {
                return Err(format!("line {}: neither a command nor a comment: {}", at + 1, lines[at]));
            }
        }
        Ok(Transcript { lines, steps })
    }

    /// The text with other first forms, by the position of their steps.
    pub fn with_outputs(&self, outputs: &[(usize, Vec<String>)]) -> String {
        let mut lines = self.lines.clone();
        let mut outputs: Vec<&(usize, Vec<String>)> = outputs.iter().collect();
        // From the end: what is above keeps its place.
        outputs.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        for (step, output) in outputs {
            lines.splice(self.steps[*step].first_form.clone(), output.iter().cloned());
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

fn prompt(line: &str) -> Option<(&str, bool)> {
    let once = line.strip_prefix(ONCE).map(|command| (command, false));
    once.or_else(|| line.strip_prefix(REPEATED).map(|command| (command, true)))
}

/// The step that begins here, and where the next thing begins.
fn parse_step(lines: &[String], start: usize, command: &str, is_repeated: bool) -> (Step, usize) {
    let mut command = command.to_owned();
    let mut at = start + 1;
    while let Some(more) = lines.get(at).and_then(|line| line.strip_prefix(CONTINUED)) {
        command.push('\n');
        command.push_str(more.strip_prefix(' ').unwrap_or(more));
        at += 1;
    }
    let end = (at..lines.len()).find(|&at| ends_output(lines, at)).unwrap_or(lines.len());
    let is_other = |at: &usize| lines[*at].starts_with(OTHER_FORM);
    let first_end = (at..end).find(is_other).unwrap_or(end);
    let mut forms = vec![without_empty_end(&lines[at..first_end])];
    let first_form = at..at + forms[0].len();
    let mut form_start = first_end;
    while form_start < end {
        let form_end = (form_start + 1..end).find(is_other).unwrap_or(end);
        forms.push(without_empty_end(&lines[form_start + 1..form_end]));
        form_start = form_end;
    }
    (Step { line: start + 1, command, is_repeated, forms, first_form }, end)
}

fn ends_output(lines: &[String], at: usize) -> bool {
    let is_comment = lines[at].starts_with('#') && (at == 0 || lines[at - 1].is_empty());
    is_comment || prompt(&lines[at]).is_some()
}

fn without_empty_end(lines: &[String]) -> Vec<String> {
    let len = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines[..len].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<(String, bool, Vec<String>)> {
        let transcript = Transcript::parse(text).expect("it is well-formed");
        let shown = |step: &Step| (step.command.clone(), step.is_repeated, step.forms.iter().map(|form| form.join("\n")).collect());
        transcript.steps.iter().map(shown).collect()
    }

    fn step(command: &str, is_repeated: bool, forms: &[&str]) -> (String, bool, Vec<String>) {
        (command.to_owned(), is_repeated, forms.iter().map(|form| (*form).to_owned()).collect())
    }

    #[test]
    fn commands_and_their_output() {
        let text = "# Why.\n$ one\noutput\n\nafter an empty line\n# not a comment\n\n# A comment.\nuntil$ two\n$ three\n[exit 1]\n";
        let expected = [
            step("one", false, &["output\n\nafter an empty line\n# not a comment"]),
            step("two", true, &[""]),
            step("three", false, &["[exit 1]"]),
        ];
        assert_eq!(steps(text), expected);
    }

    #[test]
    fn long_commands_and_other_forms() {
        let text = "$ cat <<EOF\n> a\n>\n>   b\n> EOF\na\nor: an older kubectl\nb\n\nor: a newer one\nc\n";
        assert_eq!(steps(text), [step("cat <<EOF\na\n\n  b\nEOF", false, &["a", "b", "c"])]);
    }

    #[test]
    fn anything_else_is_refused() {
        let refused = Transcript::parse("# A comment.\n\nkubectl get pods\n").expect_err("the prompt is missing");
        assert_eq!(refused, "line 3: neither a command nor a comment: kubectl get pods");
    }

    #[test]
    fn outputs_are_replaced_and_the_rest_stays() {
        let transcript = Transcript::parse("# Why.\n$ one\nold\n\n$ two\nor: other\nx\n").expect("it is well-formed");
        let outputs = [(0, vec!["new".to_owned(), "lines".to_owned()]), (1, vec!["first".to_owned()])];
        assert_eq!(transcript.with_outputs(&outputs), "# Why.\n$ one\nnew\nlines\n\n$ two\nfirst\nor: other\nx\n");
    }
}
