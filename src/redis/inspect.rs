//! Asks a server about itself, for `jobber doctor`, and removes keys by pattern.

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand};
use fred::util::redis_keyslot;

use super::{Redis, RedisError};
use crate::domain::{Clock, Timestamp};

/// A server's answers about itself. In a cluster they come from any one node.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// The answer to `INFO`.
    pub info: String,
    /// The answer to `CONFIG GET save`, where the server lets this user ask.
    pub save: Option<String>,
    /// The answer to `TIME`, between this machine's clock just before and just after.
    pub times: [Timestamp; 3],
}

impl Redis {
    /// Asks the server about itself.
    ///
    /// # Errors
    /// When it is away, or does not let this user ask.
    pub async fn inspect(&self, clock: &Clock) -> Result<ServerInfo, RedisError> {
        let client = self.client().await?;
        let ask =
            async |command, arguments: &[&str]| ask(&client, command, arguments).await.map_err(|e| self.failed(&e));
        let asked_at = clock.now();
        let time = ask("TIME", &[]).await?;
        let answered_at = clock.now();
        let info = ask("INFO", &[]).await?.join("\n");
        let save = ask("CONFIG", &["GET", "save"]).await.ok().and_then(|answer| answer.into_iter().nth(1));
        let number = |i: usize| time.get(i).and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
        let time = Timestamp::from_millis(number(0).saturating_mul(1000).saturating_add(number(1) / 1000));
        Ok(ServerInfo { info, save, times: [asked_at, time, answered_at] })
    }
}

impl Redis {
    /// Removes all keys that match a pattern, in the syntax of `SCAN`: on a cluster, those of one slot.
    async fn remove_matching(&self, pattern: &str, slot: u16) -> Result<(), RedisError> {
        let client = self.client().await?;
        let mut cursor = "0".to_owned();
        loop {
            let scan = CustomCommand::new_static("SCAN", ClusterHash::Custom(slot), false);
            let arguments: Vec<String> = [&cursor, "MATCH", pattern, "COUNT", "1000"].map(str::to_owned).into();
            let (next, keys): (String, Vec<String>) =
                client.custom(scan, arguments).await.map_err(|e| self.failed(&e))?;
            if !keys.is_empty() {
                let unlink = CustomCommand::new_static("UNLINK", ClusterHash::FirstKey, false);
                client.custom::<u64, _>(unlink, keys).await.map_err(|e| self.failed(&e))?;
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Removes all keys that begin so, whatever characters these are. On a cluster, the beginning must hold a hash tag.
    ///
    /// # Errors
    /// When the server is away, or refuses.
    pub async fn remove_below(&self, start: &str) -> Result<(), RedisError> {
        let escaped = start.chars().flat_map(|c| "*?[]^\\".contains(c).then_some('\\').into_iter().chain([c]));
        self.remove_matching(&format!("{}*", escaped.collect::<String>()), redis_keyslot(start.as_bytes())).await
    }

    /// The members of a set; none of a set that is not there.
    ///
    /// # Errors
    /// When the server is away, or refuses.
    pub async fn members(&self, key: &str) -> Result<Vec<String>, RedisError> {
        let client = self.client().await?;
        let members = CustomCommand::new_static("SMEMBERS", ClusterHash::FirstKey, false);
        client.custom(members, vec![key.to_owned()]).await.map_err(|e| self.failed(&e))
    }
}

async fn ask(client: &Client, command: &'static str, arguments: &[&str]) -> Result<Vec<String>, fred::error::Error> {
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    client.custom(CustomCommand::new_static(command, ClusterHash::Random, false), arguments).await
}
