package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"log"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// domain is a trust domain with three authorities: the one that signed before, the one that signs, and the next.
type domain struct {
	name        spiffeid.TrustDomain
	authorities [3]authority
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newDomain(name spiffeid.TrustDomain) *domain {
	made := &domain{name: name}
	for at := range made.authorities {
		made.authorities[at] = newAuthority(name)
	}
	return made
}

func (d *domain) shift() {
	d.authorities = [3]authority{d.authorities[1], d.authorities[2], newAuthority(d.name)}
}

func (d *domain) bundle() (der []byte) {
	for _, each := range d.authorities {
		der = append(der, each.certificate.Raw...)
	}
	return der
}

func newAuthority(name spiffeid.TrustDomain) authority {
	template := template(name.ID().URL(), 24*time.Hour)
	template.Subject.CommonName = "authority " + template.SerialNumber.String()
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	key := newKey()
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return authority{must(x509.ParseCertificate(der)), key}
}

// svid is a new one of this ID, with all bundles.
func svid(id spiffeid.ID, domains map[spiffeid.TrustDomain]*domain, life time.Duration) *workload.X509SVIDResponse {
	own := domains[id.TrustDomain()]
	signer := own.authorities[1]
	template := template(id.URL(), life)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	key := newKey()
	response := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	for name, each := range domains {
		if each != own {
			response.FederatedBundles[name.IDString()] = each.bundle()
		}
	}
	response.Svids = []*workload.X509SVID{{
		SpiffeId:    id.String(),
		X509Svid:    must(x509.CreateCertificate(rand.Reader, template, signer.certificate, key.Public(), signer.key)),
		X509SvidKey: must(x509.MarshalPKCS8PrivateKey(key)),
		Bundle:      own.bundle(),
	}}
	return response
}

func template(uri *url.URL, life time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          must(rand.Int(rand.Reader, big.NewInt(1<<62))),
		Subject:               pkix.Name{Organization: []string{"mesh test"}},
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
	}
}

func newKey() *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
