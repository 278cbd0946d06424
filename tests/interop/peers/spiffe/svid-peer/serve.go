package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

func serve(source *workloadapi.X509Source, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	var trusted domains
	flags.Func("trust", "trust domain of callers that are taken", trusted.add)
	_ = flags.Parse(args)
	listener, err := net.Listen("tcp", flags.Arg(0))
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	credentials := grpccredentials.MTLSServerCredentials(source, source, trusted.authorize())
	return grpc.NewServer(
		grpc.Creds(credentials), grpc.UnknownServiceHandler(echo), grpc.ForceServerCodecV2(raw{}),
	).Serve(listener)
}

func echo(_ any, stream grpc.ServerStream) error {
	for {
		var message mem.BufferSlice
		if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
}
