//! `DataSource` of TLS contexts: what a control plane sends along, or the file that it names.

use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;

use super::place::{At, quoted};
use crate::files::NamedFile;
use crate::resource::verdict::Fields;

/// Where some bytes are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    Inline(Vec<u8>),
    /// Below a folder that code allows.
    File(NamedFile),
}

pub(super) fn source(message: &DataSource, at: &At<'_>) -> Option<Source> {
    message.judge(at);
    match &message.specifier {
        Some(Specifier::InlineBytes(bytes)) => Some(Source::Inline(bytes.to_vec())),
        Some(Specifier::InlineString(text)) => Some(Source::Inline(text.clone().into())),
        Some(Specifier::Filename(path)) => {
            let file = at.report().local.folders.named(path);
            let at = &at.field("filename");
            file.map_err(|problem| at.error(format!("{} {problem}", quoted(path)))).ok().map(Source::File)
        }
        Some(Specifier::EnvironmentVariable(name)) => {
            let problem = "is an environment variable, and none is read for a control plane: send the content";
            at.field("environment_variable").error(format!("{} {problem}", quoted(name)));
            None
        }
        None => {
            at.error("must be `inline_bytes`, `inline_string` or `filename`");
            None
        }
    }
}
