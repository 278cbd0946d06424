//! Secrets (SDS), and what asks for them.

use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::{GoogleGrpc, TargetSpecifier};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;

use super::{ads, any};

/// A secret of this name, without anything yet.
///
/// ```
/// use mesh_core::testing::{sds, secret};
///
/// let roots = secret("ROOTCA").roots("-----BEGIN CERTIFICATE-----");
/// assert_eq!(roots.build().name, sds("ROOTCA").name);
/// ```
pub fn secret(name: impl Into<String>) -> SecretBuilder {
    SecretBuilder(pb::Secret { name: name.into(), r#type: None })
}

/// Asks the control plane for a secret, on the stream (ADS).
pub fn sds(name: impl Into<String>) -> pb::SdsSecretConfig {
    pb::SdsSecretConfig { name: name.into(), sds_config: Some(ads()) }
}

/// Asks the agent at a Unix socket (`unix:/path`) for a secret.
pub fn sds_of_agent(name: impl Into<String>, target_uri: impl Into<String>) -> pb::SdsSecretConfig {
    let agent = GoogleGrpc { target_uri: target_uri.into(), stat_prefix: "sds".to_owned(), ..Default::default() };
    let service =
        core::GrpcService { target_specifier: Some(TargetSpecifier::GoogleGrpc(agent)), ..Default::default() };
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![service],
        ..Default::default()
    };
    let source = core::config_source::ConfigSourceSpecifier::ApiConfigSource(source);
    let source = core::ConfigSource { config_source_specifier: Some(source), ..ads() };
    pb::SdsSecretConfig { name: name.into(), sds_config: Some(source) }
}

/// Bytes that are sent along.
pub fn inline(bytes: impl AsRef<[u8]>) -> core::DataSource {
    let bytes = core::data_source::Specifier::InlineBytes(bytes.as_ref().to_vec().into());
    core::DataSource { specifier: Some(bytes), ..Default::default() }
}

/// Envoy's validator for SPIFFE, for `custom_validator_config`: the roots of each trust domain, in PEM.
pub fn spiffe_validator<D, R>(domains: impl IntoIterator<Item = (D, R)>) -> core::TypedExtensionConfig
where
    D: Into<String>,
    R: AsRef<[u8]>,
{
    let domain = |(name, roots): (D, R)| TrustDomain { name: name.into(), trust_bundle: Some(inline(roots)) };
    let config = pb::SpiffeCertValidatorConfig {
        trust_domains: domains.into_iter().map(domain).collect(),
        ..Default::default()
    };
    let name = "envoy.tls.cert_validator.spiffe".to_owned();
    core::TypedExtensionConfig { name, typed_config: Some(any(&config)) }
}

/// Made by [`secret`].
#[derive(Clone)]
pub struct SecretBuilder(pb::Secret);

impl SecretBuilder {
    /// A certificate chain and its key, in PEM.
    pub fn certificate(mut self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        let pair = pb::TlsCertificate {
            certificate_chain: Some(inline(chain)),
            private_key: Some(inline(key)),
            ..Default::default()
        };
        self.0.r#type = Some(Type::TlsCertificate(pair));
        self
    }

    /// The roots to trust, in PEM.
    pub fn roots(self, pem: impl AsRef<[u8]>) -> Self {
        self.validation(pb::CertificateValidationContext { trusted_ca: Some(inline(pem)), ..Default::default() })
    }

    /// The roots to trust of each trust domain, in PEM: as SPIRE's agent sends them.
    pub fn roots_by_domain<D, R>(self, domains: impl IntoIterator<Item = (D, R)>) -> Self
    where
        D: Into<String>,
        R: AsRef<[u8]>,
    {
        let custom_validator_config = Some(spiffe_validator(domains));
        self.validation(pb::CertificateValidationContext { custom_validator_config, ..Default::default() })
    }

    fn validation(mut self, context: pb::CertificateValidationContext) -> Self {
        self.0.r#type = Some(Type::ValidationContext(context));
        self
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::Secret)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::Secret {
        self.0
    }
}

/// A key may be in it.
impl std::fmt::Debug for SecretBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SecretBuilder").field(&self.0.name).finish()
    }
}
