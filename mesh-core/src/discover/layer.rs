use tower_layer::Layer;

use super::{Discover, Target};

/// Makes [`Discover`] services for one target; [`Mesh::target`](crate::Mesh::target) opens it.
#[derive(Clone, Debug)]
pub struct DiscoverLayer {
    target: Target,
}

impl DiscoverLayer {
    /// A layer that gives the calls the configuration of `target`.
    pub fn new(target: Target) -> Self {
        Self { target }
    }
}

impl<S> Layer<S> for DiscoverLayer {
    type Service = Discover<S>;

    fn layer(&self, inner: S) -> Discover<S> {
        Discover::new(inner, self.target.clone())
    }
}
