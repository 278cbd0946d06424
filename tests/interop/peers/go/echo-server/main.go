// echo-server is a stock grpc-go server that answers every method with the bytes it was sent.
//
// Each message is answered at once, or after the metadata's `echo-hold: 100ms` (nothing of the response before that) or
// `echo-delay: 100ms` (its headers before that). The address it answers from is in the header `echo-address`. The first line printed is the address. On SIGTERM it drains as a well-behaved server does:
// GOAWAY, running calls to their end, then exit.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to serve on")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	echo := &echo{address: listener.Addr().String()}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(echo.answer), grpc.ForceServerCodecV2(raw{}))
	fmt.Println(echo.address)

	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	drained := make(chan struct{})
	go func() {
		<-term
		srv.GracefulStop()
		close(drained)
	}()
	if err := srv.Serve(listener); err != nil {
		log.Fatal(err)
	}
	<-drained
}

type echo struct{ address string }

func (e *echo) answer(_ any, stream grpc.ServerStream) error {
	asked, _ := metadata.FromIncomingContext(stream.Context())
	if err := wait(asked.Get("echo-hold")); err != nil {
		return err
	}
	header, delay := metadata.Pairs("echo-address", e.address), asked.Get("echo-delay")
	if len(delay) == 0 {
		// With the first message, so that a response is there as a whole or not at all.
		if err := stream.SetHeader(header); err != nil {
			return err
		}
	} else if err := stream.SendHeader(header); err != nil {
		return err
	}
	if err := wait(delay); err != nil {
		return err
	}
	for {
		var message mem.BufferSlice
		if err := stream.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
}

func wait(durations []string) error {
	for _, text := range durations {
		duration, err := time.ParseDuration(text)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "%q: %v", text, err)
		}
		time.Sleep(duration)
	}
	return nil
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
