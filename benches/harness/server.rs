//! Echo servers: several endpoints on one thread, in a process beside the measured one.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::echo::echo_server::{Echo, EchoServer};
use crate::echo::{DownloadRequest, EchoReply, EchoRequest, UploadReply};
use crate::site::Site;
use crate::{Error, Flavor};

/// A hundred times what a call takes.
const SLOW: Duration = Duration::from_millis(10);

/// A child process that serves echo until this is dropped.
#[derive(Debug)]
pub struct Servers {
    child: Child,
    /// The child ends when it reads the end of this.
    lifeline: Option<ChildStdin>,
    site: Site,
}

impl Servers {
    /// Runs this executable again as `serve COUNT` and waits until it says where it listens.
    ///
    /// # Errors
    ///
    /// Fails when the child does not start or does not say where it listens.
    pub fn start(count: usize) -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let site = serde_json::from_str(&line)?;
        Ok(Self { lifeline: child.stdin.take(), child, site })
    }

    /// The endpoints, and how they are reached.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Where the endpoints listen without TLS.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.site.plain
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.lifeline = None;
        if let Err(error) = self.child.wait() {
            eprintln!("the echo servers did not end: {error}");
        }
    }
}

/// Serves `count` endpoints on this thread, each without TLS and with, prints their [`Site`] as one line of JSON, and
/// returns when standard input ends.
///
/// # Errors
///
/// Fails when no port is left.
pub fn serve(count: usize) -> Result<(), Error> {
    Flavor::Current.runtime()?.block_on(async {
        let mut site = Site::new()?;
        for _ in 0..count {
            site.plain.push(listen(Server::builder()).await?);
            site.secured.push(listen(Server::builder().tls_config(site.server_tls())?).await?);
        }
        (site.shadow, site.slow) = shadows().await?;
        println!("{}", serde_json::to_string(&site)?);
        std::io::stdout().flush()?;
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        Ok(())
    })
}

/// Servers that copies of calls go to, in a thread of their own: no call stands behind a copy.
async fn shadows() -> Result<(Option<SocketAddr>, Option<SocketAddr>), Error> {
    let runtime = Flavor::Current.runtime()?;
    let (told, addresses) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let quick = listen(Server::builder()).await;
            let slow = listen_with(Server::builder(), EchoService { delay: Some(SLOW) }).await;
            if told.send((quick, slow)).is_ok() {
                std::future::pending::<()>().await;
            }
        });
    });
    let (quick, slow) = addresses.await?;
    Ok((Some(quick?), Some(slow?)))
}

pub(crate) async fn listen(server: Server) -> Result<SocketAddr, Error> {
    listen_with(server, EchoService::default()).await
}

async fn listen_with(mut server: Server, service: EchoService) -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let incoming = TcpListenerStream::new(listener)
        .map(|accepted| accepted.and_then(|stream| stream.set_nodelay(true).map(|()| stream)));
    tokio::spawn(server.add_service(EchoServer::new(service)).serve_with_incoming(incoming));
    Ok(address)
}

/// Answers with what it was sent.
#[derive(Debug, Default)]
pub struct EchoService {
    /// Before each unary reply.
    delay: Option<Duration>,
}

type Replies = BoxStream<EchoReply>;

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        if let Some(delay) = self.delay {
            tokio::time::sleep(delay).await;
        }
        Ok(Response::new(EchoReply { payload: request.into_inner().payload }))
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Replies>, Status> {
        let DownloadRequest { messages, size } = request.into_inner();
        let size = usize::try_from(size).map_err(|_| Status::out_of_range("size"))?;
        let payload = Bytes::from(vec![7; size]);
        let replies = (0..messages).map(move |_| Ok(EchoReply { payload: payload.clone() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(replies))))
    }

    async fn upload(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<UploadReply>, Status> {
        Ok(Response::new(UploadReply { bytes: count(request.into_inner()).await? }))
    }
}

async fn count(mut messages: impl Stream<Item = Result<EchoRequest, Status>> + Unpin) -> Result<u64, Status> {
    let mut bytes = 0;
    while let Some(message) = messages.next().await {
        bytes += message?.payload.len() as u64;
    }
    Ok(bytes)
}
