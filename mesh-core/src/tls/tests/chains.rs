//! Certificates and chains that peers show, good and hostile ones, and what each way to verify them says of it.

use std::sync::Arc;

use rcgen::KeyPair;

use super::forge::{
    BASIC_CONSTRAINTS, Draft, ECDSA_SHA1, EXTENDED_KEY_USAGE, FOR_CLIENTS, FOR_CODE, FOR_SERVERS, Issuer, Name,
    RSA_MD5, SIGNS, SIGNS_CERTIFICATES, SIGNS_CRLS, SUBJECT_ALT_NAME, UNKNOWN, authority, common_name, der, extension,
    general_names, key_usage, name_constraints, names, purposes,
};

pub(crate) const ID: &str = "spiffe://cluster.local/ns/shop/sa/server";
pub(crate) const HOST: &str = "server.test";

/// How a peer is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An endpoint, by a file of roots of the own trust domain, whoever it is (A29).
    File,
    /// An endpoint by such a file that must be called [`ID`].
    Named,
    /// An endpoint, by the roots of each trust domain (A87).
    Map,
    /// An endpoint by the system's roots (A82) that must be called [`HOST`].
    Web,
    /// An endpoint by the system's roots that is asked for as [`HOST`] (A101).
    Asked,
    /// A caller of a server, by a file of roots.
    Caller,
    /// A caller, by the roots of each trust domain.
    CallerMap,
}

use Mode::*;

pub(crate) const ALL: &[Mode] = &[File, Named, Map, Web, Asked, Caller, CallerMap];
const MAPS: &[Mode] = &[Map, CallerMap];
const WEB: &[Mode] = &[Web, Asked];
const FILES: &[Mode] = &[File, Named, Caller];
const ENDPOINTS: &[Mode] = &[File, Named, Map, Web, Asked];
const CALLERS: &[Mode] = &[Caller, CallerMap];

/// What a peer shows, and who refuses it.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    /// The leaf first, in DER.
    pub(crate) chain: Vec<Vec<u8>>,
    /// Those that refuse it with what they say; all others take it.
    refused: &'static [(&'static [Mode], &'static str)],
}

/// The authorities of the table.
pub(crate) struct Pki {
    /// That of `cluster.local`, which the system trusts, too.
    pub(crate) root: Vec<u8>,
    /// That of `partner.example`, which only the bundle map knows.
    pub(crate) partner_root: Vec<u8>,
    /// The key of every leaf.
    pub(crate) key: Arc<KeyPair>,
    authority: Issuer,
    partner: Issuer,
    stranger: Issuer,
}

impl Row {
    /// What is said of it; `None`: it is taken.
    pub(crate) fn refused_by(&self, mode: Mode) -> Option<&'static str> {
        self.refused.iter().find(|(modes, _)| modes.contains(&mode)).map(|(_, why)| *why)
    }
}

fn issuer(name: &str) -> Issuer {
    Issuer { name: common_name(name), key: Arc::new(KeyPair::generate().expect("a key")) }
}

fn for_both() -> Vec<u8> {
    purposes(&[FOR_SERVERS, FOR_CLIENTS])
}

/// The usual extensions of an authority.
fn of_authority(below: Option<u8>) -> Vec<Vec<u8>> {
    vec![authority(below), key_usage(SIGNS_CERTIFICATES | SIGNS_CRLS)]
}

impl Pki {
    pub(crate) fn new() -> Self {
        let (authority, partner, stranger) = (issuer("root"), issuer("partner"), issuer("root"));
        let root = |issuer: &Issuer, name| Draft::new(name, &issuer.key, of_authority(None)).signed_by(issuer);
        let key = Arc::new(KeyPair::generate().expect("a key"));
        let (root, partner_root) = (root(&authority, "root"), root(&partner, "partner"));
        Self { root, partner_root, key, authority, partner, stranger }
    }

