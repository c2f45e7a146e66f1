//! The text form's grammar, read as upstream's lexer and parser read it, with their messages.

use crate::value::Str;

use super::{Operator, Requirement, SelectorError, check_key, wrong};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

/// Whether `in` and `notin` are operators here, or names like any other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Operator,
    Value,
}

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: lex(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        let (token, literal) = parser.look(Place::Value);
        match token {
            Token::Identifier | Token::Not => {
                let requirement = parser.requirement().map_err(|SelectorError(words)| {
                    SelectorError(format!("unable to parse requirement: {words}"))
                })?;
                requirements.push(requirement);
                match parser.take(Place::Value) {
                    (Token::End, _) => return Ok(requirements),
                    (Token::Comma, _) => {
                        let (next, literal) = parser.look(Place::Value);
                        if next != Token::Identifier && next != Token::Not {
                            return wrong(format!("found '{literal}', expected: identifier after ','"));
                        }
                    }
                    (_, literal) => {
                        return wrong(format!("found '{literal}', expected: ',' or 'end of string'"));
                    }
                }
            }
            Token::End => return Ok(requirements),
            _ => return wrong(format!("found '{literal}', expected: !, identifier, or 'end of string'")),
        }
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn keyword(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

/// The tokens with their texts; the last is the end. As upstream, a NUL byte ends the text.
fn lex(text: &str) -> Vec<(Token, &str)> {
    let text = text.split('\0').next().unwrap_or_default();
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        if is_space(bytes[at]) {
            at += 1;
        } else if is_special(bytes[at]) {
            // The longest run of special characters that is an operator.
            let two =
                text.get(start..start + 2).filter(|_| bytes.get(at + 1).is_some_and(|b| is_special(*b)));
            at += if two.and_then(keyword).is_some() { 2 } else { 1 };
            let literal = &text[start..at];
            tokens.push((keyword(literal).unwrap_or(Token::Identifier), literal));
        } else {
            while at < bytes.len() && !is_special(bytes[at]) && !is_space(bytes[at]) {
                at += 1;
            }
            let literal = &text[start..at];
            tokens.push((keyword(literal).unwrap_or(Token::Identifier), literal));
        }
    }
    tokens.push((Token::End, ""));
    tokens
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The current token. Behind the end there are only ends.
    fn look(&self, place: Place) -> (Token, &'a str) {
        let (token, literal) = self.tokens.get(self.at).copied().unwrap_or((Token::End, ""));
        let named = place == Place::Value && matches!(token, Token::In | Token::NotIn);
        (if named { Token::Identifier } else { token }, literal)
    }

    fn take(&mut self, place: Place) -> (Token, &'a str) {
        let taken = self.look(place);
        self.at += 1;
        taken
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.take(Place::Value);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take(Place::Value);
        }
        if token != Token::Identifier {
            return wrong(format!("found '{key}', expected: identifier"));
        }
        let mut causes = Vec::new();
        check_key("<nil>", key, &mut causes);
        if let Some(cause) = causes.first() {
            return wrong(cause.to_string());
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.look(Place::Value).0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        values.sort();
        values.dedup();
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, literal) = self.take(Place::Operator);
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return wrong(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn exact_value(&mut self) -> Result<Str, SelectorError> {
        match self.look(Place::Value) {
            (Token::End | Token::Comma, _) => Ok(Str::default()),
            (token, literal) => {
                self.at += 1;
                if token == Token::Identifier {
                    Ok(literal.into())
                } else {
                    wrong(format!("found '{literal}', expected: identifier"))
                }
            }
        }
    }

    fn values(&mut self) -> Result<Vec<Str>, SelectorError> {
        let (token, literal) = self.take(Place::Value);
        if token != Token::Open {
            return wrong(format!("found '{literal}' expected: '('"));
        }
        match self.look(Place::Value) {
            (Token::Identifier | Token::Comma, _) => {
                let values = self.list()?;
                // The list ends before the parenthesis that ends it.
                self.at += 1;
                Ok(values)
            }
            (Token::Close, _) => {
                self.at += 1;
                Ok(vec![Str::default()])
            }
            (_, literal) => wrong(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    /// Texts between commas, of which some may be missing, which means the empty text.
    fn list(&mut self) -> Result<Vec<Str>, SelectorError> {
        let mut values: Vec<Str> = Vec::new();
        loop {
            match self.take(Place::Value) {
                (Token::Identifier, literal) => {
                    values.push(literal.into());
                    match self.look(Place::Value) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, literal) => return wrong(format!("found '{literal}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(Str::default());
                    }
                    match self.look(Place::Value).0 {
                        Token::Close => {
                            values.push(Str::default());
                            return Ok(values);
                        }
                        Token::Comma => values.push(Str::default()),
                        _ => {}
                    }
                }
                (_, literal) => return wrong(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
    }
}
