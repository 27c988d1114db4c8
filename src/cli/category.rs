//! `jobber category`: lists, changes, tests and calibrates the categories of errors.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::evaluate::EvaluateArgs;
use super::view::{Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash};
use super::{CliError, Console, Exit, complete};
use crate::client::Client;
use crate::domain::CategoryId;
use crate::wire::failures::{
    CalibrateBody, CategoryBody, CategoryChanged, CategoryListing, LabelledText, NewCategory, PresetListing, Tested,
};

/// `jobber category`.
#[derive(Debug, Clone, Subcommand)]
pub enum CategoryCommand {
    /// All categories, and how many different errors are in each
    #[command(visible_alias = "list")]
    Ls,
    /// The categories that come with Jobber, for add --preset
    Presets,
    /// Add a category
    Add(AddArgs),
    /// Change a category: what is not given stays
    Edit(EditArgs),
    /// Remove a category; its errors go to the others, or to none
    Rm {
        /// Its id or name
        #[arg(value_name = "CATEGORY", add = complete::categories())]
        category: String,
    },
    /// Say where a text belongs
    Test {
        /// What an attempt might say
        #[arg(value_name = "TEXT")]
        text: String,
    },
    /// Find the threshold that puts most messages of a file where they belong
    Calibrate(CalibrateArgs),
    /// Measure on labelled messages how well errors find their categories, without a server
    Evaluate(EvaluateArgs),
}

/// `jobber category add`.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// What people call it [default: the preset's name]
    #[arg(value_name = "NAME", required_unless_present = "preset")]
    name: Option<String>,
    /// Take description and examples from a category that comes with Jobber: see jobber category presets
    #[arg(long, value_name = "PRESET")]
    preset: Option<String>,
    /// Its id [default: made from the name]
    #[arg(long, value_name = "ID", value_parser = CategoryId::parse)]
    id: Option<CategoryId>,
    /// What belongs to it, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A message that belongs to it (repeatable)
    #[arg(long = "example", value_name = "TEXT")]
    examples: Vec<String>,
}

/// `jobber category edit`.
#[derive(Debug, Clone, Args)]
pub struct EditArgs {
    /// Its id or name
    #[arg(value_name = "CATEGORY", add = complete::categories())]
    category: String,
    /// What people call it from now on
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What belongs to it, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// One more message that belongs to it (repeatable)
    #[arg(long = "example", value_name = "TEXT")]
    examples: Vec<String>,
    /// Forget the examples that it has
    #[arg(long)]
    clear_examples: bool,
}

/// `jobber category calibrate`.
#[derive(Debug, Clone, Args)]
pub struct CalibrateArgs {
    /// A line of JSON for each message: {"text": "...", "category": "id, name or none"}
    #[arg(value_name = "FILE", required_unless_present_any = ["set", "reset"])]
    file: Option<PathBuf>,
    /// Use the threshold found from now on
    #[arg(long, requires = "file")]
    apply: bool,
    /// Set the threshold by hand
    #[arg(long, value_name = "THRESHOLD", conflicts_with_all = ["file", "reset"], allow_hyphen_values = true)]
    set: Option<f32>,
    /// Leave the threshold to the configuration again
    #[arg(long, conflicts_with = "file")]
    reset: bool,
}

impl View for CategoryListing {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::id("ID"),
                Column::text("NAME").rank(2),
                Column::plain("ERRORS").rank(1),
                Column::plain("EXAMPLES").rank(4),
                Column::text("DESCRIPTION").rank(3),
            ],
            self.items.iter().map(|view| {
                vec![
                    view.category.id.to_string(),
                    view.category.name.clone(),
                    view.errors.to_string(),
                    view.category.examples.len().to_string(),
                    first_line(&view.category.description, LONGEST_CELL),
                ]
            }),
        );
        let origin = if self.threshold_is_configured { "from the configuration" } else { "set" };
        out.field("threshold", format!("{:.3} ({origin})", self.threshold));
        out.field("uncategorised", self.uncategorised.to_string());
        out.field("pending", self.pending.to_string());
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

