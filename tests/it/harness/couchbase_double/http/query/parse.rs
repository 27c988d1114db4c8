//! From words to a statement, by recursive descent.

use serde_json::Value;

use super::syntax::{Expression, Item, Keyspace, Projection, Select, Statement};
use super::tokens::{self, Token};

/// Words that end an expression or an alias instead of being a name.
const RESERVED: &[&str] = &[
    "and",
    "any",
    "array",
    "as",
    "asc",
    "between",
    "by",
    "create",
    "desc",
    "distinct",
    "drop",
    "end",
    "every",
    "false",
    "for",
    "from",
    "group",
    "having",
    "in",
    "index",
    "is",
    "like",
    "limit",
    "missing",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "raw",
    "satisfies",
    "select",
    "some",
    "true",
    "use",
    "using",
    "when",
    "where",
    "with",
];

/// Reads one statement; what is wrong with it, as the service words it.
pub fn statement(text: &str) -> Result<Statement, String> {
    let tokens = tokens::split(text).map_err(|at| complaint(text, at))?;
    let mut parser = Parser { text, tokens, at: 0 };
    let parsed = parser.statement();
    let rest = parser.symbol(";") && parser.at == parser.tokens.len() || parser.at == parser.tokens.len();
    parsed.filter(|_| rest).ok_or_else(|| complaint(text, parser.place()))
}

fn complaint(text: &str, at: usize) -> String {
    let near: String = text[at.min(text.len())..].chars().take(20).collect();
    format!("syntax error - line 1, column {}, near '{near}'", at + 1)
}

pub struct Parser<'a> {
    pub text: &'a str,
    pub tokens: Vec<(usize, Token)>,
    pub at: usize,
}

