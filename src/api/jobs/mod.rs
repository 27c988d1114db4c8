//! Jobs: listed, shown, waited for, and acted upon.

mod act;
pub(super) mod filter;
mod list;
mod show;
pub(super) mod view;

pub(super) use act::{act, put_back, remove};
pub(super) use list::{count, list};
pub(super) use show::show;
