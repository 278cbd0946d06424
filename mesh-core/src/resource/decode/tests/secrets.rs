//! Secrets, and what TLS contexts carry, name or ask for: what is refused, by which field, and what is kept of the rest.

use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::google_grpc::channel_credentials::CredentialSpecifier;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::google_grpc::{
    CallCredentials, ChannelCredentials, GoogleLocalCredentials, SslCredentials,
};
use mesh_xds_proto::envoy::config::core::v3::grpc_service::{GoogleGrpc, TargetSpecifier};
use mesh_xds_proto::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ConfigSource, DataSource, GrpcService, TypedExtensionConfig,
    WatchedDirectory, api_config_source,
};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use mesh_xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair,
};

use super::super::http_filter::Side;
use super::super::place::{At, Report};
use super::super::tls_context::{identity, validation};
use crate::identity::{Carried, MaterialSource, Part, RevocationLists, SecretServer};
use crate::resource::SECRET;
use crate::resource::local::LocalNames;
use crate::resource::secret::Secret;
use crate::resource::upstream_tls::RootsFrom;
use crate::xds::resource_type::Extensions;

/// Of a control plane that may send keys, and name files below `/run/certs` and the provider `default`.
fn extensions() -> Extensions {
    let mut local = LocalNames { keys_may_come: true, ..Default::default() };
    local.folders.allow(Path::new("/run/certs"));
    local.certificate_providers = Arc::new(["default".into()].into());
    Extensions::new(local)
}

