//! Numbers of JSON Web Keys and signatures in the DER that verification reads (X.690).

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// Bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Bytes of an exponent; greater ones make verification slow.
const MAX_EXPONENT: usize = 4;

/// An RSAPublicKey (RFC 8017, A.1.1). `None`: it is too weak, or too long.
pub(super) fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    let (modulus, exponent) = (significant(modulus), significant(exponent));
    let bits = modulus.len() * 8 - usize::try_from(modulus.first()?.leading_zeros()).ok()?;
    let is_odd = exponent.last()? % 2 == 1 && exponent != [1];
    let is_fit = RSA_BITS.contains(&bits) && is_odd && exponent.len() <= MAX_EXPONENT;
    is_fit.then(|| element(SEQUENCE, &[integer(modulus), integer(exponent)].concat()))
}

/// An ECDSA-Sig-Value (RFC 3279, 2.2.3) of two numbers of `length` bytes each (RFC 7518, 3.4).
pub(super) fn der_of_ecdsa(signature: &[u8], length: usize) -> Option<Vec<u8>> {
    let (r, s) = signature.split_at_checked(length).filter(|(_, s)| s.len() == length)?;
    Some(element(SEQUENCE, &[integer(significant(r)), integer(significant(s))].concat()))
}

fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Of a number without leading zeros, which is not negative.
fn integer(number: &[u8]) -> Vec<u8> {
    match number.first() {
        Some(first) if *first < 0x80 => element(INTEGER, number),
        _ => element(INTEGER, &[&[0], number].concat()),
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = significant(&length);
    let mut bytes = vec![tag];
    match length {
        [] => bytes.push(0),
        [short] if *short < 0x80 => bytes.push(*short),
        long => {
            bytes.push(0x80 | u8::try_from(long.len()).expect("a length has at most eight bytes"));
            bytes.extend(long);
        }
    }
    bytes.extend(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_der_has_them() {
        for (signature, expected) in [
            (&[0x01, 0x02][..], Some(&[0x30, 6, 2, 1, 1, 2, 1, 2][..])),
            (&[0x80, 0x00], Some(&[0x30, 7, 2, 2, 0, 0x80, 2, 1, 0])),
            (&[0x01], None),
            (&[0x01, 0x02, 0x03], None),
        ] {
            assert_eq!(der_of_ecdsa(signature, 1).as_deref(), expected, "{signature:?}");
        }
        assert_eq!(element(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(element(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn rsa_keys_are_neither_weak_nor_slow() {
        let of_bits = |bits: usize| [&[1_u8 << ((bits - 1) % 8)][..], &vec![1; (bits - 1) / 8]].concat();
        for (bits, exponent, expected) in [
            (2048, &[1, 0, 1][..], true),
            (2048, &[0, 0, 0, 1, 0, 1], true),
            (8192, &[3], true),
            (2047, &[1, 0, 1], false),
            (8193, &[1, 0, 1], false),
            (2048, &[2], false),
            (2048, &[1], false),
            (2048, &[], false),
            (2048, &[1, 0, 0, 0, 1], false),
        ] {
            assert_eq!(rsa_public_key(&of_bits(bits), exponent).is_some(), expected, "{bits} bits, {exponent:?}");
        }
        assert_eq!(rsa_public_key(&[], &[3]), None);
    }
}
