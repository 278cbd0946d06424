// echo-server is a stock grpc-go server that answers every method with the bytes it was sent.
//
// Each message is answered at once, or after the metadata's `echo-hold: 100ms` (nothing of the response before that) or
// `echo-delay: 100ms` (its headers before that). The address it answers from is in the header `echo-address`. With
// `-counts FILE` it counts the call of the metadata's `echo-number: 7` in the seventh 32-bit number of the file, from 0:
// several servers may share it, and it outlives those that are killed. The first line printed is the address. On SIGTERM
// it drains as a well-behaved server does: GOAWAY, running calls to their end, then exit.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mesh.test/interop/peers/raw"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to serve on")
	file := flag.String("counts", "", "file to count calls in, by their numbers")
	flag.Parse()
	counts, err := openCounts(*file)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	echo := &echo{address: listener.Addr().String(), counts: counts}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(echo.answer), grpc.ForceServerCodecV2(raw.Codec{}))
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

// openCounts maps the file into memory, where all who map it count together.
func openCounts(path string) ([]uint32, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := int(info.Size())
	memory, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*uint32)(unsafe.Pointer(&memory[0])), size/4), nil
}

type echo struct {
	address string
	counts  []uint32
}

// count counts a call that has a number.
func (e *echo) count(numbers []string) error {
	for _, text := range numbers {
		number, err := strconv.Atoi(text)
		if err != nil || number < 0 || number >= len(e.counts) {
			return status.Errorf(codes.InvalidArgument, "%q is none of %d numbers", text, len(e.counts))
		}
		atomic.AddUint32(&e.counts[number], 1)
	}
	return nil
}

func (e *echo) answer(_ any, stream grpc.ServerStream) error {
	asked, _ := metadata.FromIncomingContext(stream.Context())
	if err := e.count(asked.Get("echo-number")); err != nil {
		return err
	}
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
