package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// makeCA writes the files of a root and of istiod's own CA below it, as operators plug them in (Secret `cacerts`), unless
// the folder has some.
func makeCA(folder string) error {
	if _, err := os.Stat(filepath.Join(folder, "ca-key.pem")); err == nil {
		return nil
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := authority(1, "root")
	rootPEM, err := sign(root, root, &rootKey.PublicKey, rootKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ownPEM, err := sign(authority(2, "intermediate"), root, &key.PublicKey, rootKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	// The key comes last: with it, they are all there.
	for _, file := range []struct {
		name string
		pem  []byte
	}{
		{"root-cert.pem", rootPEM},
		{"cert-chain.pem", append(ownPEM[:len(ownPEM):len(ownPEM)], rootPEM...)},
		{"ca-cert.pem", ownPEM},
		{"ca-key.pem", keyPEM},
	} {
		if err := os.WriteFile(filepath.Join(folder, file.name), file.pem, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func authority(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{Organization: []string{"mesh test"}, CommonName: name},
		NotBefore:             now.Add(-5 * time.Minute),
		NotAfter:              now.Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func sign(what, by *x509.Certificate, key *ecdsa.PublicKey, with *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, what, by, key, with)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
