//! `Secret`: a certificate or roots that a discovery service hands out (SDS).

use std::sync::Arc;

use crate::identity::{Carried, Part};

/// A validated secret.
#[derive(Debug)]
pub(crate) struct Secret {
    pub(crate) part: Part,
    pub(crate) material: Arc<Carried>,
}
