//! The acts, in their order.

use std::time::Duration;

use mesh_core::testing::ControlPlane;
use mesh_core::{Bootstrap, Mesh};
use mesh_tonic::MeshChannel;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::config::{Config, SERVICE};
use crate::fleet::{Instance, Version};
use crate::story::{Story, calls, count, ms};
use crate::summary::Summary;
use crate::traffic::{Call, Caller, Traffic};
use crate::vault;

/// Everything on stage.
pub(crate) struct Demo {
    started: Instant,
    control_plane: ControlPlane,
    config: Config,
    instances: Vec<Instance>,
    mesh: Mesh,
    traffic: Traffic,
    story: Story,
}

impl Demo {
    /// Starts instances, control plane, mesh and traffic, and waits for the first answer.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let started = Instant::now();
        let story = Story::new();
        let instances = vec![
            Instance::start("a", Version::V1)?,
            Instance::start("b", Version::V1)?,
            Instance::start("c", Version::V2)?,
        ];
        let [a, b, c] = [&instances[0], &instances[1], &instances[2]].map(|instance| instance.address);
        let config = Config { canary: 10, staff: Version::V1, v1: vec![a, b], v2: vec![c], safety: false };
        let control_plane = ControlPlane::builder().listen("127.0.0.1:0").resources(config.resources()).start().await?;

