// xds-server is grpc-go's server as its control plane has it (A36), with TLS if that asks for it (A29).
//
// Every call is answered with a grpc.testing.SimpleResponse whose `username` is the caller's URI, or else DNS name, as its
// certificate says it; empty if the caller showed none. The first line printed is the address.
package main

import (
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/proto"

	"mesh.test/interop/peers/raw"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to serve on")
	flag.Parse()
	creds, err := xdscreds.NewServerCredentials(xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		log.Fatal(err)
	}
	srv, err := xds.NewGRPCServer(grpc.Creds(creds), grpc.UnknownServiceHandler(answer), grpc.ForceServerCodecV2(raw.Codec{}),
		xds.ServingModeCallback(func(_ net.Addr, mode xds.ServingModeChangeArgs) {
			log.Printf("%v: %v", mode.Mode, mode.Err)
		}))
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(srv.Serve(listener))
}

func answer(_ any, stream grpc.ServerStream) error {
	var request mem.BufferSlice
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	reply, err := proto.Marshal(&grpc_testing.SimpleResponse{Username: caller(stream.Context())})
	if err != nil {
		return err
	}
	return stream.SendMsg(mem.BufferSlice{mem.SliceBuffer(reply)})
}

func caller(ctx context.Context) string {
	from, _ := peer.FromContext(ctx)
	// The credentials that follow xDS have a type of their own; both tell the connection's state.
	state, ok := from.AuthInfo.(interface {
		GetSecurityValue() credentials.ChannelzSecurityValue
	})
	if !ok {
		return ""
	}
	secured, ok := state.GetSecurityValue().(*credentials.TLSChannelzSecurityValue)
	if !ok || len(secured.RemoteCertificate) == 0 {
		return ""
	}
	certificate, err := x509.ParseCertificate(secured.RemoteCertificate)
	switch {
	case err != nil:
		return ""
	case len(certificate.URIs) > 0:
		return certificate.URIs[0].String()
	case len(certificate.DNSNames) > 0:
		return certificate.DNSNames[0]
	}
	return ""
}