impl View for PresetListing {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::text("NAME").rank(0),
                Column::text("ALSO CALLED").rank(1),
                Column::plain("EXAMPLES").rank(3),
                Column::text("DESCRIPTION").rank(2),
            ],
            self.items.iter().map(|preset| {
                vec![
                    preset.category.name.clone(),
                    preset.aliases.join(", "),
                    preset.category.examples.len().to_string(),
                    first_line(&preset.category.description, LONGEST_CELL),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

impl View for CategoryChanged {
    fn table(&self, out: &mut Table) {
        out.optional("category", self.id.as_ref().map(CategoryId::as_str));
        out.field("status", &self.status);
        out.field("takes effect", &self.takes_effect);
    }
}

impl View for Tested {
    fn table(&self, out: &mut Table) {
        out.field("category", &self.category);
        out.field("nearest", or_dash(self.nearest.as_ref().map(CategoryId::as_str)));
        out.field("similarity", format!("{:.3} (threshold {:.3})", self.similarity, self.threshold));
        out.field("fingerprint", self.fingerprint.short());
        out.text("masked", &self.masked);
    }
}

/// The precision, recall and accuracy that one threshold gives.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Point {
    threshold: f32,
    precision: f32,
    recall: f32,
    accuracy: f32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Calibrated {
    best: Point,
    curve: Vec<Point>,
}

impl View for Calibrated {
    fn table(&self, out: &mut Table) {
        let row = |p: &Point| {
            [p.threshold, p.precision, p.recall, p.accuracy].iter().map(|x| format!("{x:.3}")).collect::<Vec<_>>()
        };
        // Every tenth point of the curve is enough to show its shape.
        out.grid(&["THRESHOLD", "PRECISION", "RECALL", "ACCURACY"], self.curve.iter().step_by(10).map(row));
        out.field("best threshold", format!("{:.3}", self.best.threshold));
        out.field("precision", format!("{:.3}", self.best.precision));
        out.field("recall", format!("{:.3}", self.best.recall));
        out.field("accuracy", format!("{:.3}", self.best.accuracy));
    }
}

pub(super) async fn category(
    command: CategoryCommand,
    client: &Client,
    console: &mut Console,
) -> Result<Exit, CliError> {
    match command {
        CategoryCommand::Ls => console.show(&client.categories().await?)?,
        CategoryCommand::Presets => console.show(&client.presets().await?)?,
        CategoryCommand::Add(AddArgs { name, preset, id, description, examples }) => {
            let body = NewCategory { preset, id, name, description, examples };
            console.show(&client.add_category(&body).await?)?;
        }
        CategoryCommand::Edit(args) => console.show(&edit(args, client).await?)?,
        CategoryCommand::Rm { category } => console.show(&client.remove_category(&category).await?)?,
        CategoryCommand::Test { text } => console.show(&client.test_category(&text).await?)?,
        CategoryCommand::Calibrate(args) => calibrate(&args, client, console).await?,
        CategoryCommand::Evaluate(_) => {
            return Err(CliError::Usage("evaluate asks no server; it is answered before one is looked for".to_owned()));
        }
    }
    Ok(Exit::OK)
}

async fn edit(args: EditArgs, client: &Client) -> Result<CategoryChanged, CliError> {
    let known = client.categories().await?;
    let is_it = |id: &CategoryId, name: &str| id.as_str() == args.category || name.eq_ignore_ascii_case(&args.category);
    let found = known.items.into_iter().map(|view| view.category).find(|c| is_it(&c.id, &c.name));
    let Some(old) = found else {
        return Err(CliError::Usage(format!("there is no category {:?}; see jobber category ls", args.category)));
    };
    let mut examples = if args.clear_examples { Vec::new() } else { old.examples };
    examples.extend(args.examples);
    let body = CategoryBody {
        id: None,
        name: args.name.unwrap_or(old.name),
        description: args.description.unwrap_or(old.description),
        examples,
    };
    Ok(client.edit_category(old.id.as_str(), &body).await?)
}

async fn calibrate(args: &CalibrateArgs, client: &Client, console: &mut Console) -> Result<(), CliError> {
    let Some(file) = &args.file else {
        return console.show(&client.set_threshold(args.set).await?);
    };
    let text = fs_err::read_to_string(file).map_err(|e| CliError::Usage(e.to_string()))?;
    let mut labelled = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let read: LabelledText = serde_json::from_str::<serde_json::Value>(line)
            .and_then(|value| {
                // Drops other keys, such as where a message comes from, because the server does not know them.
                let kept = serde_json::json!({"text": value["text"], "category": value["category"]});
                serde_json::from_value(kept)
            })
            .map_err(|e| CliError::Usage(format!("{}, line {}: {e}", file.display(), i + 1)))?;
        labelled.push(read);
    }
    let found: Calibrated = client.calibrate(&CalibrateBody { labelled }).await?;
    console.show(&found)?;
    if args.apply {
        client.set_threshold(Some(found.best.threshold)).await?;
        console.note(&format!("the threshold is {:.3} from now on", found.best.threshold));
    }
    Ok(())
}
