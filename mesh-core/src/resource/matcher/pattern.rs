//! Regular expressions from remote configuration: linear time, bounded size, RE2's meaning.

use std::cell::Cell;

use regex::bytes::{Regex, RegexBuilder};

/// Sizes, in bytes of compiled program, that a pattern is tried with until it fits; each try is taken from the budget,
/// so that patterns which fit nowhere cannot keep the compiler busy for ever either.
const SIZES: [usize; 4] = [8 << 10, 32 << 10, 128 << 10, 512 << 10];

/// What the lazily built automaton of one pattern may take for each thread that matches with it.
const CACHE_SIZE: usize = 256 << 10;

/// How much compiled program the patterns of one resource may have together.
#[derive(Debug)]
pub(crate) struct Budget(Cell<usize>);

impl Default for Budget {
    /// 128 MiB: 16,000 patterns of ordinary size.
    fn default() -> Self {
        Self(Cell::new(128 << 20))
    }
}

/// Compiles a pattern that must match the whole text. The error is one line.
pub(crate) fn whole(pattern: &str, budget: &Budget) -> Result<Regex, String> {
    // A pattern such as `a)|(?:b` would break out of the group that is put around it below.
    if pattern.contains(')') {
        compile(pattern, false, budget)?;
    }
    compile(&format!(r"\A(?:{pattern})\z"), false, budget)
}

/// Compiles a pattern that may match anywhere in the text.
pub(crate) fn searching(pattern: &str, budget: &Budget) -> Result<Regex, String> {
    compile(pattern, false, budget)
}

/// Compiles a search for a literal anywhere in the text.
pub(crate) fn containing(literal: &str, ignore_case: bool, budget: &Budget) -> Result<Regex, String> {
    compile(&regex::escape(literal), ignore_case, budget)
}

fn compile(pattern: &str, ignore_case: bool, budget: &Budget) -> Result<Regex, String> {
    let mut problem = String::new();
    for size in SIZES {
        let Some(left) = budget.0.get().checked_sub(size) else {
            return Err("the patterns of this resource are too large together".to_owned());
        };
        budget.0.set(left);
        match build(pattern, ignore_case, size) {
            Err(regex::Error::CompiledTooBig(_)) => problem = format!("needs more than {size} bytes when compiled"),
            result => return result.map_err(|error| one_line(&error)),
        }
    }
    Err(problem)
}

/// `\d`, `\w` and `\s` are ASCII, as in RE2, which also keeps programs small; only a pattern that needs Unicode, such
/// as a class with `é` in it, is built with it.
fn build(pattern: &str, ignore_case: bool, size: usize) -> Result<Regex, regex::Error> {
    let with = |unicode| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .case_insensitive(ignore_case)
            .size_limit(size)
            .dfa_size_limit(CACHE_SIZE)
            .build()
    };
    match with(false) {
        Err(regex::Error::Syntax(_)) => with(true),
        result => result,
    }
}

/// The last line of a syntax error says what is wrong; the lines before draw where.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        whole(pattern, &Budget::default()).expect("a valid pattern").is_match(text.as_bytes())
    }

    #[test]
    fn a_pattern_matches_the_whole_text() {
        for (pattern, text, expected) in [
            ("/t.S/.*", "/t.S/M", true),
            ("/t.S/", "/t.S/M", false),
            ("a|ab", "ab", true),
            ("b|a", "ab", false),
            (r"\d+", "123", true),
            (r"\d+", "١٢", false),
            ("[éa]+", "éa", true),
            ("", "", true),
            ("", "x", false),
            ("(?i)ABC", "abc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_said_in_one_line() {
        for pattern in ["[a", "a)|(?:b", "(", r"\8", "(?x) a # b"] {
            let problem = whole(pattern, &Budget::default()).expect_err(pattern);
            assert!(!problem.is_empty() && !problem.contains('\n'), "{pattern}: {problem}");
        }
        assert_eq!(whole("[a", &Budget::default()).unwrap_err(), "unclosed character class");
    }

    #[test]
    fn size_is_bounded_for_one_pattern_and_for_all() {
        let budget = Budget::default();
        assert!(whole("((a{100}){100}){100}", &budget).unwrap_err().contains("when compiled"));
        let before = budget.0.get();
        whole("/foo/.*", &budget).expect("valid");
        assert_eq!(before - budget.0.get(), SIZES[0], "an ordinary pattern has the smallest size");
        budget.0.set(SIZES[0]);
        whole("/foo/.*", &budget).expect("fits");
        assert!(whole("/foo/.*", &budget).unwrap_err().contains("together"));
    }
}
