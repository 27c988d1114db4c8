//! The bodies of `/api/v1/session`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{Secret, Timestamp};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everything.
    Operator,
    /// Look at everything, and change nothing.
    Viewer,
    /// Nothing: the server wants a token, and the caller has shown none that is right.
    None,
}

/// How a caller has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignedInBy {
    /// It need not: the server has no token.
    Open,
    /// By a token in the header `Authorization`.
    Token,
    /// By the cookie that a sign-in gave it.
    Cookie,
}

/// Who the caller is to the server: the answer of every method of `/api/v1/session`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// What the caller may do.
    pub role: Access,
    /// How the server knows; null with [`Access::None`].
    pub signed_in_by: Option<SignedInBy>,
    /// The server's version.
    pub version: String,
    /// When the cookie ends; null without one.
    pub expires_at: Option<Timestamp>,
    /// Whether the caller is shown no data, arguments, results and output of jobs.
    pub hides_data: bool,
}

/// `POST /api/v1/session`: gives a browser a cookie that stands for the token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The operators' or the viewers' token.
    #[serde(deserialize_with = "secret")]
    #[schema(value_type = String)]
    pub token: Secret,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}
