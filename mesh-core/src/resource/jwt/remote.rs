//! The key set that an issuer publishes (`remote_jwks`): fetched while a filter in force names it, and kept fresh.
//!
//! ```text
//! start ─▸ fetch ─┬─ good: in force; fetched again after its `cache_duration`
//!                 └─ bad: the last good one stays, at most KEPT beyond its time; fetched again after a backoff
//! a token by a key that may not be in the set, or no set ─▸ fetched at once, at most once in ASK_INTERVAL
//! ```
//!
//! Filters that name the same set in the same way share it, so that it outlives an update of its listener. What fetches is a
//! task of its own, which ends with the last of these filters. How it gets to the issuer is for the mesh to say.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Uri;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keys::{Keys, Unsigned};
use super::token::Token;
use crate::backoff::{Backoff, BackoffConfig};

/// The longest that a fetch may take.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a set is used beyond its time while no other can be had: what its issuer took back in it is believed for longer.
const KEPT: Duration = Duration::from_secs(3600);
/// How often tokens by unknown keys may have a set fetched: anybody can make them.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// So many wait for one fetch, and what comes besides is refused: whoever makes tokens up is not to fill the server with calls.
const MAX_WAITING: usize = 1_000;
/// How seldom a set is fetched whose issuer always fails.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// What fetches may have ended with the mesh: nobody waits for it much longer than a fetch takes.
const SLACK: Duration = Duration::from_secs(1);
/// The share by which a set is fetched earlier than it need be, so that servers do not come in step.
const EARLIER: f64 = 0.1;

/// Where a set is, and how it is kept fresh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RemoteSource {
    /// With scheme and authority.
    pub(crate) uri: Uri,
    pub(crate) cluster: Arc<str>,
    /// The longest that a fetch may take.
    pub(crate) timeout: Duration,
    pub(crate) cache_duration: Duration,
    /// How long after the first failure it is fetched again.
    pub(crate) first_retry: Duration,
    /// A listener takes no other's place before the first fetch has ended.
    pub(crate) is_awaited: bool,
}

/// A set, or why there is none.
pub(crate) type Fetched = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Fetches a set.
pub(crate) type Fetch = Box<dyn Fn() -> Fetched + Send + Sync>;

/// The way to issuers.
pub(crate) trait Issuers: Send + Sync {
    /// `None`: there is no way any more.
    fn open(&self, source: &RemoteSource) -> Option<Fetch>;

    /// Runs a task until the mesh ends.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);
}

/// The sets that filters name; clones share them.
#[derive(Clone, Default)]
pub(crate) struct RemoteSets(Arc<Registry>);

#[derive(Default)]
struct Registry {
    issuers: OnceLock<Box<dyn Issuers>>,
    known: Mutex<HashMap<RemoteSource, Weak<RemoteSet>>>,
}

impl RemoteSets {
    /// From now on sets can be fetched.
    pub(crate) fn open_with(&self, issuers: impl Issuers + 'static) {
        let _ = self.0.issuers.set(Box::new(issuers));
    }

    /// The set of this source, which is fetched once it is [started](RemoteSet::start).
    pub(crate) fn get(&self, source: RemoteSource) -> Arc<RemoteSet> {
        let mut known = self.0.known.lock();
        known.retain(|_, set| set.strong_count() > 0);
        if let Some(set) = known.get(&source).and_then(Weak::upgrade) {
            return set;
        }
        // That the way to fetch it changed is no reason to believe its keys no more.
        let is_same = |other: &RemoteSource| (&other.uri, &other.cluster) == (&source.uri, &source.cluster);
        let held = known
            .iter()
            .filter(|(other, _)| is_same(other))
            .find_map(|(_, set)| set.upgrade()?.shared.held.load_full());
        let shared = Shared {
            source: source.clone(),
            held: ArcSwapOption::new(held),
            is_fetching: watch::Sender::new(true),
            asked: Notify::new(),
            asked_at: Mutex::new(None),
            problem: Mutex::new(None),
        };
        let set = Arc::new(RemoteSet { shared: Arc::new(shared), sets: self.clone(), task: Mutex::new(None) });
        known.insert(source, Arc::downgrade(&set));
        set
    }
}

impl fmt::Debug for RemoteSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSets").field("known", &self.0.known.lock().len()).finish_non_exhaustive()
    }
}

/// A set that an issuer publishes. Dropped, it is not fetched any more.
#[derive(Debug)]
pub(crate) struct RemoteSet {
    shared: Arc<Shared>,
    sets: RemoteSets,
    /// Ends what fetches it.
    task: Mutex<Option<DropGuard>>,
}