fn read(r#type: Option<Type>) -> Result<Arc<Secret>, String> {
    let secret = tls::Secret { name: "s".into(), r#type };
    let read = (SECRET.decode)(&secret.encode_to_vec(), &extensions()).value;
    let said = |errors: Vec<crate::xds::resource_type::FieldError>| {
        errors.iter().map(|error| format!("{}: {}\n", error.path, error.problem)).collect::<String>()
    };
    read.map(|value| value.downcast().expect("a secret")).map_err(said)
}

/// What is said of a part of a context: errors, and fields that nothing acts on.
fn context<T>(read: impl FnOnce(&At<'_>) -> T) -> (T, String) {
    let report = Report::new(&extensions());
    let value = read(&report.root());
    let (errors, ignored) = report.finish();
    let errors = errors.iter().map(|error| format!("{}: {}\n", error.path, error.problem));
    let ignored = ignored.iter().map(|field| format!("{} ignored: {}\n", field.path, field.reason));
    (value, errors.chain(ignored).collect())
}

struct Pems {
    chain: String,
    key: String,
    list: String,
}

fn pems() -> Pems {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let now = std::time::SystemTime::now();
    let list = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + std::time::Duration::from_secs(60)).into(),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap().pem().unwrap();
    Pems { chain: issuer.pem(), key: issuer.key().serialize_pem(), list }
}

fn source(specifier: Specifier) -> Option<DataSource> {
    Some(DataSource { specifier: Some(specifier), ..Default::default() })
}

fn text(text: &str) -> Option<DataSource> {
    source(Specifier::InlineString(text.to_owned()))
}

fn file(path: &str) -> Option<DataSource> {
    source(Specifier::Filename(path.to_owned()))
}

fn watched() -> Option<WatchedDirectory> {
    Some(WatchedDirectory { path: "/run/certs".into(), ..Default::default() })
}

fn pair(certificate_chain: Option<DataSource>, private_key: Option<DataSource>) -> tls::TlsCertificate {
    tls::TlsCertificate { certificate_chain, private_key, ..Default::default() }
}

fn certificate(chain: Option<DataSource>, key: Option<DataSource>) -> Option<Type> {
    Some(Type::TlsCertificate(pair(chain, key)))
}

fn trusting(trusted_ca: Option<DataSource>) -> tls::CertificateValidationContext {
    tls::CertificateValidationContext { trusted_ca, ..Default::default() }
}

fn instance() -> Option<tls::CertificateProviderPluginInstance> {
    Some(tls::CertificateProviderPluginInstance { instance_name: "default".into(), ..Default::default() })
}

fn exact(name: &str) -> Vec<StringMatcher> {
    vec![StringMatcher { match_pattern: Some(MatchPattern::Exact(name.into())), ..Default::default() }]
}

#[test]
fn what_is_wrong_with_a_secret_is_refused_by_its_field() {
    let Pems { chain, key, list } = pems();
    let roots = |context: tls::CertificateValidationContext| Some(Type::ValidationContext(context));
    let environment = || source(Specifier::EnvironmentVariable("HOME".into()));
    let crl = tls::CertificateValidationContext { crl: file("/etc/crl"), ..trusting(text(&chain)) };
    let provided =
        tls::CertificateValidationContext { ca_certificate_provider_instance: instance(), ..trusting(text(&chain)) };
    let system =
        tls::CertificateValidationContext { system_root_certs: Some(Default::default()), ..trusting(text(&chain)) };
    for (secret, problem) in [
        (None, "type: must be a `tls_certificate` or a `validation_context`"),
        (certificate(text(&chain), None), "tls_certificate.private_key: "),
        (certificate(None, text(&key)), "tls_certificate.certificate_chain: "),
        (certificate(text(&chain), text("none")), "tls_certificate: the private key cannot be used"),
        (certificate(file("/run/certs/crt"), text(&key)), "tls_certificate.private_key: is sent along, and its"),
        (
            certificate(file("/etc/crt"), text(&key)),
            "tls_certificate.certificate_chain.filename: \"/etc/crt\" is below",
        ),
        (certificate(environment(), text(&key)), "certificate_chain.environment_variable: \"HOME\" is an environment"),
        (certificate(Some(DataSource::default()), text(&key)), "tls_certificate.certificate_chain: must be"),
        (
            certificate(text(&chain), source(Specifier::InlineBytes(vec![b'k'; (1 << 20) + 1].into()))),
            "tls_certificate.private_key: has 1048577 bytes, more than 1048576",
        ),
        (roots(trusting(None)), "validation_context.trusted_ca: must be set, or `custom_validator_config`"),
        (
            roots(trusting(text(&format!("{chain}{list}")))),
            "validation_context.trusted_ca: the root certificates cannot",
        ),
        (roots(trusting(text("none"))), "validation_context.trusted_ca: the root certificates cannot be used"),
        (roots(provided), "validation_context.ca_certificate_provider_instance: a secret has the roots itself"),
        (roots(system), "validation_context.system_root_certs: a secret has the roots itself"),
        (roots(crl), "validation_context.crl.filename: \"/etc/crl\" is below none of the folders"),
        (Some(Type::GenericSecret(Default::default())), "generic_secret: nothing asks for such a secret"),
    ] {
        let said = read(secret).err().unwrap_or_default();
        assert!(said.contains(problem), "{problem:?} is not in {said:?}");
    }
}

#[test]
fn a_secret_is_kept_with_all_that_it_says() {
    let Pems { chain, key, list } = pems();
    for key in [text(&key), source(Specifier::InlineBytes(key.clone().into_bytes().into()))] {
        let secret = read(certificate(text(&chain), key)).expect("a secret");
        let Carried::Inline(material) = &*secret.material else { panic!("a pair") };
        assert!(secret.part == Part::Identity && material.identity.is_some() && material.trust.is_none());
    }
    let lists = RevocationLists::from_pem(list.as_bytes()).expect("lists");
    for (only_verify_leaf_cert_crl, lists) in [(false, lists.clone()), (true, lists.leaf_only())] {
        let limited = |trusted_ca| {
            Some(Type::ValidationContext(tls::CertificateValidationContext {
                crl: text(&list),
                match_subject_alt_names: exact("spiffe://a.test/a"),
                only_verify_leaf_cert_crl,
                ..trusting(trusted_ca)
            }))
        };
        let secret = read(limited(text(&chain))).expect("a secret");
        let Carried::Inline(material) = &*secret.material else { panic!("roots") };
        let trust = material.trust.as_ref().expect("roots");
        assert!(secret.part == Part::Roots && trust.revocation_lists() == Some(&lists) && trust.peers().is_some());
        let secret = read(limited(file("/run/certs/ca.crt"))).expect("a secret");
        let Carried::Files(files) = &*secret.material else { panic!("a file") };
        assert!(files.vouching.revoked.as_ref() == Some(&lists) && files.vouching.peers.is_some());
    }
    let named = || file("/run/certs/a");
    let noticed = || Some(DataSource { watched_directory: watched(), ..named().expect("a source") });
    let certificate = |chain, key, watched_directory| {
        Some(Type::TlsCertificate(tls::TlsCertificate { watched_directory, ..pair(chain, key) }))
    };
    let roots = |trusted_ca, watched_directory| {
        Some(Type::ValidationContext(tls::CertificateValidationContext { watched_directory, ..trusting(trusted_ca) }))
    };
    for (secret, is_watched) in [
        (certificate(named(), named(), None), false),
        (certificate(named(), named(), watched()), true),
        (certificate(named(), noticed(), None), true),
        (certificate(text(&chain), named(), None), false),
        (roots(named(), None), false),
        (roots(named(), watched()), true),
        (roots(noticed(), None), true),
    ] {
        let secret = read(secret).expect("a secret");
        let Carried::Files(files) = &*secret.material else { panic!("files") };
        assert_eq!(files.is_watched, is_watched, "{files:?}", files = secret.material);
    }
}

fn validated(config: &tls::SpiffeCertValidatorConfig) -> tls::CertificateValidationContext {
    let typed_config = Some(prost_types::Any { type_url: TYPE.to_owned(), value: config.encode_to_vec() });
    let custom_validator_config = Some(TypedExtensionConfig { name: "any".into(), typed_config });
    tls::CertificateValidationContext { custom_validator_config, ..Default::default() }
}

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

fn domains(domains: Vec<(&str, Option<DataSource>)>) -> tls::SpiffeCertValidatorConfig {
    let domain = |(name, trust_bundle): (&str, _)| TrustDomain { name: name.into(), trust_bundle };
    tls::SpiffeCertValidatorConfig { trust_domains: domains.into_iter().map(domain).collect(), trust_bundles: None }
}

fn map(trust_bundles: Option<DataSource>) -> tls::SpiffeCertValidatorConfig {
    tls::SpiffeCertValidatorConfig { trust_domains: Vec::new(), trust_bundles }
}

#[test]
fn what_is_wrong_with_a_validator_for_spiffe_is_refused_by_its_field() {
    let Pems { chain, list, .. } = pems();
    let good = || validated(&domains(vec![("a.test", text(&chain))]));
    let mut other = good();
    other.custom_validator_config = Some(TypedExtensionConfig {
        name: "envoy.tls.cert_validator.spiffe".into(),
        typed_config: Some(prost_types::Any { type_url: "x/other.Validator".into(), value: Vec::new() }),
    });
    let empty = tls::CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig::default()),
        ..Default::default()
    };
    let mut broken = good();
    if let Some(any) = broken.custom_validator_config.as_mut().and_then(|config| config.typed_config.as_mut()) {
        any.value.truncate(5);
    }
    let named = |san_type: SanType| {
        let matcher = exact("a").pop();
        let matcher = tls::SubjectAltNameMatcher { san_type: san_type as i32, matcher, ..Default::default() };
        tls::CertificateValidationContext { match_typed_subject_alt_names: vec![matcher], ..good() }
    };
    let one = |name, roots| validated(&domains(vec![(name, roots)]));
    let both = format!("{chain}{list}");
    let at = "custom_validator_config.typed_config";
    for (context, problem) in [
        (other, format!("{at}: must be a SPIFFECertValidatorConfig, and is \"other.Validator\"")),
        (empty, format!("{at}: must be set")),
        (broken, format!("{at}: is not a valid SPIFFECertValidatorConfig")),
        (validated(&domains(Vec::new())), format!("{at}.trust_domains: must be 1 to 1000, and there are 0")),
        (one("", text(&chain)), format!("{at}.trust_domains[0].name: ")),
        (one("spiffe://a.test", text(&chain)), format!("{at}.trust_domains[0].name: ")),
        (one("a.test", None), format!("{at}.trust_domains[0].trust_bundle: must be set")),
        (
            one("a.test", text("none")),
            format!("{at}.trust_domains[0].trust_bundle: the root certificates cannot be used"),
        ),
        (
            one("a.test", text(&both)),
            format!(
                "{at}.trust_domains[0].trust_bundle: the root certificates cannot be used: there are revocation lists"
            ),
        ),
        (
            one("a.test", file("/etc/ca")),
            format!("{at}.trust_domains[0].trust_bundle.filename: \"/etc/ca\" is below none"),
        ),
        (
            one("a.test", source(Specifier::InlineBytes(vec![b'k'; (1 << 20) + 1].into()))),
            format!("{at}.trust_domains[0].trust_bundle: has 1048577 bytes"),
        ),
        (
            validated(&domains(vec![("a.test", text(&chain)), ("b.test", text("none"))])),
            format!("{at}.trust_domains[1].trust_bundle: "),
        ),
        (
            validated(&domains(vec![("a.test", text(&chain)), ("a.test", file("/run/certs/ca"))])),
            format!("{at}.trust_domains[1].name: \"a.test\" stands twice"),
        ),
        (validated(&map(text("{}"))), format!("{at}.trust_bundles: the SPIFFE bundle map: ")),
        (
            validated(&map(source(Specifier::InlineBytes(vec![0xff].into())))),
            format!("{at}.trust_bundles: is not UTF-8"),
        ),
        (validated(&map(file("/etc/map"))), format!("{at}.trust_bundles.filename: ")),
        (named(SanType::Dns), "match_typed_subject_alt_names[0].san_type: must be URI".to_owned()),
        (
            tls::CertificateValidationContext { ca_certificate_provider_instance: instance(), ..good() },
            "ca_certificate_provider_instance: the roots are those of `custom_validator_config`".to_owned(),
        ),
        (
            tls::CertificateValidationContext { system_root_certs: Some(Default::default()), ..good() },
            "system_root_certs: the roots are those of `custom_validator_config`".to_owned(),
        ),
    ] {
        let kind = Some(ValidationContextType::ValidationContext(context));
        let common = tls::CommonTlsContext { validation_context_type: kind, ..Default::default() };
        let (_, said) = self::context(|at| validation(&common, Side::Client, at));
        let problem = format!("validation_context.{problem}");
        assert!(said.contains(&problem), "{problem:?} is not in {said:?}");
    }
    let (_, said) = self::context(|at| validation(&combined(good()), Side::Client, at));
    let problem = "default_validation_context.custom_validator_config: the roots come from beside it";
    assert!(said.contains(problem), "{said}");
}

