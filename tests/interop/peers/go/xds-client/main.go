// xds-client is grpc-go's client with some options of our `call` and its summary, and with TLS as the control plane says
// (A29).
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"

	"mesh.test/interop/peers/raw"
)

type summary struct {
	Calls   int            `json:"calls"`
	Codes   map[string]int `json:"codes"`
	Message string         `json:"message"`
	Reply   string         `json:"reply"`
}

type headers []string

func (h *headers) String() string { return strings.Join(*h, " ") }

func (h *headers) Set(pair string) error {
	name, value, ok := strings.Cut(pair, "=")
	if !ok {
		return fmt.Errorf("%q is not name=value", pair)
	}
	*h = append(*h, name, value)
	return nil
}

func main() {
	var sent headers
	flag.Bool("json", true, "the summary is JSON in any case")
	count := flag.Int("count", 1, "how many calls to make, one after the other")
	deadline := flag.Duration("deadline", 15*time.Second, "of each call")
	data := flag.String("data", "", "request in hexadecimal")
	flag.Var(&sent, "header", "metadata of each call: name=value")
	flag.Parse()
	request, err := hex.DecodeString(*data)
	if err != nil {
		log.Fatal(err)
	}
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		log.Fatal(err)
	}
	channel, err := grpc.NewClient(flag.Arg(0), grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw.Codec{})))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	made := summary{Codes: map[string]int{}}
	for range *count {
		made.add(call(channel, flag.Arg(1), request, sent, *deadline))
	}
	line, err := json.Marshal(made)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
	if made.Codes["OK"] != *count {
		os.Exit(1)
	}
}

func call(channel *grpc.ClientConn, method string, request []byte, sent headers, deadline time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, sent...)
	var reply mem.BufferSlice
	err := channel.Invoke(ctx, method, mem.BufferSlice{mem.SliceBuffer(request)}, &reply)
	return reply.Materialize(), err
}

func (s *summary) add(reply []byte, err error) {
	s.Calls++
	// As gRPC spells them: DeadlineExceeded is DEADLINE_EXCEEDED.
	s.Codes[spelled(status.Code(err).String())]++
	s.Reply = hex.EncodeToString(reply)
	if err != nil && s.Message == "" {
		s.Message = status.Convert(err).Message()
	}
}

func spelled(code string) string {
	if code == "OK" {
		return code
	}
	var out strings.Builder
	for at, letter := range code {
		if at > 0 && letter >= 'A' && letter <= 'Z' {
			out.WriteByte('_')
		}
		out.WriteRune(letter)
	}
	return strings.ToUpper(out.String())
}