#[derive(Debug)]
struct Shared {
    source: RemoteSource,
    held: ArcSwapOption<Held>,
    /// Whether a fetch is under way, or about to be: the first one is from the start.
    is_fetching: watch::Sender<bool>,
    /// Fetch it at once.
    asked: Notify,
    /// When a token by an unknown key last had it fetched.
    asked_at: Mutex<Option<Instant>>,
    /// What was wrong with the last fetch.
    problem: Mutex<Option<String>>,
}

/// The last good set.
#[derive(Debug)]
struct Held {
    keys: Keys,
    /// It is not used from then on.
    until: Instant,
}

/// A fetch that is under way, and may bring the key of a call's token.
#[derive(Debug)]
pub(crate) struct UnderWay {
    is_fetching: watch::Receiver<bool>,
    limit: Duration,
}

impl UnderWay {
    /// Waits until it has ended, as long as it may take.
    pub(crate) async fn ended(&mut self) {
        let _ = timeout(self.limit, self.is_fetching.wait_for(|is_fetching| !is_fetching)).await;
    }
}

impl RemoteSet {
    /// Has it fetched from now on: a filter that names it is in force.
    pub(crate) fn start(&self) {
        let mut task = self.task.lock();
        if task.is_some() {
            return;
        }
        let Some(issuers) = self.sets.0.issuers.get() else { return };
        let Some(fetch) = issuers.open(&self.shared.source) else { return };
        let end = CancellationToken::new();
        *task = Some(end.clone().drop_guard());
        let shared = self.shared.clone();
        issuers.spawn(Box::pin(async move {
            let _ = end.run_until_cancelled_owned(follow(shared, fetch)).await;
        }));
    }

    /// The first fetch, if it has not ended and is waited for.
    pub(super) fn first(&self) -> Option<UnderWay> {
        let shared = &self.shared;
        let is_first = shared.held.load().is_none() && shared.problem.lock().is_none();
        (is_first && shared.source.is_awaited).then(|| shared.under_way())
    }

    /// Whether one of its keys signed the token. If not, and that may be as a fetch is under way, it is told.
    pub(super) fn signed(&self, token: &Token, under_way: &mut Vec<UnderWay>) -> Result<(), Unsigned> {
        let shared = &self.shared;
        let held = shared.held();
        let signed = Held::signed(held.as_deref(), token);
        if signed.is_ok() {
            return signed;
        }
        // Before the set is looked at again: one that comes in between is not missed.
        let fetch = shared.under_way();
        let was_fetching = *fetch.is_fetching.borrow();
        let newest = shared.held();
        let is_newer = newest.as_ref().map(Arc::as_ptr) != held.as_ref().map(Arc::as_ptr);
        let signed = if is_newer { Held::signed(newest.as_deref(), token) } else { signed };
        let may_change = match signed {
            Ok(()) => false,
            // It has the key that the token names.
            Err(_) if newest.is_some_and(|held| held.keys.have_that_of(token)) => false,
            Err(_) => was_fetching || shared.ask(),
        };
        if may_change && shared.is_fetching.receiver_count() <= MAX_WAITING {
            under_way.push(fetch);
        }
        signed
    }
}

impl Held {
    fn signed(held: Option<&Self>, token: &Token) -> Result<(), Unsigned> {
        held.map_or(Err(Unsigned::NoSet), |held| held.keys.signed(token))
    }
}

async fn follow(shared: Arc<Shared>, fetch: Fetch) {
    let mut backoff = Backoff::new(BackoffConfig {
        initial: shared.source.first_retry,
        max: MAX_BACKOFF.max(shared.source.first_retry),
        ..BackoffConfig::default()
    });
    loop {
        shared.is_fetching.send_replace(true);
        let limit = shared.source.timeout;
        let fetched = timeout(limit, fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("there is no answer within {limit:?}")));
        let pause = shared.take(fetched, &mut backoff);
        shared.is_fetching.send_replace(false);
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.asked.notified() => {}
        }
    }
}

impl Shared {
    fn under_way(&self) -> UnderWay {
        UnderWay { is_fetching: self.is_fetching.subscribe(), limit: self.source.timeout + SLACK }
    }

    /// The set that may be used now.
    fn held(&self) -> Option<Arc<Held>> {
        self.held.load_full().filter(|held| Instant::now() < held.until)
    }

    /// Has the set fetched at once, unless that was asked for a moment ago. Whether a fetch is under way.
    fn ask(&self) -> bool {
        let now = Instant::now();
        let mut asked_at = self.asked_at.lock();
        if asked_at.is_some_and(|before| now < before + ASK_INTERVAL) {
            return *self.is_fetching.borrow();
        }
        *asked_at = Some(now);
        // Under the lock: who asks at the same moment waits, too.
        self.is_fetching.send_replace(true);
        self.asked.notify_one();
        true
    }

