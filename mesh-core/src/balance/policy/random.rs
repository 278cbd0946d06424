//! Random: each endpoint with the same chance.

use super::{Choice, Member, PickRequest, Policy};

#[derive(Debug)]
pub(super) struct Random;

impl Policy for Random {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(fastrand::usize(..members.len()))
    }
}
