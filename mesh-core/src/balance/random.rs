//! Random: each endpoint with the same chance.

/// An index below `len`, which is not 0.
pub(crate) fn pick(len: usize) -> usize {
    fastrand::usize(..len)
}
