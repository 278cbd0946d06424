package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// As in our summary.
var names = map[codes.Code]string{
	codes.OK: "OK", codes.Unavailable: "UNAVAILABLE", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
	codes.PermissionDenied: "PERMISSION_DENIED",
}

// report is what the calls came to.
type report struct {
	lock    sync.Mutex
	each    bool
	Calls   int            `json:"calls"`
	Codes   map[string]int `json:"codes"`
	Ends    map[string]int `json:"endpoints"`
	Message string         `json:"message"`
	MaxMs   float64        `json:"max_ms"`
	Reply   string         `json:"reply"`
}

func call(source *workloadapi.X509Source, args []string) error {
	flags := flag.NewFlagSet("call", flag.ExitOnError)
	var trusted domains
	flags.Func("trust", "trust domain of the servers that are called", trusted.add)
	each := flags.Bool("each", false, "a JSON line per call")
	_ = flags.Bool("json", false, "a summary in JSON, as always")
	count := flags.Int("count", 1, "how many calls; 0: until SIGINT")
	rate := flags.Float64("rate", 100, "calls per second")
	deadline := flags.Duration("deadline", 15*time.Second, "how long a call may take")
	data := flags.String("data", "", "the request in hex")
	_ = flags.Parse(args)
	message, err := hex.DecodeString(*data)
	if err != nil {
		return err
	}
	// It tries again as soon as ours does.
	fast := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: 200 * time.Millisecond}
	connection, err := grpc.NewClient(
		"passthrough:///"+flags.Arg(0),
		grpc.WithTransportCredentials(grpccredentials.MTLSClientCredentials(source, source, trusted.authorize())),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: fast, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})),
	)
	if err != nil {
		return err
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, os.Interrupt)
	report := &report{each: *each, Codes: map[string]int{}, Ends: map[string]int{}}
	ticker := time.NewTicker(time.Duration(float64(time.Second) / *rate))
	var running sync.WaitGroup
	for number := 0; *count == 0 || number < *count; number++ {
		select {
		case <-ticker.C:
			running.Go(func() { report.add(number, one(connection, flags.Arg(1), message, *deadline)) })
			continue
		case <-told:
		}
		break
	}
	running.Wait()
	return json.NewEncoder(os.Stdout).Encode(report)
}

// outcome is that of one call.
type outcome struct {
	err   error
	took  time.Duration
	reply []byte
}

func one(connection *grpc.ClientConn, method string, message []byte, deadline time.Duration) outcome {
	began := time.Now()
	limited, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var reply mem.BufferSlice
	err := connection.Invoke(limited, method, mem.BufferSlice{mem.SliceBuffer(message)}, &reply)
	return outcome{err, time.Since(began), reply.Materialize()}
}

func (r *report) add(number int, ended outcome) {
	r.lock.Lock()
	defer r.lock.Unlock()
	code, ok := names[status.Code(ended.err)]
	if !ok {
		code = status.Code(ended.err).String()
	}
	ms := float64(ended.took.Microseconds()) / 1e3
	r.Calls++
	r.Codes[code]++
	r.MaxMs = max(r.MaxMs, ms)
	if r.Calls == 1 {
		r.Reply = hex.EncodeToString(ended.reply)
	}
	if ended.err != nil && r.Message == "" {
		r.Message = ended.err.Error()
	}
	if r.each {
		fmt.Printf("{\"n\": %d, \"code\": %q, \"ms\": %v}\n", number, code, ms)
	}
}
