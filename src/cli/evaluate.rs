//! `jobber category evaluate`: measures how well errors are categorised, without a server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::view::{Table, View};
use super::{CliError, Console, Exit, Format};
use crate::failures::evaluate::{Endpoint, EndpointCosts, Message, Report, evaluate as measure, read};

/// `jobber category evaluate`.
#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// One JSON object a line: "text", "category" ("none" for messages that belong nowhere), and maybe "also", a list
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON, as `--output json` does
    #[arg(long)]
    json: bool,
    /// Leave the configured endpoint (embedder.url) out, which is paid for each text
    #[arg(long)]
    pub offline: bool,
}

impl View for Report {
    fn table(&self, out: &mut Table) {
        out.field("messages", format!("{}, {} of them without a category", self.messages, self.none));
        out.field("categories", self.categories.to_string());
        let undescribed = self.undescribed.join(", ");
        out.optional("not in library", (!undescribed.is_empty()).then_some(undescribed));
        let part = |value: f32| format!("{value:.3}");
        let rows = self.scores.iter().map(|score| {
            vec![
                score.model.to_owned(),
                part(score.top1),
                part(score.top1_lenient),
                part(score.macro_f1),
                part(score.with_none),
                format!("{:.2}", score.threshold),
                part(score.precision),
                part(score.recall),
                score.categories.to_owned(),
            ]
        });
        let head =
            ["MODEL", "TOP-1", "LENIENT", "MACRO-F1", "WITH NONE", "THRESHOLD", "PRECISION", "RECALL", "MADE OF"];
        out.grid(&head, rows);
        let cost = |us: f64| format!("{us:.1} us a message");
        out.field("fingerprint", cost(self.costs.fingerprint_us));
        out.field("gloss and embed", cost(self.costs.embed_us));
        out.field("match", cost(self.costs.match_us));
        out.field("size of the model", format!("{} bytes", self.costs.model_bytes));
        if let Some(EndpointCosts { model, texts, characters, embed_us }) = &self.endpoint {
            out.field(
                "endpoint",
                format!("{model}: {texts} texts embedded, {characters} characters, {embed_us:.1} us a text"),
            );
        }
    }
}

/// Measures everything that needs no network, and beside it the endpoint that `ask` calls, if there is one.
pub async fn evaluate<E: std::fmt::Display>(
    args: &EvaluateArgs,
    mut console: Console,
    ask: impl AsyncFnOnce(&[Message]) -> Result<Option<Endpoint>, E>,
) -> ExitCode {
    match measured(args, &mut console, ask).await {
        Ok(()) => Exit::OK.into(),
        Err(error) => {
            console.report(&error);
            Exit::of_error(&error).into()
        }
    }
}

async fn measured<E: std::fmt::Display>(
    args: &EvaluateArgs,
    console: &mut Console,
    ask: impl AsyncFnOnce(&[Message]) -> Result<Option<Endpoint>, E>,
) -> Result<(), CliError> {
    let text = fs_err::read_to_string(&args.file).map_err(|e| CliError::Usage(e.to_string()))?;
    let messages = read(&text).map_err(|e| CliError::Usage(format!("{}: {e}", args.file.display())))?;
    let endpoint = ask(&messages)
        .await
        .map_err(|e| CliError::Unfinished(format!("{e:#}; --offline measures without the endpoint")))?;
    let report = measure(&messages, endpoint.as_ref());
    if args.json {
        console.show_as(Format::Json, &report)?;
    } else {
        console.show(&report)?;
    }
    Ok(())
}
