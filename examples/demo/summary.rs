//! The end: calls by instance and version, failures, pushes, and whether the promises held.

use std::time::Duration;

use serde::Serialize;

use crate::fleet::{Instance, Version};
use crate::story::{Promise, Push, Story, count, ms};
use crate::traffic::Call;

/// What came of all calls.
pub(crate) struct Summary {
    instances: Vec<Tally>,
    calls: usize,
    failed: usize,
    took: Duration,
}

/// What came of the calls to an instance.
#[derive(Serialize)]
struct Tally {
    name: &'static str,
    version: Version,
    address: String,
    answered: usize,
    failed: usize,
}

impl Summary {
    /// Counts `calls` by instance.
    pub(crate) fn new(instances: &[Instance], calls: &[Call], took: Duration) -> Self {
        let failed = calls.iter().filter(|call| call.outcome.is_err()).count();
        let instances = instances.iter().map(|instance| Tally::new(instance, calls)).collect();
        Self { instances, calls: calls.len(), failed, took }
    }

    /// Prints the tables and the verdict.
    pub(crate) fn print(&self, story: &Story) {
        story.title("What came of it");
        self.print_calls(story);
        print_pushes(story);
        let broken: Vec<_> = story.promises().iter().filter(|promise| !promise.kept).collect();
        let promises = story.promises().len();
        story.verdict(&match broken.len() {
            0 => format!("All {promises} promises held, in {:.1} s.", self.took.as_secs_f64()),
            number => format!("{number} of {promises} promises did not hold:"),
        });
        for Promise { text, .. } in broken {
            story.say(text);
        }
    }

    fn print_calls(&self, story: &Story) {
        let row = |is_head, columns: [&str; 4]| {
            let [first, version, calls, failed] = columns;
            story.row(is_head, &[(first, 10), (version, 8), (calls, 10), (failed, 8)]);
        };
        row(true, ["instance", "version", "answered", "failed"]);
        for Tally { name, version, answered, failed, .. } in &self.instances {
            row(false, [name, &version.to_string(), &count(*answered), &count(*failed)]);
        }
        for version in [Version::V1, Version::V2] {
            let (answered, failed) = self.of_version(version);
            row(false, ["all of", &version.to_string(), &count(answered), &count(failed)]);
        }
        row(false, ["all", "", &count(self.calls - self.failed), &count(self.failed)]);
        println!();
    }

    fn of_version(&self, version: Version) -> (usize, usize) {
        let of_version = self.instances.iter().filter(|tally| tally.version == version);
        of_version.fold((0, 0), |(answered, failed), tally| (answered + tally.answered, failed + tally.failed))
    }

    /// The results as a JSON object.
    pub(crate) fn json(&self, story: &Story) -> String {
        let results = Results {
            ok: story.all_kept(),
            calls: self.calls,
            failures: self.failed,
            seconds: self.took.as_secs_f64(),
            instances: &self.instances,
            pushes: story.pushes(),
            promises: story.promises(),
        };
        serde_json::to_string(&results).expect("numbers, strings and lists are JSON")
    }
}

/// The JSON object.
#[derive(Serialize)]
struct Results<'a> {
    ok: bool,
    calls: usize,
    failures: usize,
    seconds: f64,
    instances: &'a [Tally],
    pushes: &'a [Push],
    promises: &'a [Promise],
}

impl Tally {
    fn new(instance: &Instance, calls: &[Call]) -> Self {
        let address = instance.address.to_string();
        let answered = |call: &&Call| call.outcome.as_ref().is_ok_and(|endpoint| *endpoint == address);
        Self {
            name: instance.name,
            version: instance.version,
            answered: calls.iter().filter(answered).count(),
            failed: calls.iter().filter(|call| call.failed_at(&address)).count(),
            address,
        }
    }
}

fn print_pushes(story: &Story) {
    story.row(true, &[("pushed", 34), ("first call accordingly", 24)]);
    for push in story.pushes() {
        let after = push.acted_after.map_or_else(|| "never".to_owned(), |after| format!("after {}", ms(after)));
        story.row(false, &[(push.what, 34), (&after, 24)]);
    }
}
