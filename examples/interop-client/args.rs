//! The flags, named as gRPC's own clients name them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};

use crate::Failure;

/// The client of gRPC's interop tests (--test_case) and mesh (PSM) interop tests (--qps, --stats_port).
///
/// GRPC_XDS_BOOTSTRAP and GRPC_XDS_BOOTSTRAP_CONFIG name the control plane for `xds:` targets.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// The target: xds:///NAME, dns:///HOST:PORT, static:///ADDRESS:PORT,…, or HOST:PORT.
    #[arg(long, alias = "server_uri", value_name = "TARGET")]
    pub(crate) server: Option<String>,
    /// The server's host, or a whole target, if there is no --server.
    #[arg(long = "server_host", default_value = "127.0.0.1")]
    server_host: String,
    /// The server's port; 0: --server_host has it.
    #[arg(long = "server_port", default_value_t = 8080)]
    server_port: u16,
    /// The :authority of the calls, if not the target's own.
    #[arg(long = "server_host_override", value_name = "HOST")]
    server_host_override: Option<String>,
    /// The bootstrap file, if not the environment's.
    #[arg(long, value_name = "FILE")]
    pub(crate) bootstrap: Option<PathBuf>,
    /// Not supported: pass false.
    #[arg(long = "use_tls", value_name = "BOOL", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_tls: bool,
    /// The control plane says how connections are secured, as it always does in a mesh: true needs an `xds:` target.
    #[arg(long = "secure_mode", value_name = "BOOL", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    secure_mode: bool,
    /// Metadata for every call: KEY:VALUE;KEY:VALUE.
    #[arg(long = "additional_metadata", default_value = "", hide_default_value = true)]
    additional_metadata: String,

    /// The cases to run, separated by commas, or `all`; --help lists them.
    ///
    /// empty_unary, large_unary, client_streaming, server_streaming, ping_pong, empty_stream,
    /// timeout_on_sleeping_server, cancel_after_begin, cancel_after_first_response, status_code_and_message,
    /// special_status_message, custom_metadata, unimplemented_method, unimplemented_service, rpc_soak, channel_soak
    #[arg(long = "test_case", value_name = "CASE,…", value_delimiter = ',')]
    pub(crate) test_case: Vec<String>,
    #[command(flatten)]
    pub(crate) soak: SoakArgs,
    #[command(flatten)]
    pub(crate) psm: PsmArgs,
}

/// rpc_soak and channel_soak.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Soak tests")]
pub(crate) struct SoakArgs {
    /// How many calls all threads make together.
    #[arg(long = "soak_iterations", value_name = "N", default_value_t = 10)]
    pub(crate) iterations: u32,
    /// How many of them may fail or take too long.
    #[arg(long = "soak_max_failures", value_name = "N", default_value_t = 0)]
    pub(crate) max_failures: u32,
    /// How long one may take.
    #[arg(long = "soak_per_iteration_max_acceptable_latency_ms", value_name = "MS", default_value_t = 1000)]
    pub(crate) max_latency_ms: u64,
    /// How long all may take.
    #[arg(long = "soak_overall_timeout_seconds", value_name = "SECONDS", default_value_t = 10)]
    pub(crate) overall_timeout_seconds: u64,
    /// The least time between the starts of two calls of a thread.
    #[arg(long = "soak_min_time_ms_between_rpcs", value_name = "MS", default_value_t = 0)]
    pub(crate) min_time_ms_between_rpcs: u64,
    /// Bytes in a request's payload.
    #[arg(long = "soak_request_size", value_name = "BYTES", default_value_t = 271_828)]
    pub(crate) request_size: usize,
    /// Bytes in a response's payload.
    #[arg(long = "soak_response_size", value_name = "BYTES", default_value_t = 314_159)]
    pub(crate) response_size: i32,
    /// How many calls are made at the same time.
    #[arg(long = "soak_num_threads", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_threads: u32,
}

