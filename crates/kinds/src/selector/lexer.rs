//! Splits the text of a label selector into tokens.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    GreaterThan,
    Identifier,
    In,
    LessThan,
    NotEquals,
    NotIn,
    Open,
}

pub(super) struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(super) fn tokens(text: &'a str) -> Vec<(Token, &'a str)> {
        let mut lexer = Lexer { rest: text };
        let mut tokens = Vec::new();
        loop {
            let token = lexer.next();
            tokens.push(token);
            if token.0 == Token::End {
                return tokens;
            }
        }
    }

    fn next(&mut self) -> (Token, &'a str) {
        self.rest = self.rest.trim_start_matches(is_space);
        let Some(first) = self.rest.chars().next() else { return (Token::End, "") };
        if is_special(first) { self.symbol() } else { self.word() }
    }

    /// The longest symbol at the start.
    fn symbol(&mut self) -> (Token, &'a str) {
        let len = if self.rest.starts_with("==") || self.rest.starts_with("!=") { 2 } else { 1 };
        let text = self.take(len);
        let token = match text {
            ")" => Token::Close,
            "," => Token::Comma,
            "!" => Token::Not,
            "==" => Token::DoubleEquals,
            "=" => Token::Equals,
            ">" => Token::GreaterThan,
            "<" => Token::LessThan,
            "!=" => Token::NotEquals,
            "(" => Token::Open,
            _ => Token::Error,
        };
        (token, text)
    }

    fn word(&mut self) -> (Token, &'a str) {
        let len = self.rest.find(|c| is_space(c) || is_special(c)).unwrap_or(self.rest.len());
        match self.take(len) {
            "in" => (Token::In, "in"),
            "notin" => (Token::NotIn, "notin"),
            text => (Token::Identifier, text),
        }
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        text
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}