    /// Takes up what a fetch came to; when the next one is due.
    fn take(&self, fetched: Result<Bytes, String>, backoff: &mut Backoff) -> Duration {
        let keys = fetched.and_then(|set| Keys::read_again(&set).map_err(|problem| format!("the set {problem}")));
        let (pause, problem) = match keys {
            Ok((keys, others)) => {
                if others > 0 {
                    tracing::debug!(others, "some keys of a set are not supported, or not for signatures");
                }
                let fresh = self.source.cache_duration;
                self.held.store(Some(Arc::new(Held { keys, until: Instant::now() + fresh + KEPT })));
                backoff.reset();
                (fresh.mul_f64(1.0 - EARLIER * fastrand::f64()), None)
            }
            Err(problem) => (backoff.next_delay(fastrand::f64()), Some(problem)),
        };
        let mut known = self.problem.lock();
        let news = problem.clone().filter(|_| *known != problem);
        *known = problem;
        drop(known);
        if let Some(why) = news {
            let (cluster, host) = (&*self.source.cluster, self.source.uri.host().unwrap_or_default());
            tracing::warn!(
                cluster,
                host,
                why,
                "the key set of an issuer cannot be fetched: one that was good before is used for {KEPT:?} beyond its time"
            );
        }
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use serde_json::json;
    use tokio::time::advance;

    use super::super::tests::{NOW, signer::Signer};
    use super::*;

    /// Answers in turn, and says how often it was asked.
    #[derive(Clone, Default)]
    struct Script {
        answers: Arc<Mutex<VecDeque<Result<String, String>>>>,
        fetches: Arc<Mutex<Vec<Instant>>>,
    }

    impl Issuers for Script {
        fn open(&self, _: &RemoteSource) -> Option<Fetch> {
            let this = self.clone();
            Some(Box::new(move || {
                this.fetches.lock().push(Instant::now());
                let answer = this.answers.lock().pop_front().unwrap_or_else(|| Err("it is down".to_owned()));
                Box::pin(async move { answer.map(Bytes::from) })
            }))
        }

        fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
            tokio::spawn(task);
        }
    }

    impl Script {
        fn of(answers: impl IntoIterator<Item = Result<String, String>>) -> Self {
            Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
        }

        fn fetches(&self) -> usize {
            self.fetches.lock().len()
        }

        fn sets(&self) -> RemoteSets {
            let sets = RemoteSets::default();
            sets.open_with(self.clone());
            sets
        }
    }

    fn source(cluster: &str) -> RemoteSource {
        RemoteSource {
            uri: Uri::from_static("https://issuer.test/keys"),
            cluster: cluster.into(),
            timeout: MAX_TIMEOUT,
            cache_duration: Duration::from_secs(600),
            first_retry: Duration::from_secs(1),
            is_awaited: true,
        }
    }

    fn token(signer: &Signer) -> Token {
        Token::read(&signer.token(&json!({"iss": "joe", "exp": NOW + 60}))).expect("a token")
    }

    /// Until the tasks have nothing to do but to wait.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    /// With its first set.
    async fn started(sets: &RemoteSets) -> Arc<RemoteSet> {
        let set = sets.get(source("issuer"));
        set.start();
        settle().await;
        set
    }

