//! A distinguished name as text (RFC 2253, as OpenSSL writes it and Envoy compares it).

use super::der::{Malformed, OBJECT_ID, Reader, SEQUENCE};

const SET: u8 = 0x31;
const UTF8: u8 = 0x0c;
const NUMERIC: u8 = 0x12;
const PRINTABLE: u8 = 0x13;
const TELETEX: u8 = 0x14;
const IA5: u8 = 0x16;
const UNIVERSAL: u8 = 0x1c;
const BMP: u8 = 0x1e;

/// The attributes that have a short name; any other is written as its numbers, with its value in hexadecimal digits.
const SHORT_NAMES: [(&[u8], &str); 14] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 42], "GN"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// The content of a `Name`, its last part first: `CN=a,O=b`.
pub(super) fn distinguished_name(content: &[u8]) -> Result<Box<str>, Malformed> {
    let mut parts = Vec::new();
    let mut name = Reader(content);
    while !name.0.is_empty() {
        parts.push(relative(name.take(SET)?)?);
    }
    parts.reverse();
    Ok(parts.join(",").into())
}

fn relative(content: &[u8]) -> Result<String, Malformed> {
    let mut attributes = Vec::new();
    let mut set = Reader(content);
    while !set.0.is_empty() {
        let mut attribute = Reader(set.take(SEQUENCE)?);
        let id = attribute.take(OBJECT_ID)?;
        let encoded = attribute.0;
        let (tag, value) = attribute.any()?;
        let short = SHORT_NAMES.iter().find(|(known, _)| *known == id);
        attributes.push(match (short, text(tag, value)) {
            (Some((_, short)), Some(text)) => format!("{short}={}", escaped(&text)),
            (Some((_, short)), None) => format!("{short}=#{}", hex(encoded)),
            (None, _) => format!("{}=#{}", dotted(id)?, hex(encoded)),
        });
    }
    // The parts of one relative name stand in the reverse order, too.
    attributes.reverse();
    Ok(attributes.join("+"))
}

/// `None`: it is of no kind of text.
fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8 | NUMERIC | PRINTABLE | IA5 => std::str::from_utf8(value).ok().map(str::to_owned),
        TELETEX => Some(value.iter().copied().map(char::from).collect()),
        BMP => {
            let (units, rest) = value.as_chunks();
            let units = units.iter().map(|unit| u16::from_be_bytes(*unit));
            rest.is_empty().then(|| char::decode_utf16(units).collect::<Result<_, _>>().ok())?
        }
        UNIVERSAL => {
            let (units, rest) = value.as_chunks();
            rest.is_empty().then(|| units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect())?
        }
        _ => None,
    }
}

/// Bytes that are not ASCII, and control characters, become `\` and two digits.
fn escaped(text: &str) -> String {
    let last = text.len().saturating_sub(1);
    let mut escaped = String::with_capacity(text.len());
    for (place, byte) in text.bytes().enumerate() {
        let is_at_the_edge = (byte == b' ' && (place == 0 || place == last)) || (byte == b'#' && place == 0);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => escaped.extend(['\\', char::from(byte)]),
            _ if is_at_the_edge => escaped.extend(['\\', char::from(byte)]),
            0x20..0x7f => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\{byte:02X}")),
        }
    }
    escaped
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `1.2.840`: the numbers of an object identifier.
fn dotted(id: &[u8]) -> Result<String, Malformed> {
    const TOO_LARGE: Malformed = "an object identifier with a number beyond 32 bits";
    let mut numbers: Vec<u32> = Vec::new();
    let mut number: u32 = 0;
    for byte in id {
        number = number.checked_mul(0x80).ok_or(TOO_LARGE)? | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            match numbers.is_empty() {
                // The first holds two: 40 times the first number, which is at most 2, and the second.
                true => numbers.extend([(number / 40).min(2), number - 40 * (number / 40).min(2)]),
                false => numbers.push(number),
            }
            number = 0;
        }
    }
    Ok(numbers.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use crate::identity::Leaf;

    fn subject(parts: Vec<(DnType, DnValue)>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        parts.into_iter().for_each(|(kind, value)| params.distinguished_name.push(kind, value));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Leaf::read(certificate.der()).unwrap().subject.into()
    }

    #[test]
    fn a_subject_is_written_as_openssl_writes_it() {
        use DnType::{CommonName, CountryName, CustomDnType, OrganizationName};
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let printable = DnValue::PrintableString("DE".try_into().unwrap());
        for (parts, expected) in [
            (vec![], ""),
            (vec![(CountryName, printable), (OrganizationName, utf8("b")), (CommonName, utf8("a"))], "CN=a,O=b,C=DE"),
            (vec![(CommonName, utf8("a,b+c\"d\\e<f>g;h=i#j k"))], r#"CN=a\,b\+c\"d\\e\<f\>g\;h=i#j k"#),
            (vec![(CommonName, utf8(" a "))], r"CN=\ a\ "),
            (vec![(CommonName, utf8("#a"))], r"CN=\#a"),
            (vec![(CommonName, utf8("é\u{7f}\n"))], r"CN=\C3\A9\7F\0A"),
            (vec![(CommonName, utf8(""))], "CN="),
            (vec![(CommonName, DnValue::BmpString("é".try_into().unwrap()))], r"CN=\C3\A9"),
            (vec![(CommonName, DnValue::UniversalString("a".try_into().unwrap()))], "CN=a"),
            (vec![(CommonName, DnValue::TeletexString("a".try_into().unwrap()))], "CN=a"),
            (vec![(CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]), utf8("test"))], "DC=test"),
            (vec![(CustomDnType(vec![1, 2, 840, 5]), utf8("ab"))], "1.2.840.5=#0C026162"),
            (vec![(CustomDnType(vec![2, 999, 3]), utf8("a"))], "2.999.3=#0C0161"),
        ] {
            assert_eq!(subject(parts), expected);
        }
    }
}