#[test]
fn a_validator_for_spiffe_has_roots_by_trust_domain() {
    let Pems { chain, .. } = pems();
    let limited = |config: &_| tls::CertificateValidationContext {
        match_subject_alt_names: exact("spiffe://a.test/a"),
        trusted_ca: text("of no account"),
        ..validated(config)
    };
    let read = |config| read(Some(Type::ValidationContext(limited(&config)))).expect("a secret");
    let json = r#"{"trust_domains": {"a.test": {"keys": []}, "b.test": {"keys": []}}}"#;
    let two = |a, b| domains(vec![("b.test", b), ("a.test", a)]);
    for config in [two(text(&chain), text(&chain)), map(text(json))] {
        let secret = read(config);
        let Carried::Inline(material) = &*secret.material else { panic!("roots") };
        let trust = material.trust.as_ref().expect("roots");
        let names: Vec<_> = trust.trust_domains().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a.test", "b.test"]);
        assert!(trust.is_of_spiffe_validator() && trust.peers().is_some());
    }
    for (config, is_watched) in [
        (two(text(&chain), file("/run/certs/b")), false),
        (two(file("/run/certs/a"), file("/run/certs/b")), false),
        (map(file("/run/certs/map")), true),
    ] {
        let secret = read(config);
        let Carried::Files(files) = &*secret.material else { panic!("files") };
        assert_eq!(files.is_watched, is_watched);
        assert!(files.vouching.is_of_spiffe_validator && files.vouching.peers.is_some());
    }
}

