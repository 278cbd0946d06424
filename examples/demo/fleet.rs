//! The instances of the greeter. Each is a plain tonic server in a thread of its own, with a runtime of its own, so that
//! it can die like a process: at once, with its calls in work and its connections open.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// How long an instance works on a call.
const WORK: Duration = Duration::from_millis(10);
/// Calls with this header are answered at once; they measure how soon a push acts.
pub(crate) const PROBE: &str = "x-probe";

/// A version of the greeter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Version {
    V1,
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// A running instance; it dies when dropped.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) name: &'static str,
    pub(crate) version: Version,
    pub(crate) address: SocketAddr,
    in_work: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Instance {
    /// Starts an instance on a port that the system chooses.
    pub(crate) fn start(name: &'static str, version: Version) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let in_work = Arc::new(AtomicUsize::new(0));
        let greeter = Answers { name, version, in_work: in_work.clone() };
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("greeter-{name}")).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, greeter) => served.unwrap_or_else(|error| eprintln!("demo: {error}")),
                    _ = stopped => {}
                }
            });
            // With the runtime go all tasks and all sockets, whatever they were doing.
            drop(runtime);
        })?;
        Ok(Self { name, version, address, in_work, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.stop.is_some()
    }

    /// Kills the instance, and says how many calls were in work when it died. When it returns the connections are reset.
    pub(crate) fn kill(&mut self) -> usize {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its thread does not panic; if it did, the instance is dead all the same.
            let _ = thread.join();
        }
        // Not before: on a busy machine what was in work may still be answered.
        self.in_work.load(Ordering::Relaxed)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(listener: std::net::TcpListener, greeter: Answers) -> Result<(), Box<dyn std::error::Error>> {
    let incoming = TcpListenerStream::new(TcpListener::from_std(listener)?).map(|stream| {
        let stream = stream?;
        stream.set_nodelay(true)?;
        // Closing the socket resets the connection, as the end of a machine or a firewall would.
        stream.set_zero_linger()?;
        io::Result::Ok(stream)
    });
    Server::builder().add_service(GreeterServer::new(greeter)).serve_with_incoming(incoming).await?;
    Ok(())
}

/// What an instance answers.
struct Answers {
    name: &'static str,
    version: Version,
    in_work: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Greeter for Answers {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        if !request.metadata().contains_key(PROBE) {
            tokio::time::sleep(WORK).await;
        }
        self.in_work.fetch_sub(1, Ordering::Relaxed);
        let message = format!("Hello {}, this is {} ({})", request.into_inner().name, self.name, self.version);
        Ok(Response::new(HelloReply { message }))
    }
}