    /// What is said of the token, and whether a fetch may change it.
    fn signed(set: &RemoteSet, signer: &Signer) -> (Result<(), Unsigned>, bool) {
        let mut under_way = Vec::new();
        let signed = set.signed(&token(signer), &mut under_way);
        (signed, !under_way.is_empty())
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_is_fetched_anew_in_its_time_and_kept_over_failures_for_an_hour_beyond_it() {
        let joe = Signer::new("joe");
        let script = Script::of([Ok(joe.set()), Ok(joe.set())]);
        let set = started(&script.sets()).await;
        assert_eq!(signed(&set, &joe), (Ok(()), false));
        advance(Duration::from_secs(539)).await;
        settle().await;
        assert_eq!(script.fetches(), 1, "at most a tenth earlier");
        advance(Duration::from_secs(61)).await;
        settle().await;
        assert_eq!(script.fetches(), 2);
        let good = Instant::now();
        // From now on it fails.
        tokio::time::sleep_until(good + Duration::from_secs(600 - 61) + KEPT).await;
        assert_eq!(signed(&set, &joe), (Ok(()), false));
        tokio::time::sleep(Duration::from_secs(62)).await;
        assert_eq!(signed(&set, &joe).0, Err(Unsigned::NoSet));
        let fetches = script.fetches.lock();
        let pauses: Vec<_> = fetches.windows(2).map(|pair| pair[1] - pair[0]).skip(2).collect();
        assert!(pauses[0] <= Duration::from_millis(1_200), "{pauses:?}");
        let late = &pauses[10..];
        let bounds = MAX_BACKOFF.mul_f64(0.79)..=MAX_BACKOFF.mul_f64(1.21);
        assert!(late.iter().all(|pause| bounds.contains(pause)), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_has_the_set_fetched_at_most_once_in_ten_seconds() {
        let (joe, jim, eve) = (Signer::new("joe"), Signer::new("jim"), Signer::new("eve"));
        let script = Script::of([Ok(joe.set()), Ok(jim.set()), Ok(jim.set())]);
        let set = started(&script.sets()).await;
        assert_eq!(signed(&set, &jim), (Err(Unsigned::NoKey), true));
        assert_eq!(signed(&set, &eve), (Err(Unsigned::NoKey), true), "one fetch is for all");
        settle().await;
        assert_eq!((script.fetches(), signed(&set, &jim)), (2, (Ok(()), false)));
        for _ in 0..9 {
            assert_eq!(signed(&set, &eve), (Err(Unsigned::NoKey), false));
            advance(Duration::from_secs(1)).await;
            settle().await;
        }
        assert_eq!(script.fetches(), 2);
        advance(Duration::from_secs(1)).await;
        assert_eq!(signed(&set, &eve), (Err(Unsigned::NoKey), true));
        settle().await;
        assert_eq!(script.fetches(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_names_no_key_or_a_set_without_names_has_it_fetched_too() {
        let (joe, jim) = (Signer::unnamed(), Signer::unnamed());
        let script = Script::of([Ok(joe.set()), Ok(jim.set())]);
        let set = started(&script.sets()).await;
        assert_eq!(signed(&set, &jim), (Err(Unsigned::BadSignature), true));
        settle().await;
        assert_eq!((signed(&set, &jim), script.fetches()), ((Ok(()), false), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_signature_by_a_key_that_is_named_fetches_nothing() {
        let (joe, forger) = (Signer::new("joe"), Signer::new("joe"));
        let script = Script::of([Ok(joe.set())]);
        let set = started(&script.sets()).await;
        assert_eq!(signed(&set, &forger), (Err(Unsigned::BadSignature), false));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_set_the_next_token_has_it_fetched_and_no_more_wait_than_there_is_room_for() {
        let joe = Signer::new("joe");
        let script = Script::of([Err("it is down".to_owned()), Ok(joe.set())]);
        let set = started(&script.sets()).await;
        let (token, mut waiting) = (token(&joe), Vec::new());
        for _ in 0..MAX_WAITING + 10 {
            assert_eq!(set.signed(&token, &mut waiting), Err(Unsigned::NoSet));
        }
        assert_eq!(waiting.len(), MAX_WAITING);
        waiting.clear();
        settle().await;
        assert_eq!((signed(&set, &joe), script.fetches()), ((Ok(()), false), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_believed_though_they_are_fetched_in_another_way_from_now_on() {
        let joe = Signer::new("joe");
        let sets = Script::of([Ok(joe.set())]).sets();
        let set = started(&sets).await;
        let longer = sets.get(RemoteSource { cache_duration: Duration::from_secs(900), ..source("issuer") });
        drop(set);
        longer.start();
        settle().await;
        assert!(longer.first().is_none());
        assert_eq!(signed(&longer, &joe).0, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_is_shared_while_it_is_used_and_fetched_no_longer() {
        let joe = Signer::new("joe");
        let script = Script::of([Ok(joe.set())]);
        let sets = script.sets();
        let set = started(&sets).await;
        assert!(Arc::ptr_eq(&set, &sets.get(source("issuer"))));
        assert!(!Arc::ptr_eq(&set, &sets.get(source("another"))));
        started(&sets).await;
        assert_eq!(script.fetches(), 1);
        let shared = Arc::downgrade(&set.shared);
        drop(set);
        settle().await;
        assert!(shared.upgrade().is_none(), "what fetched it has ended");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(script.fetches(), 1);
        assert_eq!(signed(&*started(&sets).await, &joe).0, Err(Unsigned::NoSet), "it is another one");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_fetch_is_waited_for_and_an_empty_set_is_one() {
        let joe = Signer::new("joe");
        for (answer, outcome) in
            [(Err("it is down".to_owned()), Unsigned::NoSet), (Ok(json!({"keys": []}).to_string()), Unsigned::NoKey)]
        {
            let sets = Script::of([answer]).sets();
            let set = sets.get(source("issuer"));
            set.start();
            assert_eq!(signed(&set, &joe), (Err(Unsigned::NoSet), true));
            set.first().expect("it is waited for").ended().await;
            assert!(set.first().is_none());
            assert_eq!(signed(&set, &joe).0, Err(outcome));
            let fast = sets.get(RemoteSource { is_awaited: false, ..source("issuer") });
            assert!(fast.first().is_none());
        }
    }
}
