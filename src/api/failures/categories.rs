//! The categories of errors. A handler writes a change to the event log, and the projector carries
//! it out. Then the classifier goes over all known errors again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::records;
use crate::api::body::Json;
use crate::api::problem::ApiError;
use crate::api::query::Segment;
use crate::api::state::Api;
use crate::domain::{Category, CategoryChange, CategoryEvent, CategoryId, InvalidCategory, Outcome, UNCATEGORISED};
use crate::failures::categories::{Calibration, Labelled, calibrate, library, named};
use crate::failures::fingerprint;
use crate::stats::Label;
use crate::store::{Categories, ErrorRecord, all_errors};
use crate::wire::failures::{
    CalibrateBody, CategoryBody, CategoryChanged, CategoryListing, CategoryView, NewCategory, Preset, PresetListing,
    TestBody, Tested, ThresholdBody,
};

/// The most labelled messages in one calibration.
const MOST_LABELLED: usize = 5000;

/// `GET /api/v1/categories`: all categories, each with the number of its errors.
pub(in crate::api) async fn list(State(api): State<Arc<Api>>) -> Result<axum::Json<CategoryListing>, ApiError> {
    let categories = api.history.categories().await?;
    let mut errors: BTreeMap<Label, usize> = BTreeMap::new();
    let count = |error, record: Option<ErrorRecord>| {
        if let Some(record) = record {
            *errors.entry(categories.label(&error, Some(&record))).or_insert(0) += 1;
        }
    };
    let all: Vec<_> = all_errors(&*api.history).await?.into_iter().collect();
    records(&*api.history, &all, count).await?;
    let count = |label: &Label| errors.get(label).copied().unwrap_or(0);
    let view = |category: &Category| CategoryView {
        category: category.clone(),
        errors: count(&Label::Category(category.id.clone())),
    };
    Ok(axum::Json(CategoryListing {
        items: categories.categories.iter().map(view).collect(),
        threshold: api.settings.category_preview.threshold_of(&categories),
        threshold_is_configured: categories.threshold.is_none(),
        uncategorised: count(&Label::Uncategorised),
        pending: count(&Label::Pending),
    }))
}

/// `POST /api/v1/categories`: adds a category.
pub(in crate::api) async fn add(State(api): State<Arc<Api>>, body: Json<NewCategory>) -> Result<Response, ApiError> {
    let category = wanted(body.value)?;
    let id = category.id.clone();
    category.validate().map_err(invalid)?;
    let known = api.history.categories().await?;
    if known.get(&id).is_some() {
        let detail = format!("there is a category {id} already; change it with PUT /api/v1/categories/{id}");
        return Err(ApiError::new(StatusCode::CONFLICT, "category_exists", detail));
    }
    if known.categories.len() >= Categories::MOST {
        let detail = format!("there are {} categories, and there can be no more", Categories::MOST);
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many_categories", detail));
    }
    check_name(&known, &category)?;
    write(&api, CategoryChange::Added { category }, Some(id), "added").await
}

/// The category that the body asks for, completed from its preset.
fn wanted(body: NewCategory) -> Result<Category, ApiError> {
    let unknown = |preset: &str| {
        let detail = format!("there is no preset {preset:?}; see GET /api/v1/categories:presets");
        ApiError::new(StatusCode::NOT_FOUND, "unknown_preset", detail)
    };
    let preset = body.preset.map(|preset| named(&preset).ok_or_else(|| unknown(&preset))).transpose()?;
    let (own_name, own_description, mut examples) =
        preset.map_or_else(Default::default, |p| (Some(p.name), Some(p.description), p.examples));
    let Some(name) = body.name.or(own_name) else {
        return Err(ApiError::bad_request("invalid_body", "name: must be given without a preset"));
    };
    let id = body.id.map_or_else(|| CategoryId::of_name(&name), Ok).map_err(invalid)?;
    examples.extend(body.examples);
    Ok(Category { id, name, description: body.description.or(own_description).unwrap_or_default(), examples })
}

/// `GET /api/v1/categories:presets`: the categories that come with Jobber.
pub(in crate::api) async fn presets() -> axum::Json<PresetListing> {
    let items = library().into_iter().map(|(category, aliases)| Preset { category, aliases: aliases.to_vec() });
    axum::Json(PresetListing { items: items.collect() })
}

/// `PUT /api/v1/categories/{id}`: replaces a category.
pub(in crate::api) async fn edit(
    State(api): State<Arc<Api>>,
    segment: Segment,
    body: Json<CategoryBody>,
) -> Result<Response, ApiError> {
    let known = api.history.categories().await?;
    let id = known_id(&known, &segment.0)?;
    let CategoryBody { id: given, name, description, examples } = body.value;
    if given.is_some_and(|given| given != id) {
        return Err(ApiError::bad_request("invalid_body", "id: a category keeps its id; give another name instead"));
    }
    let category = Category { id: id.clone(), name, description, examples };
    category.validate().map_err(invalid)?;
    check_name(&known, &category)?;
    write(&api, CategoryChange::Edited { category }, Some(id), "edited").await
}

