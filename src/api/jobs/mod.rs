//! Jobs: listed, shown, waited for, and acted upon.

mod act;
mod bulk;
pub(super) mod filter;
mod list;
mod resolve;
mod show;
pub(super) mod view;

pub(super) use act::{act, remove};
pub(super) use bulk::{cancel_many, promote_many, remove_many, retry_many};
pub(super) use list::{count, list};
pub(super) use resolve::resolve;
pub(super) use show::show;
