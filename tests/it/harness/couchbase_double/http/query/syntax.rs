//! Statements of SQL++, as a tree. The subset is what programs write that store documents: selecting from one keyspace,
//! and making, building and dropping its indexes.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    Literal(Value),
    Missing,
    Parameter(String),
    /// A name: a variable, the alias of the keyspace, or a field of its documents.
    Name(String),
    Field(Box<Self>, String),
    Element(Box<Self>, Box<Self>),
    Meta,
    Not(Box<Self>),
    Negative(Box<Self>),
    Binary(Operator, Box<Self>, Box<Self>),
    In(Box<Self>, Box<Self>),
    Like(Box<Self>, Box<Self>),
    Is(Box<Self>, Kind),
    /// `ANY` or `EVERY`, the variable, what it runs over, and the condition.
    Quantified(bool, String, Box<Self>, Box<Self>),
    /// Elements of an array for an index: what of each, the variable, what it runs over.
    Elements(Box<Self>, String, Box<Self>),
    Call(String, Vec<Self>),
    CountAll,
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    And,
    Or,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Concatenate,
}

/// What `IS` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Missing,
    Valued,
}

/// Names, from the outermost in; of the namespace `system` or of documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Keyspace {
    pub system: bool,
    pub path: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Projection {
    /// `RAW e`: the values themselves.
    Raw(Expression),
    /// Fields of an object, each under its name.
    Fields(Vec<Item>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// `*`: the document under its alias.
    All,
    /// `x.*`: the fields of the value.
    FieldsOf(Expression),
    Named(Expression, Option<String>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    pub distinct: bool,
    pub projection: Projection,
    pub from: Option<(Keyspace, String)>,
    pub keys: Option<Expression>,
    pub condition: Option<Expression>,
    pub group: Vec<Expression>,
    /// Whether it is grouped, be it into one group of all.
    pub grouped: bool,
    pub having: Option<Expression>,
    /// And whether descending.
    pub order: Vec<(Expression, bool)>,
    pub limit: Option<Expression>,
    pub offset: Option<Expression>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Select(Box<Select>),
    CreateIndex {
        name: String,
        lenient: bool,
        keyspace: Keyspace,
        /// Empty: a primary index. With the text of each.
        keys: Vec<(Expression, String)>,
        condition: Option<(Expression, String)>,
        deferred: bool,
        /// `num_replica`.
        copies: u64,
    },
    DropIndex {
        name: String,
        lenient: bool,
        keyspace: Keyspace,
    },
    BuildIndex {
        keyspace: Keyspace,
        names: Vec<Expression>,
    },
}

impl Expression {
    /// Whether a function of a whole group is in it.
    pub fn is_aggregate(&self) -> bool {
        match self {
            Self::CountAll => true,
            Self::Call(name, _) => matches!(name.as_str(), "count" | "sum" | "min" | "max" | "avg" | "array_agg"),
            Self::Field(inner, _) | Self::Not(inner) | Self::Negative(inner) | Self::Is(inner, _) => {
                inner.is_aggregate()
            }
            Self::Binary(_, left, right) | Self::Element(left, right) => left.is_aggregate() || right.is_aggregate(),
            _ => false,
        }
    }

    /// The parts that must all hold.
    pub fn conjuncts(&self) -> Vec<&Self> {
        match self {
            Self::Binary(Operator::And, left, right) => [left.conjuncts(), right.conjuncts()].concat(),
            other => vec![other],
        }
    }

    /// The same without the alias before its fields, so that a query and an index can be compared.
    pub fn without(&self, alias: &str) -> Self {
        let boxed = |inner: &Self| Box::new(inner.without(alias));
        match self {
            Self::Field(inner, field) => match inner.as_ref() {
                Self::Name(name) if name == alias => Self::Name(field.clone()),
                inner => Self::Field(boxed(inner), field.clone()),
            },
            Self::Element(left, right) => Self::Element(boxed(left), boxed(right)),
            Self::Not(inner) => Self::Not(boxed(inner)),
            Self::Negative(inner) => Self::Negative(boxed(inner)),
            Self::Binary(operator, left, right) => Self::Binary(*operator, boxed(left), boxed(right)),
            Self::In(left, right) => Self::In(boxed(left), boxed(right)),
            Self::Like(left, right) => Self::Like(boxed(left), boxed(right)),
            Self::Is(inner, kind) => Self::Is(boxed(inner), *kind),
            Self::Quantified(any, variable, list, condition) => {
                Self::Quantified(*any, variable.clone(), boxed(list), boxed(condition))
            }
            Self::Elements(of, variable, list) => Self::Elements(boxed(of), variable.clone(), boxed(list)),
            Self::Call(name, arguments) => {
                Self::Call(name.clone(), arguments.iter().map(|argument| argument.without(alias)).collect())
            }
            other => other.clone(),
        }
    }
}

impl Statement {
    /// What it is about.
    pub fn keyspace(&self) -> Option<&Keyspace> {
        match self {
            Self::Select(select) => select.from.as_ref().map(|(keyspace, _)| keyspace),
            Self::CreateIndex { keyspace, .. }
            | Self::DropIndex { keyspace, .. }
            | Self::BuildIndex { keyspace, .. } => Some(keyspace),
        }
    }
}