    /// A leaf with these names, and whatever else is usual.
    fn leaf(&self, its: &[Name<'_>]) -> Draft {
        Draft::new("leaf", &self.key, vec![names(its), for_both(), key_usage(SIGNS)])
    }

    /// One that is good in every way.
    fn good(&self) -> Draft {
        self.leaf(&[Name::Uri(ID), Name::Dns(HOST)])
    }

    /// The good one without extensions, and with these.
    fn plain(&self, extensions: Vec<Vec<u8>>) -> Draft {
        self.good().with(|draft| draft.extensions = extensions)
    }

    fn sign(&self, draft: &Draft) -> Vec<Vec<u8>> {
        vec![draft.signed_by(&self.authority)]
    }

    /// An authority below an issuer, and its certificate.
    fn below(&self, issuer: &Issuer, name: &str, extensions: Vec<Vec<u8>>) -> (Issuer, Vec<u8>) {
        let own = self::issuer(name);
        let certificate = Draft::new(name, &own.key, extensions).signed_by(issuer);
        (own, certificate)
    }

    /// The good leaf below one authority with these extensions.
    fn through(&self, extensions: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        self.through_changed(extensions, |_| {})
    }

    fn through_changed(&self, extensions: Vec<Vec<u8>>, change: impl FnOnce(&mut Draft)) -> Vec<Vec<u8>> {
        let own = issuer("intermediate");
        let draft = Draft::new("intermediate", &own.key, extensions).with(change);
        vec![self.good().signed_by(&own), draft.signed_by(&self.authority)]
    }

    /// The good leaf at the end of so many authorities.
    fn deep(&self, authorities: usize) -> Vec<Vec<u8>> {
        let mut chain = Vec::new();
        let mut last = Issuer { name: self.authority.name.clone(), key: self.authority.key.clone() };
        for depth in 0..authorities {
            let (own, certificate) = self.below(&last, &format!("authority {depth}"), of_authority(None));
            chain.insert(0, certificate);
            last = own;
        }
        chain.insert(0, self.good().signed_by(&last));
        chain
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = self.times();
        rows.extend(self.leaves());
        rows.extend(self.uses());
        rows.extend(self.ids());
        rows.extend(self.hosts());
        rows.extend(self.authorities());
        rows.extend(self.paths());
        rows.extend(self.encodings());
        rows.extend(self.algorithms());
        rows.extend(self.extensions());
        rows
    }

    fn times(&self) -> Vec<Row> {
        let between = |from: &str, until: &str| {
            let (from, until) = (from.to_owned(), until.to_owned());
            self.sign(&self.good().with(|draft| (draft.from, draft.until) = (from, until)))
        };
        let expired = "200102000000Z";
        vec![
            row("a good one", self.sign(&self.good()), &[]),
            row("expired", between("200101000000Z", expired), &[(ALL, "expired")]),
            row("not yet valid", between("480101000000Z", "490101000000Z"), &[(ALL, "not valid yet")]),
            row("ends before it begins", between("300101000000Z", "210101000000Z"), &[(ALL, "Expired")]),
            row("times in full", between("20200101000000Z", "20600101000000Z"), &[]),
            row("year 9999", between("200101000000Z", "99991231235959Z"), &[]),
            row(
                "a time of another zone",
                between("200101000000Z", "490101000000+0100"),
                &[(ALL, "a time that is none")],
            ),
            row("the 32nd of a month", between("200101000000Z", "490132000000Z"), &[(ALL, "a time that is none")]),
            row("the 30th of February", between("200101000000Z", "490230000000Z"), &[(ALL, "BadEncoding")]),
            row("a time without seconds", between("200101000000Z", "4901010000Z"), &[(ALL, "a time that is none")]),
            row(
                "below an expired authority",
                self.through_changed(of_authority(None), |draft| draft.until = expired.to_owned()),
                &[(ALL, "expired")],
            ),
            row(
                "below an authority that is not valid yet",
                self.through_changed(of_authority(None), |draft| draft.from = "480101000000Z".to_owned()),
                &[(ALL, "not valid yet")],
            ),
        ]
    }

    /// Leaves that are something else.
    fn leaves(&self) -> Vec<Row> {
        let its = || names(&[Name::Uri(ID), Name::Dns(HOST)]);
        let leaf = |extensions: Vec<Vec<u8>>| self.sign(&self.plain(extensions));
        vec![
            row("an authority as leaf", leaf(vec![its(), for_both(), authority(None)]), &[(ALL, "authority's own")]),
            row(
                "an authority without an ID as leaf",
                leaf(vec![names(&[Name::Dns(HOST)]), authority(None)]),
                &[(MAPS, "authority's own"), (ALL, "CaUsedAsEndEntity")],
            ),
            row(
                "a key that signs certificates",
                leaf(vec![its(), key_usage(SIGNS | SIGNS_CERTIFICATES)]),
                &[(ALL, "may sign certificates")],
            ),
            row("a key that signs CRLs", leaf(vec![its(), key_usage(SIGNS | SIGNS_CRLS)]), &[(ALL, "or CRLs")]),
            row("the root itself", vec![self.root.clone()], &[(MAPS, "authority's own"), (ALL, "CaUsedAsEndEntity")]),
            row("no extension at all", leaf(vec![]), &[(MAPS, "no SPIFFE ID"), (&[Named, Web, Asked], "nobody")]),
            row(
                "self-signed",
                vec![self.good().signed_by(&Issuer { name: common_name("leaf"), key: self.key.clone() })],
                &[(ALL, "UnknownIssuer")],
            ),
            row(
                "of another authority of the same name",
                vec![self.good().signed_by(&self.stranger)],
                &[(ALL, "BadSignature")],
            ),
            row("of an unknown authority", vec![self.good().signed_by(&issuer("unknown"))], &[(ALL, "UnknownIssuer")]),
            row(
                "of no issuer",
                self.sign(&self.good().with(|draft| draft.issuer = common_name(""))),
                &[(ALL, "UnknownIssuer")],
            ),
        ]
    }

    /// For what the key may be used.
    fn uses(&self) -> Vec<Row> {
        let its = || names(&[Name::Uri(ID), Name::Dns(HOST)]);
        let used = |purposes: Vec<u8>| self.sign(&self.plain(vec![its(), purposes]));
        let any = extension(EXTENDED_KEY_USAGE, false, &der(0x30, &[&[6, 4, 0x55, 0x1d, 0x25, 0]]));
        let empty = extension(EXTENDED_KEY_USAGE, false, &der(0x30, &[]));
        vec![
            row("for no purpose in particular", self.sign(&self.plain(vec![its()])), &[]),
            row("for servers alone", used(purposes(&[FOR_SERVERS])), &[(CALLERS, "extended key usage")]),
            row("for clients alone", used(purposes(&[FOR_CLIENTS])), &[(ENDPOINTS, "extended key usage")]),
            row("for code alone", used(purposes(&[FOR_CODE])), &[(ALL, "extended key usage")]),
            row("for any purpose by its number", used(any), &[(ALL, "extended key usage")]),
            row("for an empty list of purposes", used(empty), &[(ALL, "EmptyEkuExtension")]),
            row(
                "below an authority for servers alone",
                self.through([of_authority(None), vec![purposes(&[FOR_SERVERS])]].concat()),
                &[(CALLERS, "extended key usage")],
            ),
            row(
                "below an authority for code alone",
                self.through([of_authority(None), vec![purposes(&[FOR_CODE])]].concat()),
                &[(ALL, "extended key usage")],
            ),
        ]
    }

    /// SPIFFE IDs, and what is like them.
    fn ids(&self) -> Vec<Row> {
        let id =
            |what, uri: &str, refused| row(what, self.sign(&self.leaf(&[Name::Uri(uri), Name::Dns(HOST)])), refused);
        let long_path = format!("spiffe://cluster.local/{}", "p".repeat(2048));
        let long_domain = format!("spiffe://{}/p", "d".repeat(256));
        let foreign = "spiffe://partner.example/ns/x/sa/y";
        const OF_DOMAIN: &str = "the roots are those of trust domain cluster.local";
        let both = [Name::Uri(ID), Name::Uri("spiffe://cluster.local/ns/shop/sa/admin"), Name::Dns(HOST)];
        let mixed = [Name::Uri(ID), Name::Uri("https://server.test/"), Name::Dns(HOST)];
        let reversed = [Name::Uri("https://server.test/"), Name::Uri(ID), Name::Dns(HOST)];
        let same = [Name::Uri(ID), Name::Uri(ID), Name::Dns(HOST)];
        vec![
            id("another workload", "spiffe://cluster.local/ns/shop/sa/other", &[(&[Named], "another peer")]),
            id("the trust domain itself", "spiffe://cluster.local", &[(&[Named], "another peer")]),
            id(
                "an ID with more at the end",
                "spiffe://cluster.local/ns/shop/sa/server2",
                &[(&[Named], "another peer")],
            ),
            id("an ID in another case", "spiffe://cluster.local/ns/shop/sa/Server", &[(&[Named], "another peer")]),
            row("two IDs", self.sign(&self.leaf(&both)), &[(ALL, "has 2 URIs")]),
            row("an ID and another URI", self.sign(&self.leaf(&mixed)), &[(ALL, "has 2 URIs")]),
            row("another URI and an ID", self.sign(&self.leaf(&reversed)), &[(ALL, "has 2 URIs")]),
            row("the ID twice", self.sign(&self.leaf(&same)), &[(ALL, "has 2 URIs")]),
            id(
                "another URI alone",
                "https://cluster.local/ns/shop/sa/server",
                &[(MAPS, "does not start with"), (&[Named], "another peer")],
            ),
            id("with a user", "spiffe://admin@cluster.local/p", &[(ALL, "a trust domain is made of")]),
            id("with a port", "spiffe://cluster.local:443/p", &[(ALL, "a trust domain is made of")]),
            id("with a query", "spiffe://cluster.local/p?q=1", &[(ALL, "a path is made of")]),
            id("with a query and no path", "spiffe://cluster.local?q", &[(ALL, "a trust domain is made of")]),
            id("with a fragment", "spiffe://cluster.local/p#f", &[(ALL, "a path is made of")]),
            id("percent-encoded", "spiffe://cluster.local/%6e%73", &[(ALL, "a path is made of")]),
            id("a percent-encoded domain", "spiffe://cluster%2elocal/p", &[(ALL, "a trust domain is made of")]),
            id("a domain in upper case", "spiffe://Cluster.Local/p", &[(ALL, "a trust domain is made of")]),
            id("a scheme in upper case", "SPIFFE://cluster.local/p", &[(ALL, "does not start with")]),
            id("a scheme in mixed case", "Spiffe://cluster.local/p", &[(ALL, "does not start with")]),
            id("one slash after the scheme", "spiffe:/cluster.local/p", &[(ALL, "does not start with")]),
            id("no slash after the scheme", "spiffe:cluster.local", &[(ALL, "does not start with")]),
            id("three slashes after the scheme", "spiffe:///cluster.local/p", &[(ALL, "no trust domain")]),
            id("nothing after the scheme", "spiffe://", &[(ALL, "no trust domain")]),
            id("a path of a slash", "spiffe://cluster.local/", &[(ALL, "an empty segment")]),
            id("a slash at the end", "spiffe://cluster.local/ns/", &[(ALL, "an empty segment")]),
            id("an empty segment", "spiffe://cluster.local/ns//sa", &[(ALL, "an empty segment")]),
            id("a dot segment", "spiffe://cluster.local/./ns", &[(ALL, "a relative segment")]),
            id("two dots", "spiffe://cluster.local/other/../ns", &[(ALL, "a relative segment")]),
            id("dots at the end", "spiffe://cluster.local/ns/..", &[(ALL, "a relative segment")]),
            id("a space", "spiffe://cluster.local/n s", &[(ALL, "a path is made of")]),
            id("a line break", "spiffe://cluster.local/ns\n/sa", &[(ALL, "a path is made of")]),
            id("a wildcard", "spiffe://cluster.local/*", &[(ALL, "a path is made of")]),
            id("a wildcard domain", "spiffe://*/p", &[(ALL, "a trust domain is made of")]),
            id("a backslash", "spiffe://cluster.local\\@evil/p", &[(ALL, "a trust domain is made of")]),
            id("brackets", "spiffe://[::1]/p", &[(ALL, "a trust domain is made of")]),
            id("a tilde", "spiffe://cluster.local/~p", &[(ALL, "a path is made of")]),
            id("too long", &long_path, &[(ALL, "longer than 2048")]),
            id("a domain that is too long", &long_domain, &[(ALL, "longer than 255")]),
            id("another trust domain", foreign, &[(FILES, OF_DOMAIN), (MAPS, "UnknownIssuer")]),
            id("a domain below the own", "spiffe://a.cluster.local/p", &[(FILES, OF_DOMAIN), (MAPS, "no roots for")]),
            id(
                "the own domain below another",
                "spiffe://cluster.local.evil/p",
                &[(FILES, OF_DOMAIN), (MAPS, "no roots for")],
            ),
            id("the own domain with a dot", "spiffe://cluster.local./p", &[(FILES, OF_DOMAIN), (MAPS, "no roots for")]),
            row(
                "of the partner's own authority",
                vec![self.leaf(&[Name::Uri(foreign), Name::Dns(HOST)]).signed_by(&self.partner)],
                &[(FILES, OF_DOMAIN), (WEB, "UnknownIssuer")],
            ),
            row(
                "of the own domain by the partner's authority",
                vec![self.good().signed_by(&self.partner)],
                &[(ALL, "UnknownIssuer")],
            ),
            row("a NUL in the ID", self.raw(0x86, b"spiffe://cluster.local/ns\0.evil"), &[(ALL, "not ASCII")]),
            row(
                "an ID of other letters",
                self.raw(0x86, "spiffe://cluster.l\u{f6}cal/p".as_bytes()),
                &[(ALL, "not ASCII")],
            ),
            row("an ID that is no UTF-8", self.raw(0x86, b"spiffe://cluster.local/\xff"), &[(ALL, "not ASCII")]),
            row("the ID as a DNS name", self.sign(&self.leaf(&[Name::Dns(ID)])), &[(MAPS, "no SPIFFE ID"), (WEB, "")]),
            row(
                "the ID as an address of mail",
                self.sign(&self.leaf(&[Name::Email(ID)])),
                &[(MAPS, "no SPIFFE ID"), (WEB, "")],
            ),
            row(
                "the ID as the subject alone",
                self.sign(&Draft::new(ID, &self.key, vec![for_both()])),
                &[(MAPS, "no SPIFFE ID"), (&[Named, Web, Asked], "nobody")],
            ),
            row(
                "an empty list of names",
                self.sign(&self.leaf(&[])),
                &[(MAPS, "no SPIFFE ID"), (&[Named, Web, Asked], "nobody")],
            ),
        ]
    }

    /// A leaf with one more name of any tag.
    fn raw(&self, tag: u8, content: &[u8]) -> Vec<Vec<u8>> {
        self.sign(&self.leaf(&[Name::Raw(tag, content), Name::Dns(HOST)]))
    }

    /// Names of hosts.
    fn hosts(&self) -> Vec<Row> {
        const NAMED: (&[Mode], &str) = (&[Named], "another peer");
        const NO_ID: (&[Mode], &str) = (MAPS, "no SPIFFE ID");
        const REFUSED: &[(&[Mode], &str)] = &[NAMED, NO_ID, (&[Web], "another peer"), (&[Asked], "was asked for")];
        const TAKEN: &[(&[Mode], &str)] = &[NAMED, NO_ID];
        let host = |what, name: Name<'_>, refused| row(what, self.sign(&self.leaf(&[name])), refused);
        vec![
            host("the host alone", Name::Dns(HOST), TAKEN),
            host("the host in upper case", Name::Dns("SERVER.TEST"), TAKEN),
            host("a wildcard", Name::Dns("*.test"), TAKEN),
            host("another host", Name::Dns("other.test"), REFUSED),
            host("a host above", Name::Dns("test"), REFUSED),
            host("a host below", Name::Dns("a.server.test"), REFUSED),
            host("a wildcard of the host itself", Name::Dns("*.server.test"), REFUSED),
            host("a wildcard for all", Name::Dns("*"), REFUSED),
            host("a wildcard for two labels", Name::Dns("*.*"), REFUSED),
            host("a wildcard within a label", Name::Dns("serv*.test"), REFUSED),
            host("a wildcard that starts a label", Name::Dns("*er.test"), REFUSED),
            host("a wildcard at the end", Name::Dns("server.*"), REFUSED),
            host("a host with a space", Name::Dns("server.test "), REFUSED),
            host("a host with two dots", Name::Dns("server..test"), REFUSED),
            host("a dot before the host", Name::Dns(".server.test"), REFUSED),
            host("no host", Name::Dns(""), REFUSED),
            host("the host as mail", Name::Email("server.test"), &[NAMED, NO_ID, (&[Asked], "was asked for")]),
            host("mail of the host", Name::Email("a@server.test"), REFUSED),
            host("the host as a URI", Name::Uri("server.test"), &[NAMED, (MAPS, "does not start with")]),
            host(
                "a URI of the host",
                Name::Uri("https://server.test"),
                &[NAMED, (MAPS, "does not start with"), (&[Web], "another peer"), (&[Asked], "was asked for")],
            ),
            host("an address", Name::Ip(&[127, 0, 0, 1]), REFUSED),
            row("an address of three bytes", self.raw(0x87, &[127, 0, 1]), &[(ALL, "another length")]),
            row("an address with its mask", self.raw(0x87, &[127, 0, 0, 1, 255, 0, 0, 0]), &[(ALL, "another length")]),
            row("a NUL in a host", self.raw(0x82, b"server.test\0.evil.test"), &[(ALL, "not ASCII")]),
            row("a host of other letters", self.raw(0x82, "s\u{e9}rver.test".as_bytes()), &[(ALL, "not ASCII")]),
            row(
                "the host as the subject alone",
                self.sign(&Draft::new(HOST, &self.key, vec![for_both()])),
                &[NO_ID, (&[Named, Web, Asked], "nobody")],
            ),
            row(
                "the host as the subject beside another",
                self.sign(&Draft::new(HOST, &self.key, vec![names(&[Name::Dns("other.test")])])),
                REFUSED,
            ),
        ]
    }

    /// Who may issue.
    fn authorities(&self) -> Vec<Row> {
        let constrained = |permitted: &[Name<'_>], excluded: &[Name<'_>]| {
            self.through([of_authority(None), vec![name_constraints(permitted, excluded)]].concat())
        };
        let leaf = self.below(&self.authority, "a leaf", vec![names(&[Name::Uri(ID)]), for_both()]);
        let not = extension(BASIC_CONSTRAINTS, true, &der(0x30, &[]));
        vec![
            row("below an authority", self.through(of_authority(None)), &[]),
            row("below a leaf", vec![self.good().signed_by(&leaf.0), leaf.1], &[(ALL, "EndEntityUsedAsCa")]),
            row("below one that is no authority by its word", self.through(vec![not]), &[(ALL, "EndEntityUsedAsCa")]),
            row(
                "below one that signs no certificates",
                self.through(vec![authority(None), key_usage(SIGNS)]),
                &[(ALL, "UnknownIssuer")],
            ),
            row(
                "below one that signs CRLs alone",
                self.through(vec![authority(None), key_usage(SIGNS_CRLS)]),
                &[(ALL, "UnknownIssuer")],
            ),
            row("below one for all uses", self.through(vec![authority(None)]), &[]),
            row("below one with a path of 0", self.through(of_authority(Some(0))), &[]),
            row(
                "below two with a path of 0",
                self.two(of_authority(Some(0)), of_authority(None)),
                &[(ALL, "PathLenConstraintViolated")],
            ),
            row("below two with a path of 1", self.two(of_authority(Some(1)), of_authority(Some(0))), &[]),
            row("a host that is permitted", constrained(&[Name::Dns("test")], &[]), &[]),
            row(
                "a host that is not permitted",
                constrained(&[Name::Dns("other")], &[]),
                &[(ALL, "NameConstraintViolation")],
            ),
            row(
                "a host that is excluded",
                constrained(&[], &[Name::Dns("server.test")]),
                &[(ALL, "NameConstraintViolation")],
            ),
            row(
                "an ID that is permitted",
                constrained(&[Name::Uri("cluster.local")], &[]),
                &[(ALL, "NameConstraintViolation")],
            ),
            row(
                "an ID that is excluded",
                constrained(&[], &[Name::Uri("cluster.local")]),
                &[(ALL, "NameConstraintViolation")],
            ),
            row("constraints on addresses alone", constrained(&[Name::Ip(&[10, 0, 0, 0, 255, 0, 0, 0])], &[]), &[]),
            row("empty constraints", constrained(&[], &[]), &[]),
            row(
                "an authority with an unknown critical extension",
                self.through([of_authority(None), vec![extension(UNKNOWN, true, &[5, 0])]].concat()),
                &[(ALL, "UnsupportedCriticalExtension")],
            ),
        ]
    }

    /// The good leaf below two authorities.
    fn two(&self, upper: Vec<Vec<u8>>, lower: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let (first, upper) = self.below(&self.authority, "upper", upper);
        let (second, lower) = self.below(&first, "lower", lower);
        vec![self.good().signed_by(&second), lower, upper]
    }

    /// Chains as a whole.
    fn paths(&self) -> Vec<Row> {
        let good = || self.good().signed_by(&self.authority);
        let crossed = |by: &[&Issuer]| {
            let own = issuer("crossed");
            let draft = Draft::new("crossed", &own.key, of_authority(None));
            let mut chain = vec![self.good().signed_by(&own)];
            chain.extend(by.iter().map(|by| draft.signed_by(by)));
            chain
        };
        let (a, b) = (issuer("a"), issuer("b"));
        let of = |of: &Issuer, name, by: &Issuer| Draft::new(name, &of.key, of_authority(None)).signed_by(by);
        let looped = vec![self.good().signed_by(&a), of(&a, "a", &b), of(&b, "b", &a)];
        let mut reversed = self.deep(3);
        reversed[1..].reverse();
        let mut missing = self.deep(3);
        missing.remove(2);
        let namesakes = || (0..150).map(|_| of(&issuer("root"), "root", &issuer("root")));
        vec![
            row("with the root", vec![good(), self.root.clone()], &[]),
            row("with the root of another", vec![good(), self.partner_root.clone()], &[]),
            row("twice", vec![good(), good()], &[]),
            row("below six authorities", self.deep(6), &[]),
            row("below seven authorities", self.deep(7), &[(ALL, "MaximumPathDepthExceeded")]),
            row("below twenty authorities", self.deep(20), &[(ALL, "MaximumPathDepthExceeded")]),
            row("authorities in another order", reversed, &[]),
            row("an authority is missing", missing, &[(ALL, "UnknownIssuer")]),
            row("the authority is not sent", self.deep(1)[..1].to_vec(), &[(ALL, "UnknownIssuer")]),
            row("crossed, known and unknown", crossed(&[&self.authority, &self.stranger]), &[]),
            row("crossed, unknown and known", crossed(&[&self.stranger, &self.authority]), &[]),
            row("crossed by strangers", crossed(&[&self.stranger, &self.stranger]), &[(ALL, "BadSignature")]),
            row("a loop", looped, &[(ALL, "UnknownIssuer")]),
            row(
                "authorities by the hundred that are called as the root",
                std::iter::once(self.good().signed_by(&self.stranger)).chain(namesakes()).collect(),
                &[(ALL, "MaximumSignatureChecksExceeded")],
            ),
            row("rubbish behind a good one", vec![good(), vec![0xff; 100]], &[]),
            row(
                "rubbish between",
                {
                    let mut chain = self.deep(1);
                    chain.insert(1, vec![0x30, 0]);
                    chain
                },
                &[],
            ),
        ]
    }

    /// DER that is not as it must be.
    fn encodings(&self) -> Vec<Row> {
        let good = self.good().signed_by(&self.authority);
        let changed = |change: fn(&mut Draft)| self.sign(&self.good().with(change));
        let with = |more: Vec<u8>| self.sign(&self.good().with(|draft| draft.extensions.push(more)));
        let its = |value: &[u8]| self.sign(&self.plain(vec![extension(SUBJECT_ALT_NAME, false, value)]));
        let mut list = general_names(&[Name::Uri(ID), Name::Dns(HOST)]);
        list.extend([0; 4]);
        let mut forged = good.clone();
        *forged.last_mut().expect("bytes") ^= 1;
        let at = good.windows(HOST.len()).position(|bytes| bytes == HOST.as_bytes()).expect("its name");
        let mut renamed = good.clone();
        renamed[at] = b'z';
        let long: Vec<u8> = [vec![0x30, 0x83, 0, good.len() as u8, 0], good.clone()].concat();
        let many: Vec<Vec<u8>> = (0..500).map(|n| format!("h{n}.test").into_bytes()).collect();
        let many: Vec<Name<'_>> =
            many.iter().map(|name| Name::Raw(0x82, name)).chain([Name::Uri(ID), Name::Dns(HOST)]).collect();
        vec![
            row("rubbish", vec![vec![0xde; 300]], &[(ALL, "")]),
            row("text", vec![b"-----BEGIN CERTIFICATE-----".to_vec()], &[(ALL, "")]),
            row("a certificate cut short", vec![good[..good.len() - 1].to_vec()], &[(ALL, "ends too early")]),
            row("half a certificate", vec![good[..good.len() / 2].to_vec()], &[(ALL, "ends too early")]),
            row("a byte more", vec![[&*good, &[0]].concat()], &[(ALL, "BadEncoding")]),
            row("a length in too many bytes", vec![long], &[(ALL, "a length in more bytes than needed")]),
            row(
                "a length without an end",
                vec![[&[0x30, 0x80], &good[4..], &[0, 0]].concat()],
                &[(ALL, "a length that is none")],
            ),
            row("a changed signature", vec![forged], &[(ALL, "BadSignature")]),
            row("a changed name", vec![renamed], &[(ALL, "BadSignature")]),
            row("version 1", changed(|draft| draft.version = None), &[(ALL, "UnsupportedCertVersion")]),
            row("version 2", changed(|draft| draft.version = Some(1)), &[(ALL, "UnsupportedCertVersion")]),
            row("version 4", changed(|draft| draft.version = Some(3)), &[(ALL, "UnsupportedCertVersion")]),
            row(
                "SHA-1",
                changed(|draft| (draft.algorithm, draft.outer_algorithm) = (ECDSA_SHA1.to_vec(), ECDSA_SHA1.to_vec())),
                &[(ALL, "UnsupportedSignatureAlgorithm")],
            ),
            row(
                "MD5",
                changed(|draft| (draft.algorithm, draft.outer_algorithm) = (RSA_MD5.to_vec(), RSA_MD5.to_vec())),
                &[(ALL, "UnsupportedSignatureAlgorithm")],
            ),
            row(
                "two algorithms",
                changed(|draft| draft.algorithm = ECDSA_SHA1.to_vec()),
                &[(ALL, "SignatureAlgorithmMismatch")],
            ),
            row(
                "below an authority by SHA-1",
                self.through_changed(of_authority(None), |draft| {
                    (draft.algorithm, draft.outer_algorithm) = (ECDSA_SHA1.to_vec(), ECDSA_SHA1.to_vec());
                }),
                &[(ALL, "UnsupportedSignatureAlgorithm")],
            ),
            row("a serial number of 0", changed(|draft| draft.serial = vec![0]), &[]),
            row("a serial number of 30 bytes", changed(|draft| draft.serial = vec![0x11; 30]), &[]),
            row(
                "an unknown critical extension",
                with(extension(UNKNOWN, true, &[5, 0])),
                &[(ALL, "UnsupportedCriticalExtension")],
            ),
            row("an unknown extension", with(extension(UNKNOWN, false, &[5, 0])), &[]),
            row("two lists of names", with(names(&[Name::Uri(ID)])), &[(ALL, "two extensions of a kind")]),
            row("two key usages", with(key_usage(SIGNS)), &[(ALL, "two extensions of a kind")]),
            row("two lists of purposes", with(purposes(&[FOR_SERVERS])), &[(ALL, "two extensions of a kind")]),
            row(
                "an unknown extension twice",
                {
                    let twice = || extension(UNKNOWN, false, &[5, 0]);
                    self.sign(&self.good().with(|draft| draft.extensions.extend([twice(), twice()])))
                },
                &[(ALL, "two extensions of a kind")],
            ),
            row("bytes behind the names", its(&list), &[(ALL, "")]),
            row("names that are none", its(&[5, 0]), &[(ALL, "another field than expected")]),
            row("names that end too early", its(&[0x30, 20, 0x82, 30, b'a']), &[(ALL, "ends too early")]),
            row(
                "an unknown kind of name beside",
                self.sign(&self.leaf(&[Name::Uri(ID), Name::Dns(HOST), Name::Raw(0x88, &[0x2a, 3])])),
                &[],
            ),
            row("five hundred names", self.sign(&self.leaf(&many)), &[]),
        ]
    }

    /// Signatures by what is too weak, or nothing that is known.
    fn algorithms(&self) -> Vec<Row> {
        const UNSUPPORTED: &[(&[Mode], &str)] = &[(ALL, "UnsupportedSignatureAlgorithm")];
        let rsa = |last: u8| der(0x30, &[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, last], &[5, 0]]);
        let ecdsa = |last: u8| der(0x30, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, last]]);
        let leaf = |algorithm: Vec<u8>| {
            let by = |draft: &mut Draft| (draft.algorithm, draft.outer_algorithm) = (algorithm.clone(), algorithm);
            self.sign(&self.good().with(by))
        };
        let above = |algorithm: Vec<u8>| {
            let by = |draft: &mut Draft| (draft.algorithm, draft.outer_algorithm) = (algorithm.clone(), algorithm);
            self.through_changed(of_authority(None), by)
        };
        // A PSS without parameters is one with SHA-1 (RFC 4055, 3.1).
        let pss = der(0x30, &[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 10], &der(0x30, &[])]);
        vec![
            row("MD2 and RSA", leaf(rsa(2)), UNSUPPORTED),
            row("MD4 and RSA", leaf(rsa(3)), UNSUPPORTED),
            row("SHA-1 and RSA", leaf(rsa(5)), UNSUPPORTED),
            row("SHA-224 and RSA", leaf(rsa(14)), UNSUPPORTED),
            row("RSA itself", leaf(rsa(1)), UNSUPPORTED),
            row("SHA-256 and RSA of a key that is none", leaf(rsa(11)), UNSUPPORTED),
            row("PSS by SHA-1", leaf(pss), UNSUPPORTED),
            row("SHA-224 and ECDSA", leaf(ecdsa(1)), UNSUPPORTED),
            row("SHA-512 and ECDSA of a key of P-256", leaf(ecdsa(4)), &[(ALL, "")]),
            row("SHA-1 and DSA", leaf(der(0x30, &[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3]])), UNSUPPORTED),
            row("Ed448", leaf(der(0x30, &[&[6, 3, 0x2b, 0x65, 0x71]])), UNSUPPORTED),
            row("no algorithm", leaf(der(0x30, &[])), UNSUPPORTED),
            row("below an authority by MD5", above(RSA_MD5.to_vec()), UNSUPPORTED),
            row("below an authority by SHA-1 and RSA", above(rsa(5)), UNSUPPORTED),
        ]
    }

    /// What else is said of certificates, and for what.
    fn extensions(&self) -> Vec<Row> {
        const CRITICAL: &[(&[Mode], &str)] = &[(ALL, "UnsupportedCriticalExtension")];
        let with = |more: Vec<u8>| self.sign(&self.good().with(|draft| draft.extensions.push(more)));
        let its = || names(&[Name::Uri(ID), Name::Dns(HOST)]);
        let used = |purposes: Vec<u8>| self.sign(&self.plain(vec![its(), purposes]));
        let numbers = |is_critical: bool, numbers: &[&[u8]]| {
            let numbers: Vec<Vec<u8>> = numbers.iter().map(|number| der(6, &[number])).collect();
            extension(EXTENDED_KEY_USAGE, is_critical, &der(0x30, &[&numbers.concat()]))
        };
        let for_both: [&[u8]; 2] = [&[0x2b, 6, 1, 5, 5, 7, 3, FOR_SERVERS], &[0x2b, 6, 1, 5, 5, 7, 3, FOR_CLIENTS]];
        let any: &[u8] = &[0x55, 0x1d, 0x25, 0];
        let above = |more: Vec<u8>| self.through([of_authority(None), vec![more]].concat());
        let constrained = |permitted: &[Name<'_>], excluded: &[Name<'_>]| above(name_constraints(permitted, excluded));
        // `id-ce` is 2.5.29.
        let known = |last: u8, is_critical: bool, value: &[u8]| extension(&[0x55, 0x1d, last], is_critical, value);
        let policies = der(0x30, &[&der(0x30, &[&[6, 4, 0x55, 0x1d, 0x20, 0]])]);
        // `id-pe-tlsfeature` with `status_request`: a peer that staples nothing should be refused, but OCSP is not asked.
        let must_staple: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 24];
        let feature = der(0x30, &[&[2, 1, 5]]);
        // That of a certificate which is none yet (RFC 6962, 3.1).
        let poison: &[u8] = &[0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 3];
        let ten: &[u8] = &[10, 0, 0, 0, 255, 0, 0, 0];
        let at = |host: &str, address: &[u8]| {
            let constraints = name_constraints(&[Name::Ip(ten)], &[]);
            let own = self.below(&self.authority, "of addresses", [of_authority(None), vec![constraints]].concat());
            vec![self.leaf(&[Name::Uri(ID), Name::Dns(host), Name::Ip(address)]).signed_by(&own.0), own.1]
        };
        vec![
            row("purposes that are critical", used(numbers(true, &for_both)), &[]),
            row("both purposes and any", used(numbers(false, &[for_both[0], for_both[1], any])), &[]),
            row("both purposes, each twice", used(numbers(false, &[for_both, for_both].concat())), &[]),
            row("for OCSP alone", used(purposes(&[9])), &[(ALL, "extended key usage")]),
            row("for time stamps alone", used(purposes(&[8])), &[(ALL, "extended key usage")]),
            row("for mail alone", used(purposes(&[4])), &[(ALL, "extended key usage")]),
            row("for a purpose that nobody knows", used(numbers(true, &[UNKNOWN])), &[(ALL, "extended key usage")]),
            row("purposes that are no list", used(extension(EXTENDED_KEY_USAGE, false, &[5, 0])), &[(ALL, "")]),
            row(
                "below an authority for clients alone",
                above(purposes(&[FOR_CLIENTS])),
                &[(ENDPOINTS, "extended key usage")],
            ),
            row("below an authority for any purpose", above(numbers(false, &[any])), &[(ALL, "extended key usage")]),
            row("a policy", with(known(32, false, &policies)), &[]),
            row("a critical policy", with(known(32, true, &policies)), CRITICAL),
            row("critical constraints of policies", above(known(36, true, &der(0x30, &[&[0x80, 1, 0]]))), CRITICAL),
            row("no further policy, critical", above(known(54, true, &[2, 1, 0])), CRITICAL),
            row("mapped policies, critical", above(known(33, true, &der(0x30, &[]))), CRITICAL),
            row("other names of the issuer", with(known(18, false, &general_names(&[Name::Dns("x")]))), &[]),
            row(
                "other names of the issuer, critical",
                with(known(18, true, &general_names(&[Name::Dns("x")]))),
                CRITICAL,
            ),
            row("attributes of the subject, critical", with(known(9, true, &der(0x30, &[]))), CRITICAL),
            row("the newest revocation list, critical", with(known(46, true, &der(0x30, &[]))), CRITICAL),
            row("must be stapled", with(extension(must_staple, false, &feature)), &[]),
            row("must be stapled, critical", with(extension(must_staple, true, &feature)), CRITICAL),
            row("no certificate yet", with(extension(poison, true, &[5, 0])), CRITICAL),
            row(
                "names that are critical",
                self.sign(&self.plain(vec![
                    extension(SUBJECT_ALT_NAME, true, &general_names(&[Name::Uri(ID), Name::Dns(HOST)])),
                    purposes(&[FOR_SERVERS, FOR_CLIENTS]),
                ])),
                &[],
            ),
            row("a host below one that is permitted", constrained(&[Name::Dns("server.test")], &[]), &[]),
            row(
                "a host that is permitted and excluded",
                constrained(&[Name::Dns("test")], &[Name::Dns("server.test")]),
                &[(ALL, "NameConstraintViolation")],
            ),
            row("all hosts excluded", constrained(&[], &[Name::Dns("")]), &[(ALL, "NameConstraintViolation")]),
            row("another host excluded", constrained(&[], &[Name::Dns("other.test")]), &[]),
            row("an address that is permitted", at(HOST, &[10, 1, 2, 3]), &[]),
            row("an address that is not permitted", at(HOST, &[11, 1, 2, 3]), &[(ALL, "NameConstraintViolation")]),
            row("constraints in the leaf itself", with(name_constraints(&[Name::Dns("other")], &[])), &[]),
        ]
    }

    /// Good chains of leaves whose key the peer does not have: a whole handshake tells.
    pub(crate) fn without_the_key(&self) -> Vec<Row> {
        let other = KeyPair::generate().expect("a key");
        // Of some modulus of so many bytes, and the exponent 65537.
        let rsa = |bytes: usize| {
            let numbers = der(0x30, &[&der(2, &[&[0], &vec![0xc1; bytes]]), &[2, 3, 1, 0, 1]]);
            let algorithm = der(0x30, &[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0]]);
            der(0x30, &[&algorithm, &der(3, &[&[0], &numbers])])
        };
        let of = |public_key: Vec<u8>| self.sign(&self.good().with(|draft| draft.public_key = public_key));
        vec![
            row("a key that is none", of(der(0x30, &[])), &[(ALL, "")]),
            row("an RSA key of 1024 bits", of(rsa(128)), &[(ALL, "")]),
            row("an RSA key of 512 bits", of(rsa(64)), &[(ALL, "")]),
            row("another's key", of(rcgen::PublicKeyData::subject_public_key_info(&other)), &[(ALL, "BadSignature")]),
        ]
    }
}

fn row(what: &'static str, chain: Vec<Vec<u8>>, refused: &'static [(&'static [Mode], &'static str)]) -> Row {
    Row { what, chain, refused }
}