/// Roots that were sent along are read with the lists that are in a file.
#[test]
fn lists_in_a_file_limit_the_roots_of_a_secret_wherever_those_are() {
    let Pems { chain, .. } = pems();
    let json = r#"{"trust_domains": {"a.test": {"keys": []}}}"#;
    for (context, list) in [
        (trusting(text(&chain)), "/run/certs/crl"),
        (trusting(file("/run/certs/ca")), "/run/certs/ca and /run/certs/crl"),
        (validated(&domains(vec![("a.test", text(&chain))])), "/run/certs/crl"),
        (validated(&map(text(json))), "/run/certs/crl"),
    ] {
        let context = tls::CertificateValidationContext {
            crl: file("/run/certs/crl"),
            only_verify_leaf_cert_crl: true,
            ..context
        };
        let secret = read(Some(Type::ValidationContext(context))).expect("a secret");
        let Carried::Files(files) = &*secret.material else { panic!("files") };
        assert!(files.vouching.revoked_in.as_ref().is_some_and(|lists| lists.leaf_only));
        assert_eq!(format!("{:?}", secret.material), format!("Files({list:?})"));
    }
}

/// Beside roots from elsewhere nobody would read it.
#[test]
fn lists_in_a_file_are_refused_where_the_roots_are_not_those_of_their_context() {
    let Pems { chain, .. } = pems();
    let listed = |context| tls::CertificateValidationContext { crl: file("/run/certs/crl"), ..context };
    let provided =
        tls::CertificateValidationContext { ca_certificate_provider_instance: instance(), ..trusting(text(&chain)) };
    let alone = |context| tls::CommonTlsContext {
        validation_context_type: Some(ValidationContextType::ValidationContext(context)),
        ..Default::default()
    };
    for refused in [
        alone(listed(provided.clone())),
        combined(listed(provided)),
        combined(listed(trusting(text(&chain)))),
        combined(listed(trusting(None))),
    ] {
        let (_, said) = context(|at| validation(&refused, Side::Client, at));
        assert!(said.contains("crl.filename: is a file, which goes with the file of roots"), "{said}");
    }
    let (_, said) = context(|at| validation(&alone(listed(trusting(text(&chain)))), Side::Client, at));
    assert_eq!(said, "");
}

