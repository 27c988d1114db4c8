//! `jobber files`: lists and gets the files that a job has left.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::reference::{JobRef, Purpose, with_id};
use super::values::show_size;
use super::view::{Column, Table, View, json_line};
use super::{CliError, Console, Exit, complete};
use crate::client::{Client, Download};
use crate::domain::{ContentDigest, JobId, is_file_name};
use crate::wire::{JobFile, JobFiles};

/// `jobber files`.
#[derive(Debug, Clone, Subcommand)]
pub enum FilesCommand {
    /// List the files that a job's attempts have left in $JOBBER_OUTPUT_DIR
    #[command(alias = "list")]
    Ls(LsArgs),
    /// Get files of a job: all that the last attempt with files has left, or those named
    Get(GetArgs),
}

/// `jobber files ls`.
#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// The job: its id or the beginning of it, @last or @last-failed
    #[arg(value_name = "ID", add = complete::jobs())]
    job: JobRef,
    /// Only the attempt with this number, counting from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
}

/// `jobber files get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// The job: its id or the beginning of it, @last or @last-failed
    #[arg(value_name = "ID", add = complete::jobs())]
    job: JobRef,
    /// Only these files, as `ls` names them
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Of the attempt with this number, counting from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// The directory to put them into, made if need be; `-` writes one file to stdout
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
}

impl View for JobFiles {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::plain("ATTEMPT"),
                Column::plain("SIZE"),
                Column::plain("TYPE").rank(3),
                Column::plain("SHA256").rank(4),
                Column::text("NAME").rank(0),
            ],
            self.items.iter().map(|JobFile { attempt, file, .. }| {
                let sha256 = file.sha256.as_str().get(..12).unwrap_or_default().to_owned();
                vec![attempt.to_string(), show_size(file.size), file.content_type.clone(), sha256, file.name.clone()]
            }),
        );
        for note in &self.notes {
            out.text(format!("attempt {}", note.attempt), &note.note);
        }
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

/// The files that were written.
#[derive(Serialize)]
struct Got {
    items: Vec<GotFile>,
}

#[derive(Serialize)]
struct GotFile {
    attempt: u32,
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl View for Got {
    fn table(&self, out: &mut Table) {
        let rows = self
            .items
            .iter()
            .map(|got| vec![got.attempt.to_string(), show_size(got.bytes), got.path.to_string_lossy().into_owned()]);
        out.grid(&[Column::plain("ATTEMPT").rank(3), Column::plain("SIZE"), Column::text("FILE").rank(0)], rows);
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn files(command: &FilesCommand, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match command {
        FilesCommand::Ls(args) => {
            let (_, mut files) = listed(&args.job, client).await?;
            files.items.retain(|file| args.attempt.is_none_or(|wanted| file.attempt == wanted));
            files.notes.retain(|note| args.attempt.is_none_or(|wanted| note.attempt == wanted));
            console.show(&files)?;
            Ok(Exit::OK)
        }
        FilesCommand::Get(args) => get(args, client, console).await,
    }
}

/// The job that is meant, and its files.
async fn listed(job: &JobRef, client: &Client) -> Result<(JobId, JobFiles), CliError> {
    with_id(job, Purpose::Look, client, async |id| Ok((id.clone(), client.files(id).await?))).await
}

async fn get(args: &GetArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let (id, files) = listed(&args.job, client).await?;
    let chosen = choose(args, &id, &files)?;
    if args.to == Path::new("-") {
        let [file] = chosen.as_slice() else {
            return Err(CliError::Usage(format!(
                "--to - writes one file, and {} are meant; name one of them",
                chosen.len()
            )));
        };
        receive(&id, file, client, |piece| console.data(piece)).await?;
        return Ok(Exit::OK);
    }
    let mut got = Got { items: Vec::new() };
    for file in chosen {
        let path = args.to.join(&file.file.name);
        write(&id, file, &path, client).await?;
        let JobFile { attempt, file, .. } = file;
        got.items.push(GotFile { attempt: *attempt, name: file.name.clone(), path, bytes: file.size });
    }
    console.show(&got)?;
    Ok(Exit::OK)
}

/// The files that are meant: of the named ones each as the last attempt left it, of no names all of the last attempt that
/// left any.
fn choose<'f>(args: &GetArgs, id: &JobId, files: &'f JobFiles) -> Result<Vec<&'f JobFile>, CliError> {
    let of_attempt = |file: &&JobFile| args.attempt.is_none_or(|wanted| file.attempt == wanted);
    let files: Vec<_> = files.items.iter().filter(of_attempt).collect();
    if let Some(odd) = files.iter().find(|file| !is_file_name(&file.file.name)) {
        return Err(CliError::Missing(format!("the server names a file {:?}, which is no name", odd.file.name)));
    }
    if args.names.is_empty() {
        let last = files.iter().map(|file| file.attempt).max();
        let chosen: Vec<_> = files.into_iter().filter(|file| Some(file.attempt) == last).collect();
        if chosen.is_empty() {
            return Err(CliError::Missing(format!("there is no file of {id}; see `jobber files ls {id}`")));
        }
        return Ok(chosen);
    }
    let names: BTreeSet<_> = args.names.iter().collect();
    let find = |name: &String| {
        let found = files.iter().copied().filter(|file| file.file.name == *name).max_by_key(|file| file.attempt);
        found.ok_or_else(|| CliError::Missing(format!("{id} has no file {name:?}; see `jobber files ls {id}`")))
    };
    names.into_iter().map(find).collect()
}

/// Writes a file under its name when all of it has come.
async fn write(id: &JobId, file: &JobFile, path: &Path, client: &Client) -> Result<(), CliError> {
    let unwritten = |error| CliError::local(format!("couldn't write {}", path.display()), error);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(folder).map_err(unwritten)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = folder.join(format!(".{name}.part-{}", std::process::id()));
    let received = async {
        let mut out = fs_err::File::create(&partial).map_err(unwritten)?;
        receive(id, file, client, |piece| out.write_all(piece).map_err(unwritten)).await?;
        fs_err::rename(&partial, path).map_err(unwritten)
    };
    let received = received.await;
    if received.is_err() {
        // It may not have been made.
        let _ = fs_err::remove_file(&partial);
    }
    received
}

/// Gets all of a file, and checks that it is the one that was listed.
async fn receive(
    id: &JobId,
    file: &JobFile,
    client: &Client,
    take: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let JobFile { attempt, file, .. } = file;
    receive_all(client.file(id, *attempt, &file.name).await?, &file.name, &file.sha256, take).await
}

/// Takes all of a download, and checks that it is the content of this digest.
pub(super) async fn receive_all(
    mut download: Download,
    name: &str,
    sha256: &ContentDigest,
    mut take: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut digest = Sha256::new();
    while let Some(piece) = download.next().await? {
        digest.update(&piece);
        take(&piece)?;
    }
    if ContentDigest::of(&digest.finalize().into()) != *sha256 {
        let why = std::io::Error::other("what came is not what the server has named");
        return Err(CliError::local(format!("couldn't get {name}"), why));
    }
    Ok(())
}
