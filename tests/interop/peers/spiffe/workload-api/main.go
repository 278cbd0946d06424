// workload-api is a stand-in for a SPIFFE agent: its Workload API on Unix sockets, with certificates that live for
// seconds.
//
// Each `-serve SOCKET=ID` hands out an SVID of that ID. All trust domains of these IDs are federated with one another.
// SVIDs are issued anew at half of their life; every `-shift` times the authorities shift: the one that was in all
// bundles already begins to sign, and the one that signed before stays in them until what it signed is over. On SIGUSR1
// the first socket goes away with all streams on it, on SIGUSR2 it is there again. The first line printed says that the
// sockets are there, and then there is a JSON object for each issue.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	life := flag.Duration("life", 6*time.Second, "how long SVIDs are valid")
	shift := flag.Int("shift", 2, "after how many issues the authorities shift")
	var endpoints []*endpoint
	flag.Func("serve", "SOCKET=ID, may be repeated", func(text string) error {
		socket, id, _ := strings.Cut(text, "=")
		parsed, err := spiffeid.FromString(id)
		endpoints = append(endpoints, &endpoint{socket: socket, id: parsed, changed: make(chan struct{})})
		return err
	})
	flag.Parse()
	if len(endpoints) == 0 {
		log.Fatal("nothing to serve")
	}
	domains := map[spiffeid.TrustDomain]*domain{}
	for _, each := range endpoints {
		if domains[each.id.TrustDomain()] == nil {
			domains[each.id.TrustDomain()] = newDomain(each.id.TrustDomain())
		}
	}
	issue := func() {
		for _, each := range endpoints {
			each.publish(svid(each.id, domains, *life))
		}
	}
	issue()
	for _, each := range endpoints {
		each.start()
	}
	fmt.Println("listening")
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1, syscall.SIGUSR2)
	ticker := time.NewTicker(*life / 2)
	for count := 1; ; {
		select {
		case <-ticker.C:
			if count%*shift == 0 {
				for _, each := range domains {
					each.shift()
				}
			}
			count++
			issue()
			fmt.Printf("{\"issued\": %d}\n", count)
		case signal := <-asked:
			if signal == syscall.SIGUSR1 {
				endpoints[0].server.Stop()
			} else {
				endpoints[0].start()
			}
		}
	}
}

// endpoint is one socket and what is said there.
type endpoint struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	socket string
	id     spiffeid.ID
	server *grpc.Server

	lock    sync.Mutex
	latest  *workload.X509SVIDResponse
	changed chan struct{}
}

func (e *endpoint) start() {
	listener, err := net.Listen("unix", e.socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, e)
	e.server = server
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
}

func (e *endpoint) publish(response *workload.X509SVIDResponse) {
	e.lock.Lock()
	defer e.lock.Unlock()
	e.latest = response
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *endpoint) read() (*workload.X509SVIDResponse, chan struct{}) {
	e.lock.Lock()
	defer e.lock.Unlock()
	return e.latest, e.changed
}

func (e *endpoint) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	asked, _ := metadata.FromIncomingContext(stream.Context())
	if header := asked.Get("workload.spiffe.io"); len(header) != 1 || header[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		response, changed := e.read()
		if err := stream.Send(response); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