/// Of bundles that a provider is looked up by.
#[test]
fn other_roots_are_found_at_another_place() {
    let hash = |carried: &Carried| {
        let mut hasher = std::hash::DefaultHasher::new();
        carried.hash(&mut hasher);
        hasher.finish()
    };
    let of = |pem: &str| read(Some(Type::ValidationContext(trusting(text(pem))))).expect("a secret").material.clone();
    let by_domain = |pem: &str| {
        let context = validated(&domains(vec![("a.test", text(pem))]));
        read(Some(Type::ValidationContext(context))).expect("a secret").material.clone()
    };
    let (one, other) = (pems().chain, pems().chain);
    for read in [&of as &dyn Fn(&str) -> Arc<Carried>, &by_domain] {
        assert!(read(&one) == read(&one) && read(&one) != read(&other));
        assert_eq!(hash(&read(&one)), hash(&read(&one)));
        assert_ne!(hash(&read(&one)), hash(&read(&other)));
    }
    assert!(of(&one) != by_domain(&one), "roots of a trust domain vouch for it alone");
}

fn of_agent(target: GoogleGrpc, change: impl FnOnce(&mut ApiConfigSource)) -> tls::SdsSecretConfig {
    let service = GrpcService { target_specifier: Some(TargetSpecifier::GoogleGrpc(target)), ..Default::default() };
    let mut api = ApiConfigSource {
        api_type: api_config_source::ApiType::Grpc as i32,
        transport_api_version: 2,
        grpc_services: vec![service],
        ..Default::default()
    };
    change(&mut api);
    asked("s", ConfigSourceSpecifier::ApiConfigSource(api))
}

