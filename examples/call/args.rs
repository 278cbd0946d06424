//! The options.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use mesh_core::Profile;
use tonic::metadata::MetadataMap;

/// Makes unary calls with raw bytes through the mesh.
///
/// Exits 0 when every call succeeded. GRPC_XDS_BOOTSTRAP and GRPC_XDS_BOOTSTRAP_CONFIG name the control plane for
/// `xds:` targets.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// What to call: xds:///NAME, static:///ADDRESS:PORT,…, dns:///HOST:PORT or unix:PATH.
    pub(crate) target: String,
    /// The method: /package.Service/Method.
    #[arg(value_parser = parse_method)]
    pub(crate) method: PathAndQuery,
    /// The bootstrap file, if not the environment's.
    #[arg(long, value_name = "FILE")]
    pub(crate) bootstrap: Option<PathBuf>,
    /// Joins Istio's mesh without an agent, as the environment of this pod says.
    #[arg(long, conflicts_with = "bootstrap")]
    pub(crate) istio: bool,
    /// Files, and Unix sockets of agents, that the control plane names may be used if they are below this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) allow_files_below: Vec<PathBuf>,
    /// Whose rules hold where those of gRPC and Envoy differ.
    #[arg(long, value_enum, default_value = "grpc")]
    profile: ProfileName,
    /// The cluster that these callers are of, whose endpoints say how many of the calls can stay in their zone; with the
    /// profile envoy.
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) local_cluster: Option<String>,
    /// Throttles retries by so many tokens, of which a failure takes one and an answer gives a part back (A6).
    #[arg(long, value_name = "TOKENS,RATIO", value_parser = parse_throttling)]
    pub(crate) retry_throttling: Option<(u32, f32)>,
    /// The :authority of the calls, if not the target's own.
    #[arg(long, value_name = "HOST")]
    pub(crate) authority: Option<String>,
    /// Ends with the summary as a JSON object on one line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints a JSON line per call, as it ends.
    #[arg(long)]
    pub(crate) each: bool,
    /// Adds the values of this header of the response to the line of each call; may be repeated.
    #[arg(long, value_name = "NAME", requires = "each")]
    pub(crate) show: Vec<HeaderName>,
    /// Adds to the summary which fields the control plane set that nothing acts on.
    #[arg(long)]
    pub(crate) ignored: bool,
    /// Adds to the summary what is in force for the calls, and whether the control plane, code or a default set it.
    #[arg(long)]
    pub(crate) explain: bool,
    /// How many calls to make; 0: until ctrl-c.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) count: u64,
    /// How many calls may be in flight. Default: 1, with --rate 1000.
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Starts so many calls per second, at even distances from the first. Default: each as soon as one has ended.
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// How long a call may take, as in 1m, 15s, 250ms, 100us; 0s: no deadline.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    pub(crate) deadline: Duration,
    /// Waits for an endpoint, up to the deadline, even if there is no hope at the moment.
    #[arg(long)]
    pub(crate) wait_for_ready: bool,
    /// Metadata, may be repeated; the value of a name that ends in `-bin` is base64. `{n}` in a value stands for the
    /// number of the call, from 0.
    #[arg(long = "header", value_name = "K=V", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The request message, in hexadecimal, or as the bytes of a file.
    #[arg(long, value_name = "HEX|@FILE", default_value = "", hide_default_value = true, value_parser = parse_data)]
    pub(crate) data: Bytes,
    /// Has what goes by chance, as the choice among weights, go the same way each time, as far as calls come in the same
    /// order. One thread makes all calls then.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// The largest reply that is taken.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub(crate) max_reply: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileName {
    Grpc,
    Envoy,
}

impl Args {
    pub(crate) fn profile(&self) -> Profile {
        match self.profile {
            ProfileName::Grpc => Profile::Grpc,
            ProfileName::Envoy => Profile::Envoy,
        }
    }

    pub(crate) fn concurrency(&self) -> u32 {
        self.concurrency.unwrap_or(if self.rate.is_some() { 1000 } else { 1 })
    }

    /// The metadata of the call of this number.
    pub(crate) fn metadata(&self, number: u64) -> MetadataMap {
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), numbered(value, number)));
        MetadataMap::from_headers(headers.collect())
    }
}

/// The value with the number in the place of `{n}`.
fn numbered(value: &HeaderValue, number: u64) -> HeaderValue {
    match value.to_str() {
        Ok(text) if text.contains("{n}") => {
            let text = text.replace("{n}", &number.to_string());
            text.parse().expect("digits are valid where braces and a letter were")
        }
        _ => value.clone(),
    }
}

fn parse_method(text: &str) -> Result<PathAndQuery, String> {
    match text.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((service, method)) if !service.is_empty() && !method.is_empty() => {
            text.parse().map_err(|error| format!("{error}"))
        }
        _ => Err("it is not /package.Service/Method".to_owned()),
    }
}

fn parse_throttling(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once(',').and_then(|(tokens, ratio)| Some((tokens.parse().ok()?, ratio.parse().ok()?)));
    parsed.ok_or_else(|| "it is not two numbers".to_owned())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // The time of a call must be one that the clock knows.
        Ok(rate) if rate.is_finite() && rate >= 1e-6 => Ok(rate),
        _ => Err("it is not a number from 0.000001".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| "it is not a number and a unit".to_owned())?;
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("the unit is not one of us, ms, s, m, h".to_owned()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("it is not K=V")?;
    let name: HeaderName = name.parse().map_err(|error| format!("{error}"))?;
    let value: HeaderValue = value.parse().map_err(|error| format!("{error}"))?;
    if name.as_str().ends_with("-bin") {
        let metadata = MetadataMap::from_headers([(name.clone(), value.clone())].into_iter().collect());
        let decoded = metadata.get_bin(name.as_str()).map(|value| value.to_bytes());
        decoded.ok_or("it is not metadata")?.map_err(|_| "the value is not base64")?;
    }
    Ok((name, value))
}

fn parse_data(text: &str) -> Result<Bytes, String> {
    if let Some(file) = text.strip_prefix('@') {
        return std::fs::read(file).map(Bytes::from).map_err(|error| error.to_string());
    }
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err("it is not pairs of hexadecimal digits".to_owned());
    }
    let bytes = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    bytes.collect::<Result<Vec<u8>, _>>().map(Bytes::from).map_err(|error| error.to_string())
}