/// `DELETE /api/v1/categories/{id}`: removes a category.
pub(in crate::api) async fn remove(State(api): State<Arc<Api>>, segment: Segment) -> Result<Response, ApiError> {
    let id = known_id(&api.history.categories().await?, &segment.0)?;
    write(&api, CategoryChange::Removed { id: id.clone() }, Some(id), "removed").await
}

/// `POST /api/v1/categories:threshold`: sets the threshold, from -1 to 1, or clears it.
pub(in crate::api) async fn set_threshold(
    State(api): State<Arc<Api>>,
    body: Json<ThresholdBody>,
) -> Result<Response, ApiError> {
    let threshold = body.value.threshold;
    if threshold.is_some_and(|threshold| !(-1.0..=1.0).contains(&threshold)) {
        return Err(ApiError::bad_request("invalid_body", "threshold: must be -1 to 1, or null"));
    }
    write(&api, CategoryChange::ThresholdSet { threshold }, None, "set").await
}

/// `POST /api/v1/categories:test`: finds the category of a text.
pub(in crate::api) async fn test(
    State(api): State<Arc<Api>>,
    body: Json<TestBody>,
) -> Result<axum::Json<Tested>, ApiError> {
    let text = body.value.text.as_str();
    if text.trim().is_empty() {
        return Err(ApiError::bad_request("invalid_body", "text: say what an attempt might say"));
    }
    let (preview, categories) = (&api.settings.category_preview, api.history.categories().await?);
    let canonical = fingerprint::canonical_text(&Outcome::Exit { code: 1 }, Some(text), None);
    let found = preview.matcher(&categories).await?.nearest(&preview.vector(&canonical).await?);
    let tested = Tested {
        category: found.category.as_ref().map_or(UNCATEGORISED, CategoryId::as_str).to_owned(),
        nearest: found.best,
        similarity: found.similarity,
        threshold: preview.threshold_of(&categories),
        fingerprint: fingerprint::of(&canonical),
        masked: fingerprint::mask(&canonical),
    };
    Ok(axum::Json(tested))
}

/// `POST /api/v1/categories:calibrate`: finds the best threshold for labelled messages.
pub(in crate::api) async fn measure(
    State(api): State<Arc<Api>>,
    body: Json<CalibrateBody>,
) -> Result<axum::Json<Calibration>, ApiError> {
    let body = body.value;
    if body.labelled.len() > MOST_LABELLED {
        let detail = format!("labelled: at most {MOST_LABELLED} messages at once");
        return Err(ApiError::bad_request("invalid_body", detail));
    }
    let (preview, categories) = (&api.settings.category_preview, api.history.categories().await?);
    let mut labels = Vec::with_capacity(body.labelled.len());
    for labelled in &body.labelled {
        labels.push(match labelled.category.as_deref() {
            None | Some("none" | UNCATEGORISED) => None,
            Some(text) => Some(known_id(&categories, text)?),
        });
    }
    let matcher = preview.matcher(&categories).await?;
    let texts: Vec<String> = body.labelled.into_iter().map(|labelled| labelled.text).collect();
    let vectors = preview.vectors(&texts).await?;
    let found = labels.into_iter().zip(&vectors).map(|(label, v)| Labelled { label, found: matcher.nearest(v) });
    match calibrate(&found.collect::<Vec<_>>()) {
        Some(calibration) => Ok(axum::Json(calibration)),
        None => Err(ApiError::bad_request("invalid_body", "labelled: give at least one message")),
    }
}

/// The id of a category that a client gives by its id or its name.
fn known_id(known: &Categories, text: &str) -> Result<CategoryId, ApiError> {
    let is_it = |c: &&Category| c.id.as_str() == text || c.name.eq_ignore_ascii_case(text);
    known.categories.iter().find(is_it).map(|category| category.id.clone()).ok_or_else(|| {
        let detail = format!("there is no category {text:?}; see GET /api/v1/categories");
        ApiError::new(StatusCode::NOT_FOUND, "unknown_category", detail)
    })
}

/// Refuses a name that another category has. In the statistics of the original routes the two could
/// not be told apart.
fn check_name(known: &Categories, category: &Category) -> Result<(), ApiError> {
    let other = known.categories.iter().find(|c| c.id != category.id && c.name.eq_ignore_ascii_case(&category.name));
    match other {
        None => Ok(()),
        Some(other) => {
            let detail = format!("the category {} has the name {:?} already", other.id, other.name);
            Err(ApiError::new(StatusCode::CONFLICT, "category_exists", detail))
        }
    }
}

async fn write(api: &Api, change: CategoryChange, id: Option<CategoryId>, status: &str) -> Result<Response, ApiError> {
    let at = api.sink.append_change(&CategoryEvent { at: api.clock.now(), change }).await?;
    tracing::info!(category = id.as_ref().map(CategoryId::as_str), status, "the categories were changed");
    let takes_effect = "within moments: errors that are known are put into the categories anew, the past included";
    let (status, cursor, takes_effect) = (status.to_owned(), at.to_string(), takes_effect.to_owned());
    Ok((StatusCode::ACCEPTED, axum::Json(CategoryChanged { id, status, cursor, takes_effect })).into_response())
}

fn invalid(error: InvalidCategory) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_category", error.to_string())
}
