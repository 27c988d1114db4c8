//! How well messages find their categories, measured on labelled ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::categories::{Labelled, Matcher, calibrate};
use super::codes::expand_codes;
use super::embed::{StaticModel, TfIdf};
use super::{EmbedError, Embedder, fingerprint, library};
use crate::domain::{Category, CategoryId, Match};

/// The label of messages that belong to no category.
const NONE: &str = "none";
/// How many parts the messages are cut into; each part is judged by what was learnt from the others.
const FOLDS: usize = 5;
/// How many examples each category has in the setting with few of them.
const FEW: usize = 5;

/// A labelled message, as a line of the file has it.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// The text of the message, as a failed job wrote it.
    pub text: String,
    /// The category that it belongs to, or `none`.
    pub category: String,
    /// Other categories that a reader would accept too.
    #[serde(default)]
    pub also: Vec<String>,
}

/// Reads one JSON object a line.
///
/// # Errors
/// A sentence that says which line is wrong, and why.
pub fn read(lines: &str) -> Result<Vec<Message>, String> {
    let numbered = lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let messages = numbered.map(|(at, line)| {
        serde_json::from_str(line).map_err(|e| {
            format!("line {}: {e}; it must be an object with \"text\" and \"category\", and maybe \"also\"", at + 1)
        })
    });
    let messages: Vec<Message> = messages.collect::<Result<_, _>>()?;
    if messages.iter().all(|m| m.category == NONE) {
        return Err("there is no message with a category".to_owned());
    }
    Ok(messages)
}

/// How well one model did with one kind of categories.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The name of the model.
    pub model: String,
    /// What the categories were made of.
    pub categories: &'static str,
    /// Of the messages with a category, the part for which that category is the nearest one.
    pub top1: f32,
    /// The same, with an accepted other category counting as right.
    pub top1_lenient: f32,
    /// The mean over categories of the harmonic mean of precision and recall, no threshold applied.
    pub macro_f1: f32,
    /// Of all messages, the part that goes where it belongs or, belonging nowhere, stays out. The threshold for each
    /// part of the messages was picked on the others.
    pub with_none: f32,
    /// The threshold that is best for all messages.
    pub threshold: f32,
    /// Of the messages over that threshold, the part that is right.
    pub precision: f32,
    /// Of the messages with a category, the part that is right and over that threshold.
    pub recall: f32,
}

/// What each step costs a message, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Costs {
    /// The time for masking and hashing.
    pub fingerprint_us: f64,
    /// The time for expanding codes and for the static model's vector.
    pub embed_us: f64,
    /// The time for finding the category.
    pub match_us: f64,
    /// Bytes that the model adds to the binary.
    pub model_bytes: usize,
}

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Messages in the file.
    pub messages: usize,
    /// Categories in the file.
    pub categories: usize,
    /// Messages that belong nowhere.
    pub none: usize,
    /// Categories that the library does not describe.
    pub undescribed: Vec<String>,
    /// How well each model did with each kind of categories.
    pub scores: Vec<Score>,
    /// How long each step takes, and how large the model is.
    pub costs: Costs,
    /// What the endpoint took for its part; absent when none was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointCosts>,
}

/// What an endpoint was asked for, which is what it is paid for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointCosts {
    /// The name of the model.
    pub model: String,
    /// Texts that were embedded: each message once, and what describes the categories.
    pub texts: usize,
    /// Their characters, all together. Endpoints charge by tokens, of some four characters each.
    pub characters: usize,
    /// How long a text took, in microseconds.
    pub embed_us: f64,
}

/// The vectors that an endpoint made of all [`texts`].
#[derive(Debug, Clone)]
pub struct Endpoint {
    vectors: HashMap<String, Vec<f32>>,
    costs: EndpointCosts,
}

impl Endpoint {
    /// Asks the endpoint for the vectors of all texts.
    ///
    /// # Errors
    /// The errors of [`Embedder::embed`], unchanged.
    pub async fn ask(embedder: &dyn Embedder, messages: &[Message]) -> Result<Self, EmbedError> {
        let texts = texts(messages);
        let began = Instant::now();
        let vectors = embedder.embed(&texts).await?;
        let costs = EndpointCosts {
            model: embedder.model().to_owned(),
            texts: texts.len(),
            characters: texts.iter().map(|text| text.chars().count()).sum(),
            embed_us: a_piece(began.elapsed(), texts.len()),
        };
        Ok(Self { vectors: texts.into_iter().zip(vectors).collect(), costs })
    }