/// The client of the mesh tests.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Mesh (PSM) tests")]
pub(crate) struct PsmArgs {
    /// How many channels to open.
    #[arg(long = "num_channels", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_channels: u32,
    /// Calls per second, channel and type of call. Default: 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    qps: Option<u32>,
    /// The types of calls: EmptyCall, UnaryCall.
    #[arg(long, value_name = "TYPE,…", default_value = "UnaryCall", value_delimiter = ',')]
    pub(crate) rpc: Vec<String>,
    /// The deadline of each call.
    #[arg(long = "rpc_timeout_sec", value_name = "SECONDS", default_value_t = 20)]
    rpc_timeout_sec: u64,
    /// Metadata by type of call: EmptyCall:KEY:VALUE,UnaryCall:KEY:VALUE.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) metadata: String,
    /// Serves LoadBalancerStatsService and XdsUpdateClientConfigureService on this port of 127.0.0.1; the address is
    /// the first line on standard output. Default: 8081.
    #[arg(long = "stats_port", value_name = "PORT")]
    stats_port: Option<u16>,
    /// Fails when a call fails after one has succeeded.
    #[arg(long = "fail_on_failed_rpc", alias = "fail_on_failed_rpcs", value_name = "BOOL", action = ArgAction::Set,
          default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) fail_on_failed_rpc: bool,
    /// Prints every response.
    #[arg(long = "print_response", value_name = "BOOL", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) print_response: bool,
    /// Bytes in the payload of a UnaryCall's request.
    #[arg(long = "request_payload_size", value_name = "BYTES", default_value_t = 0)]
    pub(crate) request_payload_size: usize,
    /// Bytes in the payload of a UnaryCall's response.
    #[arg(long = "response_payload_size", value_name = "BYTES", default_value_t = 0)]
    pub(crate) response_payload_size: i32,
}

impl Args {
    /// Whether this is the client of the mesh tests.
    pub(crate) fn is_psm(&self) -> bool {
        self.test_case.is_empty() && (self.psm.qps.is_some() || self.psm.stats_port.is_some())
    }

    /// The target; a bare `HOST:PORT` is resolved by DNS, as in gRPC.
    pub(crate) fn target(&self) -> Result<String, Failure> {
        if self.use_tls {
            return Err("--use_tls=true is not supported".into());
        }
        let server = match &self.server {
            Some(server) => server.clone(),
            None if self.server_port == 0 || has_scheme(&self.server_host) => self.server_host.clone(),
            None => format!("{}:{}", self.server_host, self.server_port),
        };
        let target = if has_scheme(&server) { server } else { format!("dns:///{server}") };
        match self.secure_mode && !target.starts_with("xds:") {
            true => Err("--secure_mode=true needs an xds: target: others are in plaintext".into()),
            false => Ok(target),
        }
    }

    /// What the calls say as `:authority` instead of the target's own.
    pub(crate) fn authority(&self) -> Option<&str> {
        self.server_host_override.as_deref().filter(|host| !host.is_empty())
    }

    /// `--additional_metadata`.
    pub(crate) fn additional_metadata(&self) -> Result<Vec<(AsciiMetadataKey, AsciiMetadataValue)>, Failure> {
        let pairs = self.additional_metadata.split(';').filter(|pair| !pair.is_empty());
        pairs.map(|pair| parse_pair(pair).ok_or_else(|| format!("`{pair}` is not KEY:VALUE").into())).collect()
    }
}

impl PsmArgs {
    /// Calls per second, channel and type.
    pub(crate) fn qps(&self) -> u32 {
        self.qps.unwrap_or(1)
    }

    /// The deadline of a call.
    pub(crate) fn rpc_timeout(&self) -> Duration {
        Duration::from_secs(self.rpc_timeout_sec)
    }

    /// Where the services for the test driver are.
    pub(crate) fn stats_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.stats_port.unwrap_or(8081)).into()
    }
}

/// Reads `KEY:VALUE`.
pub(crate) fn parse_pair(pair: &str) -> Option<(AsciiMetadataKey, AsciiMetadataValue)> {
    let (key, value) = pair.split_once(':')?;
    Some((key.parse().ok()?, value.parse().ok()?))
}

fn has_scheme(target: &str) -> bool {
    let known = ["xds:", "dns:", "static:", "ipv4:", "ipv6:", "unix:"];
    target.contains("://") || known.iter().any(|scheme| target.starts_with(scheme))
}
