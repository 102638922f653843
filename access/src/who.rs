//! Who asks, may they, and how much: keys, tokens, the credential that both become, and its limits.

pub(crate) mod admission;
pub(crate) mod credential;
pub(crate) mod gate;
pub(crate) mod grant;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod token;
