// control-plane serves a folder of xDS resources with go-control-plane: SotW and delta, snapshot or linear caches.
//
// Each file of the folder is one resource in JSON or YAML, with its "@type". A change of the folder is served within
// 100 ms; a folder that does not parse changes nothing. The first line printed is the address; each line after it is a
// JSON object: a request or a response as it passed, or a reload.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	xdslog "github.com/envoyproxy/go-control-plane/pkg/log"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"
)

var typeURLs = []string{resource.ListenerType, resource.RouteType, resource.ClusterType, resource.EndpointType}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to serve ADS on")
	mode := flag.String("mode", "linear", "linear: each change sends what changed; snapshot: all of a type, and again at every NACK")
	flag.Parse()

	var store store
	switch *mode {
	case "linear":
		store = newLinear()
	case "snapshot":
		store = newSnapshot()
	default:
		log.Fatalf("-mode %s: neither linear nor snapshot", *mode)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go follow(flag.Arg(0), store)
	log.Fatal(serve(listener, store))
}

func serve(listener net.Listener, store store) error {
	ads := server.NewServer(context.Background(), store.cache(), callbacks(),
		sotw.WithOrderedADS(),
		// Without this an empty list of names means "all" for endpoints and routes too, which xDS v3 does not say.
		sotw.DeactivateLegacyWildcardForTypes([]string{resource.EndpointType, resource.RouteType}))
	srv := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(srv, ads)
	return srv.Serve(listener)
}

// resources by type URL, then by name.
type resources map[string]map[string]types.Resource

// follow gives the store each new state of the folder. It looks rather than being told: files are moved into place.
func follow(dir string, store store) {
	last := "never loaded"
	for ; ; time.Sleep(100 * time.Millisecond) {
		next, stamp, err := load(dir)
		if err != nil {
			stamp = err.Error()
		}
		if stamp == last {
			continue
		}
		last = stamp
		if err == nil {
			err = store.set(next)
		}
		if err != nil {
			emit("reload failed", map[string]any{"error": err.Error()})
			continue
		}
		emit("reload", map[string]any{"stamp": stamp})
	}
}

// load returns what the folder says and a hash of it.
func load(dir string) (resources, string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.*"))
	if err != nil {
		return nil, "", err
	}
	sort.Strings(files)
	all, hash := resources{}, sha256.New()
	for _, url := range typeURLs {
		all[url] = map[string]types.Resource{}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, "", err
		}
		fmt.Fprintf(hash, "%s\x00%s\x00", file, text)
		if err := all.add(text); err != nil {
			return nil, "", fmt.Errorf("%s: %w", file, err)
		}
	}
	return all, hex.EncodeToString(hash.Sum(nil))[:12], nil
}

func (r resources) add(text []byte) error {
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	packed := &anypb.Any{}
	if err := protojson.Unmarshal(asJSON, packed); err != nil {
		return err
	}
	message, err := packed.UnmarshalNew()
	if err != nil {
		return err
	}
	byName, known := r[packed.TypeUrl]
	if !known {
		return fmt.Errorf("%s: not a type that is served", packed.TypeUrl)
	}
	byName[cache.GetResourceName(message)] = message
	return nil
}

// A store is one of go-control-plane's caches, filled whole.
type store interface {
	cache() cache.Cache
	set(resources) error
}

type snapshot struct{ cache.SnapshotCache }

// Every node sees the same resources.
type oneNode struct{}

func (oneNode) ID(*core.Node) string { return "all" }

func newSnapshot() snapshot {
	return snapshot{cache.NewSnapshotCache(false, oneNode{}, xdslog.NewDefaultLogger())}
}

func (s snapshot) cache() cache.Cache { return s.SnapshotCache }

func (s snapshot) set(all resources) error {
	next := &cache.Snapshot{}
	for url, byName := range all {
		list := make([]types.Resource, 0, len(byName))
		hash := sha256.New()
		for _, name := range sorted(byName) {
			list = append(list, byName[name])
			bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(byName[name])
			if err != nil {
				return err
			}
			hash.Write(bytes)
		}
		// A version for each type: a change of the endpoints sends no clusters.
		next.Resources[cache.GetResponseType(url)] = cache.NewResources(hex.EncodeToString(hash.Sum(nil))[:12], list)
	}
	return s.SetSnapshot(context.Background(), "all", next)
}

type linear struct {
	byType  map[string]*cache.LinearCache
	mux     *cache.MuxCache
	current resources
}

func newLinear() *linear {
	l := &linear{byType: map[string]*cache.LinearCache{}, current: resources{}}
	l.mux = &cache.MuxCache{
		Caches:        map[string]cache.Cache{},
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
	}
	for _, url := range typeURLs {
		l.byType[url] = cache.NewLinearCache(url)
		l.mux.Caches[url] = l.byType[url]
	}
	return l
}

func (l *linear) cache() cache.Cache { return l.mux }

func (l *linear) set(all resources) error {
	for url, next := range all {
		changed, deleted := maps.Clone(next), []string{}
		for name, old := range l.current[url] {
			if kept, ok := next[name]; !ok {
				deleted = append(deleted, name)
			} else if proto.Equal(old, kept) {
				delete(changed, name)
			}
		}
		if len(changed)+len(deleted) == 0 {
			continue
		}
		if err := l.byType[url].UpdateResources(changed, deleted); err != nil {
			return err
		}
	}
	l.current = all
	return nil
}

func sorted(byName map[string]types.Resource) []string {
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func callbacks() server.CallbackFuncs {
	return server.CallbackFuncs{
		StreamOpenFunc: func(_ context.Context, stream int64, _ string) error {
			emit("open", map[string]any{"stream": stream})
			return nil
		},
		StreamClosedFunc: func(stream int64, _ *core.Node) {
			emit("close", map[string]any{"stream": stream})
		},
		StreamRequestFunc: func(stream int64, r *discovery.DiscoveryRequest) error {
			emit("request", map[string]any{"stream": stream, "type": r.TypeUrl, "names": r.ResourceNames,
				"version": r.VersionInfo, "nonce": r.ResponseNonce, "error": r.GetErrorDetail().GetMessage()})
			return nil
		},
		StreamResponseFunc: func(_ context.Context, stream int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
			emit("response", map[string]any{"stream": stream, "type": r.TypeUrl, "version": r.VersionInfo,
				"nonce": r.Nonce, "resources": len(r.Resources)})
		},
	}
}

var printing sync.Mutex

func emit(event string, fields map[string]any) {
	fields["event"] = event
	line, err := json.Marshal(fields)
	if err != nil {
		log.Fatal(err)
	}
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(string(line))
}
