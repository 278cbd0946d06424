use tower_layer::Layer;

use super::{Budgets, Retry, RetryProtocol};

/// Makes [`Retry`] services, which share one budget per cluster.
///
/// ```
/// use tower_layer::Layer;
/// let layer = mesh_core::retry::RetryLayer::new().budget(10, 5);
/// # let _ = layer.layer(());
/// ```
#[derive(Clone, Debug)]
pub struct RetryLayer {
    budgets: Budgets,
    protocol: Option<&'static dyn RetryProtocol>,
}

impl RetryLayer {
    /// With the default budget, for calls of whose protocol nothing is known but HTTP.
    pub fn new() -> Self {
        Self { budgets: Budgets::new(20, 10), protocol: None }
    }

    /// How many retries a cluster gets: so many for each hundred calls that have a retry policy, and so many more each
    /// second, over the last 10 s. Default 20 and 10. A retry that the budget does not allow is not made: the call ends
    /// as its last attempt did. The share is rounded down to one retry in so many calls (100, 50, 33, 25, 20 … of a
    /// hundred); zero and zero means no retries.
    pub fn budget(mut self, percent: u32, min_per_second: u32) -> Self {
        self.budgets = Budgets::new(percent, min_per_second);
        self
    }

    /// What the calls speak; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn RetryProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, budgets: self.budgets.clone(), protocol: self.protocol }
    }
}
