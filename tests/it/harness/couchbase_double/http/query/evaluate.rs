//! What an expression comes to, for one document or for a group of them.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value, json};

use super::syntax::{Expression, Kind, Operator};
use super::value::{compare, like, truth};

/// A document as the query sees it.
#[derive(Debug, Clone)]
pub struct Row {
    pub document: Value,
    pub meta: Value,
}

/// What names stand for.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub alias: &'a str,
    pub parameters: &'a Map<String, Value>,
    /// The row, or the rows of a group.
    pub rows: &'a [Row],
    /// Variables that run over arrays, the innermost last.
    pub variables: &'a [(String, Value)],
}

/// A value or MISSING; or why there is none.
pub type Evaluated = Result<Option<Value>, String>;

impl Scope<'_> {
    pub fn value(&self, expression: &Expression) -> Evaluated {
        match expression {
            Expression::Literal(value) => Ok(Some(value.clone())),
            Expression::Missing => Ok(None),
            Expression::Parameter(name) => match self.parameters.get(name) {
                Some(value) => Ok(Some(value.clone())),
                None => Err(format!("No value for named parameter ${name}")),
            },
            Expression::Name(name) => Ok(self.name(name)),
            // The common case, without a copy of the whole document.
            Expression::Field(inner, field) if self.is_document(inner) => {
                Ok(self.rows.first().and_then(|row| row.document.get(field).cloned()))
            }
            Expression::Field(inner, field) => Ok(match self.value(inner)? {
                Some(Value::Object(mut object)) => object.remove(field),
                // Of what has no fields, every field is missing.
                _ => None,
            }),
            Expression::Element(inner, index) => self.element(inner, index),
            Expression::Meta => Ok(self.rows.first().map(|row| row.meta.clone())),
            Expression::Not(inner) => {
                let inner = self.value(inner)?;
                Ok(match inner {
                    None => None,
                    Some(Value::Null) => Some(Value::Null),
                    known => Some(Value::Bool(!truth(known.as_ref()))),
                })
            }
            Expression::Negative(inner) => Ok(self.value(inner)?.map(|value| match value.as_f64() {
                Some(number) => numeric(-number),
                None => Value::Null,
            })),
            Expression::Binary(operator, left, right) => self.binary(*operator, left, right),
            Expression::In(item, list) => self.contained(item, list),
            Expression::Like(text, pattern) => Ok(match (self.value(text)?, self.value(pattern)?) {
                (None, _) | (_, None) => None,
                (Some(Value::String(text)), Some(Value::String(pattern))) => {
                    let characters = |text: String| text.chars().collect::<Vec<_>>();
                    Some(Value::Bool(like(&characters(text), &characters(pattern))))
                }
                _ => Some(Value::Null),
            }),
            Expression::Is(inner, kind) => {
                let value = self.value(inner)?;
                Ok(match (kind, &value) {
                    (Kind::Null, None) => None,
                    (Kind::Null, Some(value)) => Some(Value::Bool(value.is_null())),
                    (Kind::Missing, value) => Some(Value::Bool(value.is_none())),
                    (Kind::Valued, value) => Some(Value::Bool(value.as_ref().is_some_and(|value| !value.is_null()))),
                })
            }
            Expression::Quantified(any, variable, list, condition) => self.quantified(*any, variable, list, condition),
            Expression::Elements(..) => Err("an array of an index is no value".into()),
            Expression::Call(name, arguments) => self.call(name, arguments),
            Expression::CountAll => Ok(Some(self.rows.len().into())),
            Expression::Array(items) => {
                let items = items.iter().map(|item| Ok(self.value(item)?.unwrap_or_default()));
                Ok(Some(Value::Array(items.collect::<Result<_, String>>()?)))
            }
            Expression::Object(fields) => {
                let mut object = Map::new();
                for (name, value) in fields {
                    if let Some(value) = self.value(value)? {
                        object.insert(name.clone(), value);
                    }
                }
                Ok(Some(Value::Object(object)))
            }
        }
    }

    pub fn holds(&self, condition: &Expression) -> Result<bool, String> {
        Ok(truth(self.value(condition)?.as_ref()))
    }

    fn is_document(&self, expression: &Expression) -> bool {
        matches!(expression, Expression::Name(name)
            if name == self.alias && !self.variables.iter().any(|(variable, _)| variable == name))
    }

    fn name(&self, name: &str) -> Option<Value> {
        if let Some((_, value)) = self.variables.iter().rev().find(|(variable, _)| variable == name) {
            return Some(value.clone());
        }
        let row = self.rows.first()?;
        if name == self.alias { Some(row.document.clone()) } else { row.document.get(name).cloned() }
    }

    fn element(&self, inner: &Expression, index: &Expression) -> Evaluated {
        Ok(match (self.value(inner)?, self.value(index)?) {
            (Some(Value::Array(array)), Some(Value::Number(number))) => {
                let at = number.as_i64().unwrap_or(i64::MAX);
                let at = if at < 0 { at + array.len() as i64 } else { at };
                usize::try_from(at).ok().and_then(|at| array.get(at).cloned())
            }
            (Some(Value::Object(object)), Some(Value::String(name))) => object.get(&name).cloned(),
            (None, _) | (_, None) => None,
            _ => Some(Value::Null),
        })
    }

    fn binary(&self, operator: Operator, left: &Expression, right: &Expression) -> Evaluated {
        let left = self.value(left)?;
        match operator {
            Operator::And | Operator::Or => {
                // Three values and a fourth: what is unknown decides only where the known does not.
                let deciding = operator == Operator::Or;
                let known = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
                if known(&left) && truth(left.as_ref()) == deciding {
                    return Ok(Some(Value::Bool(deciding)));
                }
                let right = self.value(right)?;
                Ok(if known(&right) && truth(right.as_ref()) == deciding {
                    Some(Value::Bool(deciding))
                } else if known(&left) && known(&right) {
                    Some(Value::Bool(!deciding))
                } else if operator == Operator::And && (left.is_none() || right.is_none()) {
                    None
                } else {
                    Some(Value::Null)
                })
            }
            _ => {
                let right = self.value(right)?;
                let (Some(left), Some(right)) = (left, right) else { return Ok(None) };
                if left.is_null() || right.is_null() {
                    return Ok(Some(Value::Null));
                }
                Ok(Some(apply(operator, &left, &right)))
            }
        }
    }

    fn contained(&self, item: &Expression, list: &Expression) -> Evaluated {
        let (Some(item), Some(list)) = (self.value(item)?, self.value(list)?) else { return Ok(None) };
        let Value::Array(list) = list else { return Ok(Some(Value::Null)) };
        if item.is_null() {
            return Ok(Some(Value::Null));
        }
        let found = list.iter().any(|one| compare(Some(&item), Some(one)).is_eq());
        Ok(Some(if found {
            Value::Bool(true)
        } else if list.iter().any(Value::is_null) {
            Value::Null
        } else {
            Value::Bool(false)
        }))
    }

    fn quantified(&self, any: bool, variable: &str, list: &Expression, condition: &Expression) -> Evaluated {
        let list = match self.value(list)? {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Ok(Some(Value::Null)),
        };
        for item in list {
            let variables = [self.variables, &[(variable.to_owned(), item)]].concat();
            if (Scope { variables: &variables, ..*self }).holds(condition)? == any {
                return Ok(Some(Value::Bool(any)));
            }
        }
        Ok(Some(Value::Bool(!any)))
    }

    fn call(&self, name: &str, arguments: &[Expression]) -> Evaluated {
        if matches!(name, "count" | "sum" | "min" | "max" | "avg" | "array_agg") {
            let [of] = arguments else { return Err(format!("Number of arguments to function {name} must be 1.")) };
            return self.aggregate(name, of);
        }
        let values = arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>, _>>()?;
        let known = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        match (name, values.as_slice()) {
            ("ifmissing", values) => Ok(values.iter().find(|value| value.is_some()).cloned().flatten()),
            ("ifnull", values) => Ok(values.iter().find(|value| **value != Some(Value::Null)).cloned().flatten()),
            ("ifmissingornull" | "nvl" | "coalesce", values) => {
                Ok(values.iter().find(|value| known(value)).cloned().unwrap_or(Some(Value::Null)))
            }
            (_, values) if values.contains(&None) => Ok(None),
            ("lower", [Some(Value::String(text))]) => Ok(Some(text.to_lowercase().into())),
            ("upper", [Some(Value::String(text))]) => Ok(Some(text.to_uppercase().into())),
            ("length", [Some(Value::String(text))]) => Ok(Some(text.len().into())),
            ("contains", [Some(Value::String(text)), Some(Value::String(part))]) => {
                Ok(Some(text.contains(part.as_str()).into()))
            }
            ("array_length", [Some(Value::Array(array))]) => Ok(Some(array.len().into())),
            ("array_contains", [Some(Value::Array(array)), Some(item)]) => {
                Ok(Some(array.iter().any(|one| compare(Some(one), Some(item)).is_eq()).into()))
            }
            ("object_names", [Some(Value::Object(object))]) => Ok(Some(json!(object.keys().collect::<Vec<_>>()))),
            ("tostring" | "to_string", [Some(value)]) => Ok(Some(match value {
                Value::String(text) => text.clone().into(),
                Value::Bool(_) | Value::Number(_) => value.to_string().into(),
                _ => Value::Null,
            })),
            ("abs" | "round" | "floor" | "ceil", [Some(Value::Number(number))]) => {
                let number = number.as_f64().unwrap_or(0.0);
                Ok(Some(numeric(match name {
                    "abs" => number.abs(),
                    "round" => number.round(),
                    "floor" => number.floor(),
                    _ => number.ceil(),
                })))
            }
            (
                "lower" | "upper" | "length" | "contains" | "array_length" | "array_contains" | "object_names" | "abs"
                | "round" | "floor" | "ceil",
                _,
            ) => Ok(Some(Value::Null)),
            _ => Err(format!("Invalid function {name}.")),
        }
    }

    fn aggregate(&self, name: &str, of: &Expression) -> Evaluated {
        let mut values = Vec::new();
        for row in self.rows {
            let one = Scope { rows: std::slice::from_ref(row), ..*self };
            values.extend(one.value(of)?.filter(|value| !value.is_null()));
        }
        let sum = values.iter().filter_map(Value::as_f64).sum::<f64>();
        let order = |a: &&Value, b: &&Value| -> Ordering { compare(Some(a), Some(b)) };
        Ok(Some(match name {
            "count" => values.len().into(),
            "array_agg" if !values.is_empty() => Value::Array(values),
            "sum" if values.iter().any(Value::is_number) => numeric(sum),
            "avg" if values.iter().any(Value::is_number) => {
                numeric(sum / values.iter().filter(|value| value.is_number()).count() as f64)
            }
            "min" => values.iter().min_by(order).cloned().unwrap_or_default(),
            "max" => values.iter().max_by(order).cloned().unwrap_or_default(),
            _ => Value::Null,
        }))
    }
}

