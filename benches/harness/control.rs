//! A control plane with a large configuration, in a process beside the measured client.
//!
//! Only its first cluster, `live`, is called. The others are known and not connected: the routes name more than the
//! mesh connects before their first call.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mesh_core::testing::{
    ControlPlane, EndpointsBuilder, Resources, cluster, endpoints, listener, route, route_config, type_url,
};
use mesh_core::{Bootstrap, Mesh};
use mesh_tonic::MeshChannel;
use tokio::io::{AsyncBufReadExt, BufReader as AsyncBufReader};

use crate::echo::EchoRequest;
use crate::echo::echo_client::EchoClient;
use crate::{Error, Flavor};

/// Clusters of one endpoint that are always there, so that no cluster is connected before its first call.
const FILLERS: usize = 20;

/// A control plane in a child process, until this is dropped.
#[derive(Debug)]
pub struct Control {
    child: Child,
    /// The child ends when it reads the end of this.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    address: String,
}

impl Control {
    /// Runs this executable again as a control plane for `xds:///scale`: `clusters` times `endpoints` that nobody
    /// calls, and one cluster with the endpoint `live`, which gets all calls.
    ///
    /// # Errors
    ///
    /// Fails when the child does not start.
    pub fn start(clusters: usize, endpoints: usize, live: SocketAddr) -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["control-plane", &clusters.to_string(), &endpoints.to_string(), &live.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("the control plane has no output")?);
        let mut control = Self { child, orders, answers, address: String::new() };
        control.address = control.answer()?;
        Ok(control)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Gives an order and waits until it is carried out, which for a change means acknowledged: `change` for the last
    /// endpoint of another cluster each time, `renew` for all of them, a type URL to send all of that type again, `requests` for a JSON object
    /// with the number of requests by type.
    ///
    /// # Errors
    ///
    /// Fails when the child ended.
    pub fn order(&mut self, order: &str) -> Result<String, Error> {
        let orders = self.orders.as_mut().ok_or("the control plane has no input")?;
        writeln!(orders, "{order}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the control plane ended".into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.orders = None;
        if let Err(error) = self.child.wait() {
            eprintln!("the control plane did not end: {error}");
        }
    }
}

/// A mesh that has taken in everything, which a call through the channel shows. The channel keeps it in use.
///
/// # Errors
///
/// Fails when the call does.
pub async fn take_in(control_plane: &str) -> Result<(Mesh, MeshChannel), Error> {
    let bootstrap = Bootstrap::builder(control_plane).insecure().node_id("bench").build()?;
    let mesh = Mesh::builder().bootstrap(bootstrap).build().await?;
    let channel = MeshChannel::new(&mesh, "xds:///scale")?;
    EchoClient::new(channel.clone()).unary(EchoRequest::default()).await?;
    Ok((mesh, channel))
}

/// Serves until standard input ends; prints the address, and a line for each order.
///
/// # Errors
///
/// Fails when no port is left.
pub fn serve(clusters: usize, endpoints: usize, live: SocketAddr) -> Result<(), Error> {
    Flavor::Current.runtime()?.block_on(async {
        let configuration = Configuration { clusters, endpoints };
        let resources = configuration.resources(live);
        let control_plane = ControlPlane::builder().listen("127.0.0.1:0").resources(resources).start().await?;
        answer(&control_plane.addr().to_string())?;
        let mut orders = AsyncBufReader::new(tokio::io::stdin()).lines();
        let mut changes = 0;
        while let Some(order) = orders.next_line().await? {
            match order.as_str() {
                "change" | "renew" => {
                    changes += 1;
                    let all = order == "renew";
                    control_plane.put(configuration.changed(changes, all));
                    control_plane.acked(type_url::ENDPOINTS).await;
                    answer("changed")?;
                }
                "requests" => answer(&requests(&control_plane)?)?,
                type_url => {
                    control_plane.resend(type_url);
                    control_plane.acked(type_url).await;
                    answer("sent again")?;
                }
            }
        }
        Ok(())
    })
}

fn answer(line: &str) -> Result<(), Error> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

/// How many requests came, by type.
fn requests(control_plane: &ControlPlane) -> Result<String, Error> {
    let mut counts = BTreeMap::<String, u32>::new();
    for request in control_plane.requests() {
        let name = request.type_url.rsplit('.').next().unwrap_or_default().to_owned();
        *counts.entry(name).or_default() += 1;
    }
    Ok(serde_json::to_string(&counts)?)
}

/// Clusters `c1`, `c2`, … each at the end of a route of its own.
struct Configuration {
    clusters: usize,
    endpoints: usize,
}

impl Configuration {
    fn resources(&self, live: SocketAddr) -> Resources {
        let names = (1..=self.clusters).map(|index| format!("c{index}"));
        let fillers = (1..=FILLERS).map(|index| format!("filler{index}"));
        let routes = names.clone().chain(fillers.clone()).map(|name| route().path(format!("/{name}")).cluster(name));
        let routes = route_config("scale").routes(routes.chain([route().cluster("live")]));
        let mut resources = Resources::new()
            .with(listener("scale"))
            .with(routes)
            .with(cluster("live"))
            .with(endpoints("live").endpoint(live));
        for (index, name) in names.enumerate() {
            resources.put(cluster(name));
            resources.put(self.assignment(index + 1, 9, false));
        }
        for name in fillers {
            resources.put(endpoints(&name).endpoint("127.1.0.0:9"));
            resources.put(cluster(name));
        }
        resources
    }

    /// The assignment of another cluster with each change, the last of its endpoints at another port, or all of them.
    fn changed(&self, change: usize, all: bool) -> EndpointsBuilder {
        let index = change * 7919 % self.clusters.max(1) + 1;
        self.assignment(index, 10 + u16::try_from(change % 1000).unwrap_or(0), all)
    }

    /// Addresses at which nobody listens: 127.1.0.0 and up. The last has a port of its own, or `all` have it.
    fn assignment(&self, cluster: usize, last_port: u16, all: bool) -> EndpointsBuilder {
        let first = u32::from(Ipv4Addr::new(127, 1, 0, 0));
        let endpoint = |index: usize| {
            let number = u32::try_from((cluster - 1) * self.endpoints + index).unwrap_or(0);
            let port = if all || index + 1 == self.endpoints { last_port } else { 9 };
            SocketAddr::from((Ipv4Addr::from(first + number), port))
        };
        endpoints(format!("c{cluster}")).all((0..self.endpoints).map(endpoint))
    }
}
