//! A filter that chooses for each call which filters it passes (A103).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::{FilterConfig, HttpFilter};
use crate::resource::matcher::RequestHead;
use crate::resource::matcher::tree::MatchTree;

/// Which filters a call passes.
#[derive(Debug)]
pub(crate) struct Composite {
    pub(crate) tree: MatchTree<Action>,
}

/// What becomes of the calls that an end of the tree is for.
#[derive(Debug)]
pub(crate) enum Action {
    /// They pass no filter here.
    Skip,
    /// A share of them, of a million, passes these.
    Run(Arc<[HttpFilter]>, u32),
}

/// What becomes of one call.
#[derive(Debug)]
pub(crate) enum Chosen<'a> {
    /// No action is for it: it fails.
    Nothing,
    Skip,
    Run(&'a Arc<[HttpFilter]>),
}

impl Composite {
    /// `random` gives a number below a million.
    pub(crate) fn choose(&self, head: &RequestHead<'_>, random: impl FnOnce() -> u32) -> Chosen<'_> {
        match self.tree.find(head) {
            None => Chosen::Nothing,
            Some(Action::Run(filters, share)) if *share >= 1_000_000 || random() < *share => Chosen::Run(filters),
            Some(Action::Run(..) | Action::Skip) => Chosen::Skip,
        }
    }

    /// Goes on with what its filters counted; they are known by their names, and by their order where they share one.
    pub(crate) fn inherit(&self, before: &Self) {
        let mut known: HashMap<&str, VecDeque<&FilterConfig>> = HashMap::new();
        before.each_filter(&mut |filter| known.entry(&filter.name).or_default().push_back(&filter.config));
        self.each_filter(&mut |filter| {
            if let Some(before) = known.get_mut(&*filter.name).and_then(VecDeque::pop_front) {
                filter.config.inherit(before);
            }
        });
    }

    /// Tells all filters that calls may pass.
    pub(crate) fn each_filter<'a>(&'a self, tell: &mut dyn FnMut(&'a HttpFilter)) {
        // Many actions may share a chain.
        let mut seen = HashSet::new();
        self.tree.each_action(&mut |action| match action {
            Action::Run(filters, _) if seen.insert(filters.as_ptr()) => filters.iter().for_each(&mut *tell),
            Action::Run(..) | Action::Skip => {}
        });
    }
}
