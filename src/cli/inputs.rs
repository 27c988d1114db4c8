//! `--input FILE[=NAME]`: the files that go to the server with a job.

use std::io::Read;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::{CliError, Console};
use crate::client::Client;
use crate::domain::{ContentDigest, InputFile, is_file_name};

/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;

/// A file of this machine, and its name for the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InputArg {
    file: PathBuf,
    name: String,
}

impl InputArg {
    /// Reads `FILE` or `FILE=NAME`. A file whose own name holds a `=` needs a name.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (file, name) = match text.rsplit_once('=') {
            Some((file, name)) => (file, name.to_owned()),
            None => {
                let name = Path::new(text).file_name().and_then(|name| name.to_str());
                (text, name.unwrap_or_default().to_owned())
            }
        };
        if file.is_empty() || !is_file_name(&name) {
            return Err("FILE or FILE=NAME, the name a relative path such as config/scene.json".to_owned());
        }
        Ok(Self { file: file.into(), name })
    }
}

/// Uploads what the server does not have yet, and answers what to name in the job.
pub(super) async fn upload(
    inputs: &[InputArg],
    client: &Client,
    console: &mut Console,
) -> Result<Vec<InputFile>, CliError> {
    let mut named = Vec::with_capacity(inputs.len());
    for InputArg { file, name } in inputs {
        let (sha256, size) = digest(file)?;
        if client.has_input(&sha256, size).await? {
            console.detail(&format!("{}: the server has it", file.display()));
        } else {
            console.detail(&format!("{}: uploading {size} bytes", file.display()));
            client.upload_input(&sha256, size, pieces(open(file)?)).await?;
        }
        named.push(InputFile { name: name.clone(), sha256, size });
    }
    Ok(named)
}

fn open(path: &Path) -> Result<fs_err::File, CliError> {
    let file = fs_err::File::open(path).map_err(|e| CliError::Usage(e.to_string()))?;
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        _ => Err(CliError::Usage(format!("{} is no file: --input takes files", path.display()))),
    }
}

fn digest(path: &Path) -> Result<(ContentDigest, u64), CliError> {
    let (mut file, mut digest, mut size) = (open(path)?, Sha256::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(|e| CliError::Usage(e.to_string()))? {
            0 => return Ok((ContentDigest::of(&digest.finalize().into()), size)),
            read => {
                digest.update(&piece[..read]);
                size += read as u64;
            }
        }
    }
}

fn pieces(file: fs_err::File) -> futures_util::stream::BoxStream<'static, std::io::Result<Vec<u8>>> {
    let read = async |mut file: fs_err::File| {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece)?;
        piece.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then_some((piece, file)))
    };
    stream::try_unfold(file, read).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_own_name_or_another() {
        let parse = |text: &str| InputArg::parse(text).map(|arg| (arg.file.display().to_string(), arg.name));
        assert_eq!(parse("data/a.csv"), Ok(("data/a.csv".into(), "a.csv".into())));
        assert_eq!(parse("data/a.csv=in/b.csv"), Ok(("data/a.csv".into(), "in/b.csv".into())));
        assert_eq!(parse("a=b=c"), Ok(("a=b".into(), "c".into())));
        for bad in ["", "=a", "a=", "a=../b", "a=/b", "..", "/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