        let built = Instant::now();
        let mesh = Mesh::builder()
            .bootstrap(Bootstrap::from_json(&control_plane.bootstrap_json())?)
            // The default of 1 s to 120 s suits fleets; here someone watches.
            .control_plane_backoff(Duration::from_millis(100), Duration::from_millis(400))
            .build()
            .await?;
        let traffic = Traffic::start(MeshChannel::new(&mesh, &format!("xds:///{SERVICE}"))?);
        let mut demo = Self { started, control_plane, config, instances, mesh, traffic, story };
        demo.introduce(built).await;
        Ok(demo)
    }

    async fn introduce(&mut self, built: Instant) {
        self.story.title("A service mesh linked into the service");
        self.story
            .say("A greeter runs in two versions. A client calls it 1,000 times a second, all the while, through");
        self.story.say("the mesh in its own process. A control plane says which calls go where.");
        for Instance { name, version, address, .. } in &self.instances {
            self.story.say(format!("  {name}  {version}  {address}"));
        }
        let first = self.traffic.probe(Caller::Anyone, |_| true).await;
        let first = first.map(|first| first - built);
        self.story.push("start: 90 % v1, 10 % v2", first);
    }

    /// Plays all acts.
    pub(crate) async fn play(&mut self) -> Result<(), Failure> {
        self.canary().await;
        self.half_of_the_calls().await;
        self.crash().await?;
        self.replacement().await?;
        self.control_plane_away().await?;
        self.rollback().await;
        self.retries().await;
        self.failover().await;
        vault::play(&mut self.story).await
    }

    async fn canary(&mut self) {
        self.story.act("One call in ten goes to the new version");
        let from = Instant::now();
        sleep(Duration::from_millis(1500)).await;
        self.check_share(from, 0.1).await;
        self.check_no_failure(from).await;
    }

    async fn half_of_the_calls(&mut self) {
        self.story.act("The new version gets half of the calls");
        self.story.say("Pushed: v1 50 %, v2 50 %; and whoever carries the header x-group: staff gets v2 only.");
        let from = Instant::now();
        self.config = Config { canary: 50, staff: Version::V2, ..self.config.clone() };
        let acted = self.push("canary 10 % → 50 %, staff → v2", Caller::Staff, Version::V2).await;
        sleep(Duration::from_millis(1500)).await;
        self.check_share(acted, 0.5).await;
        self.check_no_failure(from).await;
    }

    async fn crash(&mut self) -> Result<(), Failure> {
        self.story.act("b crashes");
        let from = Instant::now();
        let b = &mut self.instances[1];
        let in_work = b.kill();
        let (dead, killed) = (b.address.to_string(), Instant::now());
        self.story
            .say(format!("Killed with {} in work, its connections reset. Nobody tells the mesh.", calls(in_work)));
        sleep(Duration::from_millis(1500)).await;
        self.traffic.settle().await;

        let seen = self.traffic.since(from - Duration::from_secs(1));
        let failed: Vec<&Call> = seen.iter().filter(|call| call.outcome.is_err()).collect();
        let in_flight = |call: &&&Call| call.started <= killed && call.failed_at(&dead);
        let lost = failed.iter().filter(in_flight).count();
        let all = if lost == failed.len() { "all of them".to_owned() } else { format!("only {lost} of them") };
        let text = format!("{} failed, {all} in flight on b when it died", calls(failed.len()));
        self.story.promise(lost == failed.len(), text);
        let late = seen.iter().filter(|call| call.started > killed && call.failed_at(&dead)).count();
        self.story.promise(late == 0, format!("{} sent to b after its death", calls(late)));
        let since: Vec<&Call> = seen.iter().filter(|call| call.started > killed).collect();
        let served = since.iter().filter(|call| call.outcome.is_ok()).count();
        let text = format!("{} since, {} served by the others", calls(since.len()), count(served));
        self.story.promise(served == since.len() && served > 0, text);
        Ok(())
    }

    async fn replacement(&mut self) -> Result<(), Failure> {
        self.story.act("d takes the place of b");
        let d = Instance::start("d", Version::V2)?;
        self.story.say(format!("Pushed: endpoint d ({}, v2) is there, endpoint b is gone.", d.address));
        let from = Instant::now();
        self.config.v1 = vec![self.instances[0].address];
        self.config.v2.push(d.address);
        let address = d.address.to_string();
        self.instances.push(d);
        let acted = self.push_until("d added, b removed", Caller::Staff, |endpoint| *endpoint == *address).await;
        sleep(Duration::from_millis(1000)).await;
        self.check_no_failure(from).await;
        let mine = self.share_of(acted, |endpoint| *endpoint == *address);
        self.check_within("d", mine, 0.25);
        Ok(())
    }

    async fn control_plane_away(&mut self) -> Result<(), Failure> {
        self.story.act("The control plane goes away");
        self.control_plane.stop().await;
        let from = Instant::now();
        self.story.say("Its port is closed, its connections are reset. Meanwhile e (v1) is started.");
        let e = Instance::start("e", Version::V1)?;
        self.config.v1.push(e.address);
        let address = e.address.to_string();
        self.instances.push(e);
        sleep(Duration::from_millis(2000)).await;
        self.check_share(from, 0.5).await;
        self.check_no_failure(from).await;

        self.story.say("It returns, and knows of e.");
        let returned = Instant::now();
        self.control_plane.set(self.config.resources());
        self.control_plane.restart().await?;
        let acted = self.traffic.probe(Caller::Anyone, |endpoint| *endpoint == *address).await;
        self.story.push("control plane back, e added", acted.map(|acted| acted - returned));
        sleep(Duration::from_millis(500)).await;
        self.check_no_failure(from).await;
        Ok(())
    }

    async fn rollback(&mut self) {
        self.story.act("The new version is rolled back");
        self.story.say("Pushed: all calls to v1.");
        let from = Instant::now();
        self.config = Config { canary: 0, staff: Version::V1, ..self.config.clone() };
        let acted = self.push("all calls → v1", Caller::Staff, Version::V1).await;
        sleep(Duration::from_millis(1000)).await;
        self.check_no_failure(from).await;
        let new: Vec<String> = self.addresses(Version::V2);
        let late = self.traffic.since(acted);
        let late =
            late.iter().filter(|call| call.outcome.as_ref().is_ok_and(|endpoint| new.contains(endpoint))).count();
        self.story.promise(late == 0, format!("{} to v2 since", calls(late)));
    }

    async fn retries(&mut self) {
        self.story.act("Calls that fail are made again");
        self.story
            .say("Pushed: retry_on unavailable, twice at most; v2 serves for v1 should that be lost; staff → v2.");
        self.config = Config { staff: Version::V2, safety: true, ..self.config.clone() };
        self.push("retry policy, second priority, staff → v2", Caller::Staff, Version::V2).await;
        // A call keeps the routes that it started with.
        self.traffic.settle().await;
        let killed = Instant::now();
        let in_work = self.kill("e");
        self.story.say(format!("e is killed, with {} in work.", calls(in_work)));
        sleep(Duration::from_millis(1000)).await;
        self.check_no_failure(killed - Duration::from_millis(200)).await;
        let seen = self.traffic.since(killed - Duration::from_millis(200));
        let again = seen.iter().filter(|call| call.attempts > 1).count();
        let text = format!("{} made again, and answered by a", calls(again));
        self.story.promise(again > 0 || in_work == 0, text);
    }

    async fn failover(&mut self) {
        self.story.act("v1 is lost as a whole");
        let killed = Instant::now();
        let in_work = self.kill("a");
        self.story.say(format!("a, the last of v1, is killed, with {} in work.", calls(in_work)));
        sleep(Duration::from_millis(1000)).await;
        self.check_no_failure(killed - Duration::from_millis(200)).await;
        let new = self.addresses(Version::V2);
        let since = self.traffic.since(killed);
        let served = since.iter().filter(|call| call.outcome.as_ref().is_ok_and(|by| new.contains(by))).count();
        let text = format!("{} since, {} served by v2, the second priority", calls(since.len()), count(served));
        self.story.promise(served == since.len() && served > 0, text);
    }

    /// Kills an instance, and says how many calls it had in work.
    fn kill(&mut self, name: &str) -> usize {
        let instance = self.instances.iter_mut().find(|instance| instance.name == name);
        instance.map_or(0, Instance::kill)
    }

    /// Says what came of it, while everything goes on.
    pub(crate) async fn sum_up(&mut self) -> Summary {
        self.traffic.settle().await;
        let summary = Summary::new(&self.instances, &self.traffic.all(), self.started.elapsed());
        summary.print(&self.story);
        summary
    }

    /// Says what goes on.
    pub(crate) fn announce_hold(&self) {
        self.story.say("Everything keeps running until ctrl-c.");
        self.story.say(format!("  control plane  {}", self.control_plane.addr()));
        for Instance { name, version, address, .. } in self.instances.iter().filter(|instance| instance.is_alive()) {
            self.story.say(format!("  {name} ({version})  {address}"));
        }
    }

    /// Ends the traffic and the mesh.
    pub(crate) async fn stop(&self) {
        self.traffic.stop();
        self.traffic.settle().await;
        self.mesh.shutdown().await;
    }

    pub(crate) fn story(&self) -> &Story {
        &self.story
    }

    /// Pushes the configuration, and waits until a probe reaches `version`; when that was, or now.
    async fn push(&mut self, what: &'static str, caller: Caller, version: Version) -> Instant {
        let wanted = self.addresses(version);
        self.push_until(what, caller, |endpoint| wanted.iter().any(|address| address == endpoint)).await
    }

    async fn push_until(&mut self, what: &'static str, caller: Caller, wanted: impl Fn(&str) -> bool) -> Instant {
        let pushed = Instant::now();
        self.control_plane.set(self.config.resources());
        let acted = self.traffic.probe(caller, wanted).await;
        self.story.push(what, acted.map(|acted| acted - pushed));
        acted.unwrap_or_else(Instant::now)
    }

    fn addresses(&self, version: Version) -> Vec<String> {
        let of_version = self.instances.iter().filter(|instance| instance.version == version);
        of_version.map(|instance| instance.address.to_string()).collect()
    }

    /// Since `from`, v2 has to have had this share of the steady traffic.
    async fn check_share(&mut self, from: Instant, wanted: f64) {
        self.traffic.settle().await;
        let new = self.addresses(Version::V2);
        let share = self.share_of(from, |endpoint| new.iter().any(|address| address == endpoint));
        self.story.bar("v1", 1.0 - share.of_calls);
        self.story.bar("v2", share.of_calls);
        self.check_within("v2", share, wanted);
    }

    fn check_within(&mut self, who: &str, share: Share, wanted: f64) {
        // Five standard deviations: by chance alone it fails once in a million times.
        let tolerance = 5.0 * (wanted * (1.0 - wanted) / share.calls.max(1) as f64).sqrt();
        let text = format!(
            "{who} has {:.1} % of {}, wanted {:.0} % ± {:.1}",
            share.of_calls * 100.0,
            calls(share.calls),
            wanted * 100.0,
            tolerance * 100.0
        );
        self.story.promise(share.calls > 0 && (share.of_calls - wanted).abs() <= tolerance, text);
    }

    fn share_of(&self, from: Instant, wanted: impl Fn(&str) -> bool) -> Share {
        let seen = self.traffic.since(from);
        let answered = seen.iter().filter(|call| !call.is_probe).filter_map(|call| call.outcome.as_ref().ok());
        let (mut hits, mut calls) = (0usize, 0usize);
        for endpoint in answered {
            calls += 1;
            hits += usize::from(wanted(endpoint));
        }
        Share { of_calls: hits as f64 / calls.max(1) as f64, calls }
    }

    async fn check_no_failure(&mut self, from: Instant) {
        self.traffic.settle().await;
        let seen = self.traffic.since(from);
        let failed = seen.iter().filter(|call| call.outcome.is_err()).count();
        let slowest = seen.iter().map(|call| call.ended - call.started).max().unwrap_or_default();
        let text = format!("{}, {failed} failed; the slowest took {}", calls(seen.len()), ms(slowest));
        self.story.promise(failed == 0 && !seen.is_empty(), text);
        if let Some(Err(status)) = seen.iter().map(|call| &call.outcome).find(|outcome| outcome.is_err()) {
            self.story.say(format!("  {:?}: {}", status.code(), status.message()));
        }
    }
}

/// A share of calls.
#[derive(Clone, Copy)]
struct Share {
    of_calls: f64,
    calls: usize,
}
