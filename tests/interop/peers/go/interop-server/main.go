// interop-server serves gRPC's own interop tests as grpc-go implements them. The server command of grpc-go itself listens
// on every interface of the machine; this one listens on loopback and prints its address as the first line.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to serve on")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	recorder := orca.NewServerMetricsRecorder()
	srv := grpc.NewServer(orca.CallMetricsServerOption(recorder))
	testgrpc.RegisterTestServiceServer(srv, interop.NewTestServer(interop.NewTestServerOptions{MetricsRecorder: recorder}))
	fmt.Println(listener.Addr())
	log.Fatal(srv.Serve(listener))
}