fn apply(operator: Operator, left: &Value, right: &Value) -> Value {
    let order = compare(Some(left), Some(right));
    let numbers = || Some((left.as_f64()?, right.as_f64()?));
    let calculated = |result: fn(f64, f64) -> f64| numbers().map_or(Value::Null, |(a, b)| numeric(result(a, b)));
    match operator {
        Operator::Equal => order.is_eq().into(),
        Operator::NotEqual => order.is_ne().into(),
        Operator::Less => order.is_lt().into(),
        Operator::LessOrEqual => order.is_le().into(),
        Operator::Greater => order.is_gt().into(),
        Operator::GreaterOrEqual => order.is_ge().into(),
        Operator::Add => calculated(|a, b| a + b),
        Operator::Subtract => calculated(|a, b| a - b),
        Operator::Multiply => calculated(|a, b| a * b),
        Operator::Divide => calculated(|a, b| a / b),
        Operator::Modulo => calculated(|a, b| a % b),
        Operator::Concatenate => match (left, right) {
            (Value::String(a), Value::String(b)) => format!("{a}{b}").into(),
            _ => Value::Null,
        },
        Operator::And | Operator::Or => unreachable!("decided before"),
    }
}

/// A number, whole if it is; what is none is null.
fn numeric(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9.0e15 {
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}
