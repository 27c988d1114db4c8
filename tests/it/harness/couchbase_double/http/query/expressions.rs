//! Expressions, from the loosest binding to the tightest.

use serde_json::Value;

use super::parse::Parser;
use super::syntax::{Expression, Kind, Operator};
use super::tokens::Token;

impl Parser<'_> {
    pub fn expression(&mut self) -> Option<Expression> {
        let mut left = self.conjunction()?;
        while self.word("or") {
            left = binary(Operator::Or, left, self.conjunction()?);
        }
        Some(left)
    }

    fn conjunction(&mut self) -> Option<Expression> {
        let mut left = self.negation()?;
        while self.word("and") {
            left = binary(Operator::And, left, self.negation()?);
        }
        Some(left)
    }

    fn negation(&mut self) -> Option<Expression> {
        if self.word("not") {
            return Some(Expression::Not(Box::new(self.negation()?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Option<Expression> {
        let left = self.sum()?;
        let operators = [
            ("=", Operator::Equal),
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<>", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        for (symbol, operator) in operators {
            if self.symbol(symbol) {
                return Some(binary(operator, left, self.sum()?));
            }
        }
        if self.word("is") {
            let negated = self.word("not");
            let kind = if self.word("null") {
                Kind::Null
            } else if self.word("missing") {
                Kind::Missing
            } else {
                (self.word("valued") || self.word("known")).then_some(Kind::Valued)?
            };
            return Some(maybe_not(negated, Expression::Is(Box::new(left), kind)));
        }
        let negated = self.word("not");
        let found = if self.word("in") {
            Expression::In(Box::new(left), Box::new(self.sum()?))
        } else if self.word("like") {
            Expression::Like(Box::new(left), Box::new(self.sum()?))
        } else if self.word("between") {
            let low = self.sum()?;
            self.need_word("and")?;
            let above = binary(Operator::GreaterOrEqual, left.clone(), low);
            binary(Operator::And, above, binary(Operator::LessOrEqual, left, self.sum()?))
        } else {
            return if negated { None } else { Some(left) };
        };
        Some(maybe_not(negated, found))
    }

    fn sum(&mut self) -> Option<Expression> {
        let mut left = self.product()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Symbol("+")) => Operator::Add,
                Some(Token::Symbol("-")) => Operator::Subtract,
                Some(Token::Symbol("||")) => Operator::Concatenate,
                _ => return Some(left),
            };
            self.at += 1;
            left = binary(operator, left, self.product()?);
        }
    }

    fn product(&mut self) -> Option<Expression> {
        let mut left = self.sign()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Symbol("*")) => Operator::Multiply,
                Some(Token::Symbol("/")) => Operator::Divide,
                Some(Token::Symbol("%")) => Operator::Modulo,
                _ => return Some(left),
            };
            self.at += 1;
            left = binary(operator, left, self.sign()?);
        }
    }

    fn sign(&mut self) -> Option<Expression> {
        if self.symbol("-") {
            return Some(Expression::Negative(Box::new(self.sign()?)));
        }
        self.path()
    }

    fn path(&mut self) -> Option<Expression> {
        let mut found = self.primary()?;
        loop {
            let star = matches!(self.tokens.get(self.at + 1), Some((_, Token::Symbol("*"))));
            if !star && self.symbol(".") {
                // After a dot, every word is a field.
                let Some(Token::Word { text, .. }) = self.peek() else { return None };
                found = Expression::Field(Box::new(found), text.clone());
                self.at += 1;
            } else if self.symbol("[") {
                let index = self.expression()?;
                self.need("]")?;
                found = Expression::Element(Box::new(found), Box::new(index));
            } else {
                return Some(found);
            }
        }
    }

    pub fn primary(&mut self) -> Option<Expression> {
        let token = self.peek()?.clone();
        match token {
            Token::Literal(value) => {
                self.at += 1;
                Some(Expression::Literal(value))
            }
            Token::Parameter(name) => {
                self.at += 1;
                Some(Expression::Parameter(name))
            }
            Token::Symbol("(") => {
                self.at += 1;
                let inner = self.expression()?;
                self.need(")")?;
                Some(inner)
            }
            Token::Symbol("[") => {
                self.at += 1;
                let items = if self.symbol("]") {
                    return Some(Expression::Array(Vec::new()));
                } else {
                    self.list(Self::expression)?
                };
                self.need("]")?;
                Some(Expression::Array(items))
            }
            Token::Symbol("{") => {
                self.at += 1;
                if self.symbol("}") {
                    return Some(Expression::Object(Vec::new()));
                }
                let fields = self.list(|parser| {
                    let Token::Literal(Value::String(name)) = parser.peek()?.clone() else { return None };
                    parser.at += 1;
                    parser.need(":")?;
                    Some((name, parser.expression()?))
                })?;
                self.need("}")?;
                Some(Expression::Object(fields))
            }
            Token::Symbol(_) => None,
            Token::Word { quoted: true, .. } => self.name().map(Expression::Name),
            Token::Word { text, quoted: false } => self.keyword_or_name(&text.to_ascii_lowercase()),
        }
    }

    fn keyword_or_name(&mut self, word: &str) -> Option<Expression> {
        let constant = match word {
            "true" => Some(Expression::Literal(Value::Bool(true))),
            "false" => Some(Expression::Literal(Value::Bool(false))),
            "null" => Some(Expression::Literal(Value::Null)),
            "missing" => Some(Expression::Missing),
            _ => None,
        };
        if constant.is_some() {
            self.at += 1;
            return constant;
        }
        if matches!(word, "any" | "some" | "every") {
            self.at += 1;
            let variable = self.name()?;
            self.need_word("in")?;
            let list = self.expression()?;
            self.need_word("satisfies")?;
            let condition = self.expression()?;
            self.need_word("end")?;
            return Some(Expression::Quantified(word != "every", variable, Box::new(list), Box::new(condition)));
        }
        let name = self.name()?;
        if !self.symbol("(") {
            return Some(Expression::Name(name));
        }
        if word == "count" && self.symbol("*") {
            self.need(")")?;
            return Some(Expression::CountAll);
        }
        let arguments = if self.symbol(")") {
            Vec::new()
        } else {
            let arguments = self.list(Self::expression)?;
            self.need(")")?;
            arguments
        };
        // There is one keyspace, so it does not matter whether it is named.
        Some(if word == "meta" { Expression::Meta } else { Expression::Call(word.to_owned(), arguments) })
    }
}

fn binary(operator: Operator, left: Expression, right: Expression) -> Expression {
    Expression::Binary(operator, Box::new(left), Box::new(right))
}

fn maybe_not(negated: bool, expression: Expression) -> Expression {
    if negated { Expression::Not(Box::new(expression)) } else { expression }
}