impl Parser<'_> {
    fn place(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |(place, _)| *place)
    }

    pub fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    pub fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.tokens.get(self.at + ahead), Some((_, Token::Word { text, quoted: false }))
            if text.eq_ignore_ascii_case(word))
    }

    /// Takes a keyword if it is next.
    pub fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(0, word);
        self.at += usize::from(found);
        found
    }

    pub fn words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(ahead, word)| self.is_word(ahead, word));
        self.at += if found { words.len() } else { 0 };
        found
    }

    pub fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(next)) if *next == symbol);
        self.at += usize::from(found);
        found
    }

    pub fn need(&mut self, symbol: &str) -> Option<()> {
        self.symbol(symbol).then_some(())
    }

    pub fn need_word(&mut self, word: &str) -> Option<()> {
        self.word(word).then_some(())
    }

    pub fn name(&mut self) -> Option<String> {
        let Token::Word { text, quoted } = self.peek()? else { return None };
        if !quoted && RESERVED.contains(&text.to_ascii_lowercase().as_str()) {
            return None;
        }
        let name = text.clone();
        self.at += 1;
        Some(name)
    }

    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut found = vec![item(self)?];
        while self.symbol(",") {
            found.push(item(self)?);
        }
        Some(found)
    }

    fn statement(&mut self) -> Option<Statement> {
        if self.word("select") {
            return Some(Statement::Select(Box::new(self.select()?)));
        }
        if self.words(&["create", "primary", "index"]) {
            return self.create_index(true);
        }
        if self.words(&["create", "index"]) {
            return self.create_index(false);
        }
        if self.words(&["drop", "primary", "index"]) {
            let lenient = self.words(&["if", "exists"]);
            self.need_word("on")?;
            let keyspace = self.keyspace()?;
            return Some(Statement::DropIndex { name: "#primary".into(), lenient, keyspace });
        }
        if self.words(&["drop", "index"]) {
            return self.drop_index();
        }
        self.words(&["build", "index", "on"]).then_some(())?;
        let keyspace = self.keyspace()?;
        self.need("(")?;
        let names = self.list(Self::index_name)?;
        self.need(")")?;
        self.using()?;
        Some(Statement::BuildIndex { keyspace, names })
    }

    /// A bare name here is a name, not a field.
    fn index_name(&mut self) -> Option<Expression> {
        match self.name() {
            Some(name) => Some(Expression::Literal(Value::String(name))),
            None => self.expression(),
        }
    }

    fn select(&mut self) -> Option<Select> {
        let distinct = self.word("distinct");
        let projection = if self.word("raw") || self.word("element") || self.word("value") {
            Projection::Raw(self.expression()?)
        } else {
            Projection::Fields(self.list(Self::item)?)
        };
        let mut from = None;
        if self.word("from") {
            let keyspace = self.keyspace()?;
            let alias = if self.word("as") { Some(self.name()?) } else { self.name() };
            let alias = alias.or_else(|| keyspace.path.last().cloned())?;
            from = Some((keyspace, alias));
        }
        let keys = if self.words(&["use", "keys"]) { Some(self.expression()?) } else { None };
        let condition = if self.word("where") { Some(self.expression()?) } else { None };
        let group = if self.words(&["group", "by"]) { self.list(Self::expression)? } else { Vec::new() };
        let having = if self.word("having") { Some(self.expression()?) } else { None };
        let order = if self.words(&["order", "by"]) {
            self.list(|parser| {
                let by = parser.expression()?;
                let descending = parser.word("desc");
                parser.word("asc");
                Some((by, descending))
            })?
        } else {
            Vec::new()
        };
        let limit = if self.word("limit") { Some(self.expression()?) } else { None };
        let offset = if self.word("offset") { Some(self.expression()?) } else { None };
        let aggregates = match &projection {
            Projection::Raw(expression) => expression.is_aggregate(),
            Projection::Fields(items) => {
                items.iter().any(|item| matches!(item, Item::Named(expression, _) if expression.is_aggregate()))
            }
        };
        let grouped = aggregates || !group.is_empty();
        Some(Select { distinct, projection, from, keys, condition, group, grouped, having, order, limit, offset })
    }

    fn item(&mut self) -> Option<Item> {
        if self.symbol("*") {
            return Some(Item::All);
        }
        let expression = self.expression()?;
        if self.symbol(".") {
            self.need("*")?;
            return Some(Item::FieldsOf(expression));
        }
        let alias = if self.word("as") { Some(self.name()?) } else { self.name() };
        Some(Item::Named(expression, alias))
    }

    fn keyspace(&mut self) -> Option<Keyspace> {
        let mut first = self.name()?;
        let mut system = false;
        if self.symbol(":") {
            system = first.eq_ignore_ascii_case("system");
            if !system && first != "default" {
                return None;
            }
            first = self.name()?;
        }
        let mut path = vec![first];
        while self.symbol(".") {
            path.push(self.name()?);
        }
        Some(Keyspace { system, path })
    }

    fn create_index(&mut self, primary: bool) -> Option<Statement> {
        let mut lenient = self.words(&["if", "not", "exists"]);
        let name = if primary { self.name().unwrap_or_else(|| "#primary".into()) } else { self.name()? };
        lenient |= self.words(&["if", "not", "exists"]);
        self.need_word("on")?;
        let keyspace = self.keyspace()?;
        let mut keys = Vec::new();
        if !primary {
            self.need("(")?;
            keys = self.list(|parser| {
                let from = parser.place();
                let key = parser.index_key()?;
                let text = parser.text[from..parser.place()].trim().to_owned();
                parser.words(&["include", "missing"]);
                let _ = parser.word("desc") || parser.word("asc");
                Some((key, text))
            })?;
            self.need(")")?;
        }
        let mut condition = None;
        if self.word("where") {
            let from = self.place();
            let parsed = self.expression()?;
            condition = Some((parsed, self.text[from..self.place()].trim().to_owned()));
        }
        self.using()?;
        let (mut deferred, mut copies) = (false, 0);
        if self.word("with") {
            let Expression::Object(fields) = self.primary()? else { return None };
            let deferring = Expression::Literal(Value::Bool(true));
            deferred = fields.iter().any(|(name, value)| name == "defer_build" && *value == deferring);
            let number = |value: &Expression| match value {
                Expression::Literal(value) => value.as_u64(),
                _ => None,
            };
            copies = fields.iter().find(|(name, _)| name == "num_replica").and_then(|(_, n)| number(n)).unwrap_or(0);
        }
        Some(Statement::CreateIndex { name, lenient, keyspace, keys, condition, deferred, copies })
    }

    fn index_key(&mut self) -> Option<Expression> {
        let of_elements = self.word("distinct") || self.word("all");
        if !self.word("array") {
            return if of_elements { None } else { self.expression() };
        }
        let of = self.expression()?;
        self.need_word("for")?;
        let variable = self.name()?;
        self.need_word("in")?;
        let list = self.expression()?;
        self.need_word("end")?;
        Some(Expression::Elements(Box::new(of), variable, Box::new(list)))
    }

    fn drop_index(&mut self) -> Option<Statement> {
        let mut lenient = self.words(&["if", "exists"]);
        let mut path = vec![self.name()?];
        while self.symbol(".") {
            path.push(self.name()?);
        }
        let name = path.pop()?;
        lenient |= self.words(&["if", "exists"]);
        let keyspace = if self.word("on") { self.keyspace()? } else { Keyspace { system: false, path } };
        self.using()?;
        (!keyspace.path.is_empty()).then_some(Statement::DropIndex { name, lenient, keyspace })
    }

    fn using(&mut self) -> Option<()> {
        if self.word("using") { self.need_word("gsi") } else { Some(()) }
    }
}