fn asked(name: &str, at: ConfigSourceSpecifier) -> tls::SdsSecretConfig {
    let source = ConfigSource { config_source_specifier: Some(at), resource_api_version: 2, ..Default::default() };
    tls::SdsSecretConfig { name: name.into(), sds_config: Some(source) }
}

fn of_control_plane(name: &str) -> tls::SdsSecretConfig {
    asked(name, ConfigSourceSpecifier::Ads(AggregatedConfigSource {}))
}

fn target(uri: &str) -> GoogleGrpc {
    GoogleGrpc { target_uri: uri.into(), ..Default::default() }
}

fn with_credentials(credential_specifier: CredentialSpecifier) -> GoogleGrpc {
    let channel_credentials = Some(ChannelCredentials { credential_specifier: Some(credential_specifier) });
    GoogleGrpc { channel_credentials, ..target("unix:/run/certs/socket") }
}

fn identity_of(secret: tls::SdsSecretConfig) -> (Option<Option<MaterialSource>>, String) {
    let common = tls::CommonTlsContext { tls_certificate_sds_secret_configs: vec![secret], ..Default::default() };
    context(|at| identity(&common, at))
}

#[test]
fn a_secret_is_asked_of_the_control_plane_or_at_a_socket_below_an_allowed_folder() {
    let service = || of_agent(target("unix:/run/certs/socket"), |_| {});
    let ssl = CredentialSpecifier::SslCredentials(SslCredentials::default());
    let local = CredentialSpecifier::LocalCredentials(GoogleLocalCredentials {});
    let token = CallCredentials::default();
    for (secret, problem) in [
        (of_control_plane("s"), None),
        (service(), None),
        (of_agent(target("unix:///run/certs/socket"), |_| {}), None),
        (of_agent(with_credentials(local), |_| {}), None),
        (of_control_plane(""), Some("name: must be set")),
        (tls::SdsSecretConfig { name: "s".into(), sds_config: None }, Some("sds_config: must be set")),
        (of_agent(with_credentials(ssl), |_| {}), Some("channel_credentials: a Unix socket has `local_credentials`")),
        (
            of_agent(GoogleGrpc { call_credentials: vec![token], ..target("unix:/run/certs/socket") }, |_| {}),
            Some("call_credentials: are not supported at a Unix socket"),
        ),
        (
            of_agent(target("unix:/tmp/socket"), |_| {}),
            Some("target_uri: \"/tmp/socket\" is below none of the folders"),
        ),
        (
            of_agent(target("unix:/run/certs/socket"), |api| api.api_type = api_config_source::ApiType::Rest as i32),
            Some("api_type: must be GRPC, and is REST"),
        ),
        (
            of_agent(target("unix:/run/certs/socket"), |api| api.grpc_services.clear()),
            Some("grpc_services: must be one, and there are 0"),
        ),
    ] {
        let (source, said) = identity_of(secret);
        match problem {
            None => {
                assert!(said.lines().all(|line| line.contains(" ignored: ")), "{said}");
                let Some(Some(MaterialSource::Secret(secret))) = source else { panic!("a secret: {source:?}") };
                assert_eq!((&*secret.name, secret.part), ("s", Part::Identity));
                let is_at_socket =
                    matches!(&secret.at, SecretServer::Socket(at) if at.to_string() == "/run/certs/socket");
                assert!(is_at_socket || secret.at == SecretServer::ControlPlane);
            }
            Some(problem) => {
                assert!(said.contains(problem) && said.contains("tls_certificate_sds_secret_configs[0]"), "{said}");
            }
        }
    }
}

