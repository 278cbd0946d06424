//! What the client sends: types of calls, their metadata and deadline; from the flags, then from the test driver.

use std::time::Duration;

use mesh_examples::grpc_testing::ClientConfigureRequest;
use mesh_examples::grpc_testing::client_configure_request::RpcType;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::{Request, Status};

use crate::Failure;
use crate::args::{PsmArgs, parse_pair};

/// What is sent at each tick.
#[derive(Debug)]
pub(super) struct Config {
    rpc_types: Vec<RpcType>,
    metadata: Vec<(RpcType, AsciiMetadataKey, AsciiMetadataValue)>,
    timeout: Duration,
}

impl Config {
    /// `--rpc`, `--metadata` and `--rpc_timeout_sec`.
    pub(super) fn from_args(args: &PsmArgs) -> Result<Self, Failure> {
        let rpc_types = args.rpc.iter().map(|name| rpc_type(name)).collect::<Result<_, _>>()?;
        let metadata = args.metadata.split(',').filter(|item| !item.is_empty()).map(|item| {
            let (name, pair) = item.split_once(':').ok_or_else(|| malformed(item))?;
            let (key, value) = parse_pair(pair).ok_or_else(|| malformed(item))?;
            Ok::<_, Failure>((rpc_type(name)?, key, value))
        });
        Ok(Self { rpc_types, metadata: metadata.collect::<Result<_, _>>()?, timeout: args.rpc_timeout() })
    }

    /// What the test driver asks for; without a deadline that of the flags holds.
    pub(super) fn from_request(request: &ClientConfigureRequest, args: &PsmArgs) -> Result<Self, Status> {
        let mut rpc_types: Vec<RpcType> = request.types().collect();
        if rpc_types.len() != request.types.len() {
            return Err(Status::invalid_argument("there is a type of call that is not known"));
        }
        rpc_types.sort_unstable();
        rpc_types.dedup();
        let metadata = request.metadata.iter().map(|entry| {
            let key = entry.key.to_ascii_lowercase().parse();
            let key = key.map_err(|_| Status::invalid_argument(format!("`{}` is no metadata key", entry.key)))?;
            let value = entry.value.parse();
            let value =
                value.map_err(|_| Status::invalid_argument(format!("`{}` is no metadata value", entry.value)))?;
            Ok::<_, Status>((entry.r#type(), key, value))
        });
        let timeout = match u64::try_from(request.timeout_sec) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds),
            _ => args.rpc_timeout(),
        };
        Ok(Self { rpc_types, metadata: metadata.collect::<Result<_, _>>()?, timeout })
    }

    /// What to call.
    pub(super) fn rpc_types(&self) -> impl Iterator<Item = RpcType> {
        self.rpc_types.iter().copied()
    }

    /// `message` with the metadata of `rpc_type` and the deadline.
    pub(super) fn request<M>(&self, rpc_type: RpcType, message: M) -> Request<M> {
        let mut request = Request::new(message);
        for (_, key, value) in self.metadata.iter().filter(|(to, ..)| *to == rpc_type) {
            request.metadata_mut().append(key.clone(), value.clone());
        }
        request.set_timeout(self.timeout);
        request
    }
}

fn rpc_type(name: &str) -> Result<RpcType, Failure> {
    match name {
        "EmptyCall" => Ok(RpcType::EmptyCall),
        "UnaryCall" => Ok(RpcType::UnaryCall),
        _ => Err(format!("`{name}` is neither EmptyCall nor UnaryCall").into()),
    }
}

fn malformed(item: &str) -> Failure {
    format!("`{item}` is not TYPE:KEY:VALUE").into()
}
