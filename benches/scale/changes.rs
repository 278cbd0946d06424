//! Ingest, changes and memory: CPU and memory of this process, which is the client.

use std::thread::sleep;
use std::time::Duration;

use mesh_benches::control::{Control, take_in};
use mesh_benches::echo::EchoRequest;
use mesh_benches::echo::echo_client::EchoClient;
use mesh_benches::meter::{Meter, cpu_time, resident, resident_code};
use mesh_benches::server::Servers;
use mesh_benches::{Error, Flavor};
use mesh_core::Mesh;
use mesh_core::testing::type_url;
use mesh_tonic::MeshChannel;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

/// What follows an acknowledgement is done by then.
const SETTLED: Duration = Duration::from_millis(200);

/// Many clusters: what it takes until the first call is answered, and what changes take then.
pub(crate) fn many(clusters: usize, endpoints: usize, changes: u32) -> Result<Value, Error> {
    let (mut client, figures) = Client::ingest(clusters, endpoints)?;
    let requests: Value = serde_json::from_str(&client.control.order("requests")?)?;
    Ok(json!({
        "ingest_ms": figures.elapsed_ms,
        "ingest_cpu_ms": figures.cpu_ms,
        "memory_mib": figures.memory.allocated,
        "code_mib": figures.memory.code,
        "requests": requests,
        "assignment_changed_cpu_ms": client.cpu_ms_of("change", changes)?,
        "clusters_resent_cpu_ms": client.cpu_ms_of(type_url::CLUSTER, changes)?,
        "assignments_resent_cpu_ms": client.cpu_ms_of(type_url::ENDPOINTS, changes)?,
    }))
}

/// One cluster of 10,000 endpoints that is known and not called; one of them changes, and all of them do.
pub(crate) fn large(changes: u32) -> Result<Value, Error> {
    let (mut client, figures) = Client::ingest(1, 10_000)?;
    Ok(json!({
        "ingest_cpu_ms": figures.cpu_ms,
        "memory_mib": figures.memory.allocated,
        "code_mib": figures.memory.code,
        "endpoint_changed_cpu_ms": client.cpu_ms_of("change", changes)?,
        "all_changed_cpu_ms": client.cpu_ms_of("renew", changes)?,
    }))
}

/// The mesh itself: one call was made, through one connection.
pub(crate) fn idle() -> Result<Value, Error> {
    let (_client, figures) = Client::ingest(0, 0)?;
    Ok(json!({ "memory_mib": figures.memory.allocated, "code_mib": figures.memory.code }))
}

/// The same call through tonic's own channel.
pub(crate) fn plain() -> Result<Value, Error> {
    let servers = Servers::start(1)?;
    let live = servers.addresses().first().ok_or("no server")?;
    let runtime = warm_runtime()?;
    let memory = Memory::now();
    let channel = runtime.block_on(async {
        let channel = Endpoint::from_shared(format!("http://{live}"))?.connect().await?;
        EchoClient::new(channel.clone()).unary(EchoRequest::default()).await?;
        Ok::<_, Error>(channel)
    })?;
    sleep(SETTLED);
    let memory = memory.growth();
    drop(channel);
    Ok(json!({ "memory_mib": memory.allocated, "code_mib": memory.code }))
}

/// A runtime whose workers run.
fn warm_runtime() -> Result<Runtime, Error> {
    let runtime = Flavor::Multi.runtime()?;
    runtime.block_on(async { tokio::spawn(std::future::ready(())).await })?;
    Ok(runtime)
}

/// A client that has taken in all there is.
struct Client {
    // In the order in which they go.
    _in_use: (Mesh, MeshChannel),
    /// Its workers run the mesh while this thread waits for the control plane.
    _runtime: Runtime,
    control: Control,
    _servers: Servers,
}

struct Figures {
    elapsed_ms: f64,
    cpu_ms: f64,
    memory: Memory,
}

/// Resident memory in MiB.
struct Memory {
    /// What the process allocated, its threads' stacks too.
    allocated: f64,
    /// Pages of the executable that were needed for the first time. They are the file's, and the kernel can drop them;
    /// how many there are depends on how much of the linked code runs, not on what the mesh keeps.
    code: f64,
}

impl Memory {
    fn now() -> Self {
        let code = resident_code();
        Self { allocated: mib(resident().saturating_sub(code)), code: mib(code) }
    }

    /// From then to now.
    fn growth(&self) -> Self {
        let now = Self::now();
        Self { allocated: now.allocated - self.allocated, code: now.code - self.code }
    }
}

impl Client {
    fn ingest(clusters: usize, endpoints: usize) -> Result<(Self, Figures), Error> {
        let servers = Servers::start(1)?;
        let live = servers.addresses().first().ok_or("no server")?;
        let control = Control::start(clusters, endpoints, *live)?;
        let runtime = warm_runtime()?;
        let (memory, cpu, meter) = (Memory::now(), cpu_time(), Meter::start());
        let in_use = runtime.block_on(take_in(control.address()))?;
        let elapsed = meter.stop().elapsed;
        sleep(SETTLED);
        let figures = Figures {
            elapsed_ms: milliseconds(elapsed),
            cpu_ms: milliseconds(cpu_time().saturating_sub(cpu)),
            memory: memory.growth(),
        };
        Ok((Self { _in_use: in_use, _runtime: runtime, control, _servers: servers }, figures))
    }

    /// The mean of carrying an order out several times. A few hundredths of it are this process's, which gives the
    /// order and waits.
    fn cpu_ms_of(&mut self, order: &str, times: u32) -> Result<f64, Error> {
        let before = cpu_time();
        for _ in 0..times {
            self.control.order(order)?;
        }
        sleep(SETTLED);
        Ok(milliseconds(cpu_time().saturating_sub(before)) / f64::from(times))
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
