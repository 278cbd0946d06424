//! A DNS server that says what it is told to say, and backends at the addresses it names.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::Counter;
use super::backend::Backend;

/// A DNS server (RFC 1035) that knows one answer to whatever it is asked.
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    queries: Counter,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These addresses, for so many seconds.
    Addresses(u32, Vec<Ipv4Addr>),
    /// This response code: 2 is SERVFAIL, 3 is NXDOMAIN.
    Failure(u8),
    /// No response at all.
    Silence,
}

impl Dns {
    pub(crate) async fn start(answer: Answer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (answer, queries) = (Arc::new(Mutex::new(answer)), Counter::new());
        let task = tokio::spawn(serve_dns(socket, answer.clone(), queries.clone()));
        Self { address, answer, queries, task }
    }

    pub(crate) fn change(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    /// How many queries came.
    pub(crate) fn asked(&self) -> u64 {
        self.queries.get()
    }

    /// Waits for so many queries more: those on the way were answered with what was there before.
    pub(crate) async fn asked_again(&self, times: u64) {
        let before = self.queries.get();
        self.queries.wait_for("queries", |count| *count >= before + times).await;
    }

    pub(crate) fn target(&self, host: &str, port: u16) -> String {
        format!("dns://{}/{host}:{port}", self.address)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_dns(socket: UdpSocket, answer: Arc<Mutex<Answer>>, queries: Counter) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let response = respond(&buffer[..length], &answer.lock());
        if let Some(response) = response {
            socket.send_to(&response, from).await.expect("loopback");
        }
        queries.add(1);
    }
}

/// The header, the question as it came, and the records.
fn respond(query: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    let labels = 12 + query[12..].iter().position(|byte| *byte == 0)?;
    let question = &query[12..labels + 5];
    let wants_a = question[question.len() - 4..question.len() - 2] == [0, 1];
    let (code, ttl, addresses) = match answer {
        Answer::Silence => return None,
        Answer::Failure(code) => (*code, 0, &[][..]),
        Answer::Addresses(ttl, addresses) => (0, *ttl, if wants_a { &addresses[..] } else { &[] }),
    };
    let count = u8::try_from(addresses.len()).expect("few addresses");
    let mut response = query[..2].to_vec();
    // A response, authoritative, recursion was desired and is available; one question.
    response.extend([0x85, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    response.extend(question);
    for address in addresses {
        // The name of the question, type A, class IN.
        response.extend([0xc0, 12, 0, 1, 0, 1]);
        response.extend(ttl.to_be_bytes());
        response.extend([0, 4]);
        response.extend(address.octets());
    }
    Some(response)
}

pub(crate) const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Two backends at one port of two addresses.
pub(crate) async fn twins() -> (Backend, Backend) {
    let here = Backend::start("here").await;
    let there = Backend::start_with("there", &format!("{THERE}:{}", here.address().port()), |server| server).await;
    (here, there)
}
