//! Where a decoder is in a resource, and what it found there.
//!
//! A decoder gets an [`At`] for the message it decodes and hands longer ones down. All of them write into one
//! [`Report`], so that a refused resource names everything that is wrong with it, by path.

use std::cell::{Cell, RefCell};
use std::fmt::Write;

use crate::resource::local::LocalNames;
use crate::resource::matcher::pattern::Budget;
use crate::xds::resource_type::{Extensions, FieldError, IgnoredField};

/// Errors beyond these are counted only, and ignored fields beyond these are dropped: the sender decides how many there
/// are, and a person reads a few.
const MAX_ERRORS: usize = 100;
const MAX_IGNORED: usize = 200;

/// Remote text is quoted up to this many bytes.
const MAX_QUOTED: usize = 200;

/// What was found in one resource.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: RefCell<Vec<FieldError>>,
    more_errors: Cell<usize>,
    ignored: RefCell<Vec<IgnoredField>>,
    of_clients: RefCell<Vec<IgnoredField>>,
    scratch: RefCell<String>,
    /// What the patterns of the resource may take together.
    pub(crate) patterns: Budget,
    /// What resources may ask for by name.
    pub(super) local: LocalNames,
}

/// A place in a resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    report: &'a Report,
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Resource,
    Field(&'static str),
    Item(&'static str, usize),
    Key(&'static str, &'a str),
}

impl Report {
    /// Of a resource that may say what is in `extensions` too.
    pub(super) fn new(extensions: &Extensions) -> Self {
        match extensions.get::<LocalNames>() {
            // Not with the rest of a default report, whose own names would be made for each resource.
            Some(local) => Self {
                errors: RefCell::default(),
                more_errors: Cell::default(),
                ignored: RefCell::default(),
                of_clients: RefCell::default(),
                scratch: RefCell::default(),
                patterns: Budget::default(),
                local: local.clone(),
            },
            None => Self::default(),
        }
    }

    /// The place of the resource itself.
    pub(crate) fn root(&self) -> At<'_> {
        At { report: self, parent: None, step: Step::Resource }
    }

    /// Everything that is wrong, and the fields that nothing acts on.
    pub(crate) fn finish(self) -> (Vec<FieldError>, Vec<IgnoredField>) {
        let mut errors = self.errors.into_inner();
        let more = self.more_errors.get();
        if more > 0 {
            errors.push(FieldError { path: "…".to_owned(), problem: format!("{more} more errors") });
        }
        (errors, self.ignored.into_inner())
    }

    /// The fields so far that only clients act on.
    pub(crate) fn take_of_clients(&self) -> Vec<IgnoredField> {
        self.of_clients.take()
    }

    /// How many errors there are so far.
    pub(crate) fn error_count(&self) -> usize {
        self.errors.borrow().len() + self.more_errors.get()
    }
}

impl<'a> At<'a> {
    pub(crate) fn field<'b>(&'b self, name: &'static str) -> At<'b> {
        self.then(Step::Field(name))
    }

    /// An item of a repeated field.
    pub(crate) fn item<'b>(&'b self, name: &'static str, index: usize) -> At<'b> {
        self.then(Step::Item(name, index))
    }

    /// A value of a map, or one that is known by a name.
    pub(crate) fn key<'b>(&'b self, name: &'static str, key: &'b str) -> At<'b> {
        self.then(Step::Key(name, key))
    }

    fn then<'b>(&'b self, step: Step<'b>) -> At<'b> {
        At { report: self.report, parent: Some(self), step }
    }

    pub(crate) fn report(&self) -> &'a Report {
        self.report
    }

    /// This place is wrong: the resource is refused.
    pub(crate) fn error(&self, problem: impl Into<String>) {
        let mut errors = self.report.errors.borrow_mut();
        if errors.len() >= MAX_ERRORS {
            return self.report.more_errors.set(self.report.more_errors.get() + 1);
        }
        let mut path = String::new();
        self.write(&mut path, true);
        errors.push(FieldError { path, problem: problem.into() });
    }

    /// Unwraps a field of this place that must be set.
    pub(crate) fn required<T>(&self, name: &'static str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.field(name).error("must be set");
        }
        value
    }

    /// This place is set, and nothing acts on it. Each is listed once, whatever its index.
    pub(crate) fn ignored(&self, reason: &'static str) {
        self.list(&self.report.ignored, reason);
    }

    /// This place is set, and a server does not act on it.
    pub(crate) fn of_clients(&self, reason: &'static str) {
        self.list(&self.report.of_clients, reason);
    }

    fn list(&self, list: &RefCell<Vec<IgnoredField>>, reason: &'static str) {
        let mut path = self.report.scratch.borrow_mut();
        path.clear();
        self.write(&mut path, false);
        let mut list = list.borrow_mut();
        if list.len() < MAX_IGNORED && !list.iter().any(|field| field.path == *path) {
            list.push(IgnoredField { path: path.clone(), reason });
        }
    }

    fn write(&self, path: &mut String, with_indices: bool) {
        if let Some(parent) = self.parent {
            parent.write(path, with_indices);
        }
        let name = match self.step {
            Step::Resource => return,
            Step::Field(name) | Step::Item(name, _) | Step::Key(name, _) => name,
        };
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        // Writing to a string cannot fail.
        let _ = match self.step {
            Step::Item(_, index) if with_indices => write!(path, "[{index}]"),
            Step::Key(_, key) => write!(path, "[{}]", cut(key).escape_debug()),
            _ => Ok(()),
        };
    }
}

/// Remote text as it may stand in a message: quoted, escaped and not too long.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", cut(text))
}

/// The start of a text that may be of any length.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_QUOTED);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_indices_and_ignored_fields_have_not() {
        let report = Report::default();
        let root = report.root();
        for route in [2, 3] {
            let host = root.item("virtual_hosts", 0);
            let route = host.item("routes", route);
            route.field("match").error("must be set");
            route.field("decorator").ignored("");
            route.key("typed_per_filter_config", "a\n").ignored("");
        }
        let (errors, ignored) = report.finish();
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            ["virtual_hosts[0].routes[2].match: must be set", "virtual_hosts[0].routes[3].match: must be set"]
        );
        let ignored: Vec<_> = ignored.iter().map(|field| field.path.as_str()).collect();
        assert_eq!(ignored, ["virtual_hosts.routes.decorator", "virtual_hosts.routes.typed_per_filter_config[a\\n]"]);
    }

    #[test]
    fn a_report_is_bounded_whatever_the_sender_does() {
        let report = Report::default();
        let root = report.root();
        for index in 0..1_000 {
            root.item("x", index).error(quoted(&"é".repeat(500)));
            root.key("y", &index.to_string()).ignored("");
        }
        let (errors, ignored) = report.finish();
        assert_eq!(errors.len(), 101);
        assert_eq!(errors[100].to_string(), "…: 900 more errors");
        assert!(errors[0].problem.len() <= MAX_QUOTED + 2);
        assert_eq!(ignored.len(), 200);
    }
}
