//! Connections over mTLS on which nothing happens: memory of the server that has them, in a process of its own.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use mesh_benches::meter::{Meter, resident, resident_code};
use mesh_benches::paths::Path;
use mesh_benches::site::Site;
use mesh_benches::{Error, Flavor, serving};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

const SERVERS: [Path; 3] = [Path::Server, Path::ServerMesh, Path::ServerMeshFull];
/// The servers take turns, a step each.
const STEPS: u32 = 5;
/// What a handshake leaves to be done is done by then.
const SETTLED: Duration = Duration::from_millis(300);

/// What a server used so far.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Used {
    /// Resident bytes without pages of the executable.
    resident: u64,
    allocations: u64,
}

/// What an idle connection costs a server.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    server: String,
    connections: u32,
    /// Resident memory.
    kib: f64,
    /// Calls to the allocator until it is idle, those of the handshake included.
    allocations: f64,
}

/// Serves, and says for each line of standard input what was used so far.
pub(crate) fn serve(path: Path) -> Result<(), Error> {
    Flavor::Current.runtime()?.block_on(async {
        let mut site = Site::new()?;
        let (address, _running) = serving::start(path, &site).await?;
        site.secured.push(address);
        println!("{}", serde_json::to_string(&site)?);
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(tokio::io::stdin()));
        let (mut meter, mut allocations) = (Meter::start(), 0);
        while lines.next_line().await?.is_some() {
            allocations += std::mem::replace(&mut meter, Meter::start()).stop().allocations;
            let used = Used { resident: resident().saturating_sub(resident_code()), allocations };
            println!("{}", serde_json::to_string(&used)?);
            std::io::stdout().flush()?;
        }
        Ok(())
    })
}

/// Makes as many connections to each kind of server, in turn, and prints what one costs.
pub(crate) fn measure(connections: u32) -> Result<Vec<Figures>, Error> {
    let mut servers = SERVERS.map(Server::start).into_iter().collect::<Result<Vec<_>, _>>()?;
    Flavor::Current.runtime()?.block_on(async {
        for server in &mut servers {
            server.connect(connections / 10).await?;
            server.before = Some(server.used()?);
        }
        for _ in 0..STEPS {
            for server in &mut servers {
                server.connect(connections / STEPS).await?;
            }
        }
        let figures = servers.iter_mut().map(|server| server.figures(connections / STEPS * STEPS));
        let figures = figures.collect::<Result<Vec<_>, _>>()?;
        for Figures { server, connections, kib, allocations } in &figures {
            println!(
                "idle      {server:16} {connections} connections: {kib:.1} KiB and {allocations:.0} allocations each"
            );
        }
        Ok(figures)
    })
}

/// A server in a process of its own, which ends with this.
struct Server {
    path: Path,
    child: Child,
    site: Site,
    tell: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    open: Vec<Channel>,
    before: Option<Used>,
}

impl Server {
    fn start(path: Path) -> Result<Self, Error> {
        let name = path.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut child = Command::new(std::env::current_exe()?)
            .args(["idle", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let tell = child.stdin.take().ok_or("no input")?;
        let mut said = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let site = serde_json::from_str(&said.next().ok_or("the server did not begin")??)?;
        Ok(Self { path, child, site, tell, said, open: Vec::new(), before: None })
    }

    async fn connect(&mut self, connections: u32) -> Result<(), Error> {
        let address = self.site.secured.first().ok_or("no address")?;
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(self.site.client_tls())?;
        for _ in 0..connections {
            self.open.push(endpoint.connect().await?);
        }
        sleep(SETTLED).await;
        Ok(())
    }

    fn used(&mut self) -> Result<Used, Error> {
        self.tell.write_all(b"used\n")?;
        Ok(serde_json::from_str(&self.said.next().ok_or("the server ended")??)?)
    }

    /// Since it had so many connections less.
    fn figures(&mut self, connections: u32) -> Result<Figures, Error> {
        let (before, now) = (self.before.ok_or("nothing was measured before")?, self.used()?);
        let each = |before: u64, now: u64| {
            let more = u32::try_from(now.saturating_sub(before))?;
            Ok::<_, Error>(f64::from(more) / f64::from(connections))
        };
        Ok(Figures {
            server: self.path.name(),
            connections,
            kib: each(before.resident, now.resident)? / 1024.0,
            allocations: each(before.allocations, now.allocations)?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has no end of its own while connections are open.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}