/// A context beside a secret.
fn combined(default: tls::CertificateValidationContext) -> tls::CommonTlsContext {
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(default),
        validation_context_sds_secret_config: Some(of_control_plane("s")),
        ..Default::default()
    };
    let kind = Some(ValidationContextType::CombinedValidationContext(combined));
    tls::CommonTlsContext { validation_context_type: kind, ..Default::default() }
}

#[test]
fn of_several_sources_one_is_used_and_the_others_are_listed_or_refused() {
    let Pems { chain, key, .. } = pems();
    let pair = || pair(text(&chain), text(&key));
    let all = tls::CommonTlsContext {
        tls_certificate_provider_instance: instance(),
        tls_certificate_sds_secret_configs: vec![of_control_plane("s")],
        tls_certificates: vec![pair()],
        ..Default::default()
    };
    let (source, said) = context(|at| identity(&all, at));
    assert_eq!(source, Some(Some(MaterialSource::from("default"))));
    for field in ["tls_certificate_sds_secret_configs", "tls_certificates"] {
        assert!(said.contains(&format!("{field} ignored: the certificate comes from elsewhere")), "{said}");
    }
    let two = tls::CommonTlsContext { tls_certificates: vec![pair(), pair()], ..Default::default() };
    let (_, said) = context(|at| identity(&two, at));
    assert!(said.contains("tls_certificates: is one certificate at most, and there are 2"), "{said}");

    // A provider that the default names goes before a secret.
    let provided = tls::CertificateValidationContext { ca_certificate_provider_instance: instance(), ..trusting(None) };
    let (read, said) = context(|at| validation(&combined(provided), Side::Client, at));
    assert_eq!(read.expect("roots").roots, Some(RootsFrom::Source(MaterialSource::from("default"))));
    assert!(said.contains("validation_context_sds_secret_config ignored: the roots come from elsewhere"), "{said}");
    let (read, said) = context(|at| validation(&combined(trusting(text(&chain))), Side::Client, at));
    let Some(RootsFrom::Source(MaterialSource::Secret(secret))) = read.expect("roots").roots else {
        panic!("a secret")
    };
    assert_eq!((secret.part, &*said), (Part::Roots, ""));
}

#[test]
fn a_context_has_the_whole_chain_looked_up_in_its_own_lists_or_its_leaf_alone() {
    let Pems { list, .. } = pems();
    let lists = RevocationLists::from_pem(list.as_bytes()).expect("lists");
    for (only_verify_leaf_cert_crl, lists) in [(false, lists.clone()), (true, lists.leaf_only())] {
        let validated = tls::CertificateValidationContext {
            ca_certificate_provider_instance: instance(),
            crl: text(&list),
            only_verify_leaf_cert_crl,
            ..trusting(None)
        };
        let kind = Some(ValidationContextType::ValidationContext(validated));
        let common = tls::CommonTlsContext { validation_context_type: kind, ..Default::default() };
        for side in [Side::Client, Side::Server] {
            let (read, said) = context(|at| validation(&common, side, at));
            assert_eq!(said, "");
            assert!(read.expect("it is good").revoked.as_ref() == Some(&lists), "{only_verify_leaf_cert_crl}");
        }
    }
}

#[test]
fn a_server_believes_no_roots_of_the_system_and_holds_nobody_to_names_without_roots() {
    let context_of = |validation| {
        let kind = Some(ValidationContextType::ValidationContext(validation));
        tls::CommonTlsContext { validation_context_type: kind, ..Default::default() }
    };
    let system = tls::CertificateValidationContext { system_root_certs: Some(Default::default()), ..trusting(None) };
    let named = tls::CertificateValidationContext { match_subject_alt_names: exact("a"), ..trusting(None) };
    for (validated, problem) in [
        (system, "system_root_certs: is for clients (A82)"),
        (named, "callers are to be held to names or revocation lists, and no roots vouch for them"),
    ] {
        let (_, said) = context(|at| validation(&context_of(validated), Side::Server, at));
        assert!(said.contains(problem), "{said}");
    }
    let (_, said) = context(|at| validation(&context_of(trusting(None)), Side::Client, at));
    assert!(said.contains("no roots to trust"), "{said}");
}