    fn vectors(&self, texts: &[String]) -> Vec<Vec<f32>> {
        let vector = |text: &String| self.vectors.get(expand_codes(text).as_ref()).cloned();
        texts.iter().map(|text| vector(text).expect("all texts of the trials were asked for")).collect()
    }
}

/// Every text, its codes in words, whose vector the trials on these messages need; each once.
pub fn texts(messages: &[Message]) -> Vec<String> {
    let names = names(messages);
    let categories: Vec<Category> = [Made::Names, Made::Library]
        .into_iter()
        .flat_map(|made| names.iter().map(move |name| made_of(name, made, Vec::new())))
        .collect();
    let all = Matcher::texts(&categories).into_iter().chain(messages.iter().map(|m| m.text.clone()));
    all.map(|text| expand_codes(&text).into_owned()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The categories of the messages.
fn names(messages: &[Message]) -> Vec<&str> {
    let names: BTreeSet<&str> = messages.iter().map(|m| m.category.as_str()).filter(|c| *c != NONE).collect();
    names.into_iter().collect()
}

/// What a category is made of besides its name.
#[derive(Clone, Copy, PartialEq)]
enum Made {
    Names,
    Descriptions,
    Library,
    FewExamples,
    Examples,
    All,
}

const KINDS: [(Made, &str); 6] = [
    (Made::Names, "names"),
    (Made::Descriptions, "names, descriptions"),
    (Made::Library, "names, descriptions, library's examples"),
    (Made::FewExamples, "names, descriptions, 5 examples of the file"),
    (Made::Examples, "names, descriptions, examples of the file"),
    (Made::All, "names, descriptions, library's examples, examples of the file"),
];

/// Measures everything on these messages: what needs no network, and beside it an endpoint that was asked.
pub fn evaluate(messages: &[Message], endpoint: Option<&Endpoint>) -> Report {
    let names = names(messages);
    let model = StaticModel::built_in();
    let expanded = |texts: &[String]| texts.iter().map(|text| model.vector(&expand_codes(text))).collect::<Vec<_>>();
    let mut scores = Vec::new();
    for (made, kind) in KINDS {
        let lexical = trial(messages, &names, made, |known, asked| {
            let model = TfIdf::of(known);
            let vectors = |texts: &[String]| texts.iter().map(|text| model.vector(text)).collect();
            (vectors(known), vectors(asked))
        });
        scores.push(score("lexical hashing", kind, &lexical));
        let by_static = trial(messages, &names, made, |known, asked| (expanded(known), expanded(asked)));
        scores.push(score("static model", kind, &by_static));
        if let Some(endpoint) = endpoint {
            let trial =
                trial(messages, &names, made, |known, asked| (endpoint.vectors(known), endpoint.vectors(asked)));
            scores.push(score(&endpoint.costs.model, kind, &trial));
        }
    }
    Report {
        messages: messages.len(),
        categories: names.len(),
        none: messages.iter().filter(|m| m.category == NONE).count(),
        undescribed: names.iter().filter(|n| library::preset(n).is_none()).map(|n| (*n).to_owned()).collect(),
        scores,
        costs: costs(messages, &names),
        endpoint: endpoint.map(|endpoint| endpoint.costs.clone()),
    }
}

/// One message and where it was put.
struct Judged {
    fold: usize,
    label: Option<CategoryId>,
    also: Vec<CategoryId>,
    found: Match,
}

type Vectors = (Vec<Vec<f32>>, Vec<Vec<f32>>);

fn id(name: &str) -> CategoryId {
    // A name of other than Latin letters gives no id of its own.
    CategoryId::of_name(name).unwrap_or_else(|_| {
        CategoryId::of_name(&format!("category {}", fingerprint::of(name))).expect("hexadecimal digits give an id")
    })
}

fn trial(
    messages: &[Message],
    names: &[&str],
    made: Made,
    embed: impl Fn(&[String], &[String]) -> Vectors,
) -> Vec<Judged> {
    let folds = folds(messages);
    let mut judged = Vec::new();
    let learns = matches!(made, Made::FewExamples | Made::Examples | Made::All);
    let rounds = if learns { FOLDS } else { 1 };
    for round in 0..rounds {
        let here = |fold: usize| !learns || fold == round;
        let categories: Vec<Category> = names
            .iter()
            .map(|name| {
                let labelled = messages.iter().zip(&folds).filter(|(m, fold)| m.category == *name && !here(**fold));
                let most = if made == Made::FewExamples { FEW } else { Category::MAX_EXAMPLES };
                let examples =
                    if learns { labelled.map(|(m, _)| m.text.clone()).take(most).collect() } else { Vec::new() };
                made_of(name, made, examples)
            })
            .collect();
        let asked: Vec<&Message> = messages.iter().zip(&folds).filter(|(_, f)| here(**f)).map(|(m, _)| m).collect();
        let texts: Vec<String> = asked.iter().map(|m| m.text.clone()).collect();
        let (known, vectors) = embed(&Matcher::texts(&categories), &texts);
        let matcher = Matcher::new(&categories, &known, 0.0);
        let asked_folds = folds.iter().filter(|fold| here(**fold));
        judged.extend(asked.iter().zip(vectors).zip(asked_folds).map(|((message, vector), fold)| Judged {
            fold: *fold,
            label: (message.category != NONE).then(|| id(&message.category)),
            also: message.also.iter().map(|name| id(name)).collect(),
            found: matcher.nearest(&vector),
        }));
    }
    judged
}

/// The messages of each category are dealt out in the order of their fingerprints, so that equal ones stay together.
fn folds(messages: &[Message]) -> Vec<usize> {
    let mut groups: BTreeMap<(&str, _), Vec<usize>> = BTreeMap::new();
    for (at, message) in messages.iter().enumerate() {
        groups.entry((&message.category, fingerprint::of(&message.text))).or_default().push(at);
    }
    let mut folds = vec![0; messages.len()];
    for (turn, members) in groups.values().enumerate() {
        members.iter().for_each(|at| folds[*at] = turn % FOLDS);
    }
    folds
}

fn made_of(name: &str, made: Made, examples: Vec<String>) -> Category {
    let bare = Category { id: id(name), name: name.to_owned(), description: String::new(), examples: Vec::new() };
    let described = library::preset(name).filter(|_| made != Made::Names).unwrap_or(bare);
    let own = if matches!(made, Made::Library | Made::All) { described.examples } else { Vec::new() };
    Category { id: id(name), examples: own.into_iter().chain(examples).collect(), ..described }
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages are small")]
fn score(model: &str, categories: &'static str, judged: &[Judged]) -> Score {
    let part = |n: usize, of: usize| if of == 0 { 1.0 } else { n as f32 / of as f32 };
    let labelled = |judged: &Judged| Labelled { label: judged.label.clone(), found: judged.found.clone() };
    let belonging: Vec<_> = judged.iter().filter(|j| j.label.is_some()).collect();
    let right = belonging.iter().filter(|j| j.found.best == j.label).count();
    let accepted = |j: &Judged| j.found.best == j.label || j.found.best.as_ref().is_some_and(|b| j.also.contains(b));
    let mut well_placed = 0;
    for fold in 0..FOLDS {
        let others: Vec<_> = judged.iter().filter(|j| j.fold != fold).map(labelled).collect();
        let threshold = calibrate(&others).map_or(0.0, |c| c.best.threshold);
        let here = judged.iter().filter(|j| j.fold == fold);
        well_placed += here
            .filter(|j| j.found.best.as_ref().filter(|_| j.found.similarity >= threshold) == j.label.as_ref())
            .count();
    }
    let all: Vec<_> = judged.iter().map(labelled).collect();
    let best = calibrate(&all).expect("there are messages").best;
    Score {
        model: model.to_owned(),
        categories,
        top1: part(right, belonging.len()),
        top1_lenient: part(belonging.iter().filter(|j| accepted(j)).count(), belonging.len()),
        macro_f1: macro_f1(&belonging),
        with_none: part(well_placed, judged.len()),
        threshold: best.threshold,
        precision: best.precision,
        recall: best.recall,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages are small")]
fn macro_f1(judged: &[&Judged]) -> f32 {
    let mut counts: BTreeMap<&CategoryId, [usize; 3]> = BTreeMap::new();
    for one in judged {
        let (label, best) = (one.label.as_ref(), one.found.best.as_ref());
        label.into_iter().for_each(|label| counts.entry(label).or_default()[0] += 1);
        best.into_iter().for_each(|best| counts.entry(best).or_default()[1] += 1);
        label.filter(|_| label == best).into_iter().for_each(|label| counts.entry(label).or_default()[2] += 1);
    }
    let of = |[belong, put, right]: &[usize; 3]| 2.0 * *right as f32 / (belong + put) as f32;
    counts.values().map(of).sum::<f32>() / counts.len().max(1) as f32
}

/// Times each step over all messages, again and again for a while.
fn costs(messages: &[Message], names: &[&str]) -> Costs {
    let model = StaticModel::built_in();
    let categories: Vec<Category> = names.iter().map(|name| made_of(name, Made::Library, Vec::new())).collect();
    let known: Vec<_> = Matcher::texts(&categories).iter().map(|text| model.vector(&expand_codes(text))).collect();
    let matcher = Matcher::new(&categories, &known, 0.0);
    let vectors: Vec<_> = messages.iter().map(|m| model.vector(&expand_codes(&m.text))).collect();
    Costs {
        fingerprint_us: microseconds(messages, |m| u64::from(fingerprint::of(&m.text).as_bytes()[0])),
        embed_us: microseconds(messages, |m| model.vector(&expand_codes(&m.text)).len() as u64),
        match_us: microseconds(&vectors, |vector| u64::from(matcher.nearest(vector).best.is_some())),
        model_bytes: StaticModel::size(),
    }
}

/// The fastest of several rounds, so that what else the machine does counts less.
fn microseconds<T>(of: &[T], step: impl Fn(&T) -> u64) -> f64 {
    const ROUNDS: usize = 20;
    let round = || {
        let began = Instant::now();
        std::hint::black_box(of.iter().map(&step).sum::<u64>());
        began.elapsed()
    };
    a_piece((0..ROUNDS).map(|_| round()).min().unwrap_or(Duration::ZERO), of.len())
}

/// The microseconds that each of some took.
fn a_piece(all: Duration, of: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "there are not as many messages")]
    let pieces = of.max(1) as f64;
    all.as_secs_f64() * 1e6 / pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_line_is_named() {
        let good = r#"{"text": "x", "category": "Timeout", "source": "y"}"#;
        assert_eq!(read(&format!("{good}\n\n{good}")).unwrap().len(), 2);
        assert!(read(&format!("{good}\nnot json")).unwrap_err().starts_with("line 2: "));
        assert!(read(r#"{"text": "x", "category": "none"}"#).unwrap_err().contains("no message"));
        assert!(read("").is_err());
    }

    #[test]
    fn equal_messages_share_a_fold_and_every_category_is_dealt_out() {
        let message = |text: String, category: &str| Message { text, category: category.into(), also: Vec::new() };
        let words = ["red", "green", "blue", "black", "white"];
        let mut messages: Vec<_> = words.iter().map(|w| message(format!("{w} 1"), "a")).collect();
        messages.extend(words.iter().map(|w| message(format!("{w} 22"), "a")));
        let folds = folds(&messages);
        assert_eq!(folds[..5], folds[5..]);
        let mut used = folds[..5].to_vec();
        used.sort_unstable();
        assert_eq!(used, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn plain_messages_are_found_and_strange_ones_are_not() {
        let lines = [
            ("Timeout", "deadline exceeded: no answer from the solver in time"),
            ("Timeout", "operation timed out"),
            ("Memory quota exceeded", "std::bad_alloc"),
            ("Memory quota exceeded", "Killed: out of memory"),
            ("Image processing error", "libpng error: bad chunk"),
            ("Image processing error", "can't decode the picture, the JPEG data is corrupt"),
        ];
        let mut messages: Vec<_> = lines
            .iter()
            .map(|(category, text)| Message { text: (*text).into(), category: (*category).into(), also: Vec::new() })
            .collect();
        messages.push(Message { text: "the residual is not a number".into(), category: NONE.into(), also: Vec::new() });
        let report = evaluate(&messages, None);
        assert_eq!((report.messages, report.categories, report.none), (7, 3, 1));
        assert_eq!(report.scores.len(), 2 * KINDS.len());
        let shipped = report.scores.iter().find(|s| s.model == "static model" && s.categories == KINDS[2].1).unwrap();
        assert_eq!((shipped.top1, shipped.macro_f1), (1.0, 1.0));
        assert!(report.undescribed.is_empty());
    }
}
