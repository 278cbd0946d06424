// svid-peer speaks gRPC over mTLS as go-spiffe does it, with what the Workload API at SPIFFE_ENDPOINT_SOCKET hands out.
//
//	svid-peer serve [-trust DOMAIN]… ADDRESS        answers every method with the bytes that it was sent
//	svid-peer call [-trust DOMAIN]… … ADDRESS METHOD  calls, with the options and the summary of our `call`
package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/mem"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("serve or call")
	}
	source, err := workloadapi.NewX509Source(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	switch os.Args[1] {
	case "serve":
		err = serve(source, os.Args[2:])
	case "call":
		err = call(source, os.Args[2:])
	default:
		err = fmt.Errorf("%q is neither serve nor call", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// domains are the trust domains whose members are taken.
type domains []spiffeid.TrustDomain

func (d *domains) add(text string) error {
	name, err := spiffeid.TrustDomainFromString(text)
	*d = append(*d, name)
	return err
}

func (d *domains) authorize() tlsconfig.Authorizer {
	return func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		for _, name := range *d {
			if id.MemberOf(name) {
				return nil
			}
		}
		return fmt.Errorf("%s is of no trust domain that is taken", id)
	}
}

// raw passes messages as they are on the wire.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(mem.BufferSlice)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	message.Ref()
	return message, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*mem.BufferSlice)
	if !ok {
		return fmt.Errorf("%T is not a place for bytes", v)
	}
	data.Ref()
	*message = data
	return nil
}
