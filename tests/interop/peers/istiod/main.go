// istiod is Istio's control plane as it is, beside a Kubernetes that has nothing: its configuration is a folder.
//
// Takes the arguments of `pilot-discovery`. The Kubernetes API that it must have is answered here, at a loopback port:
// every list is empty and stays so, an object that is written can be read, and tokens are reviewed (see tokens.go).
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"istio.io/istio/pilot/cmd/pilot-discovery/app"
)

type object = map[string]any

// kubernetes holds what istiod wrote, by path.
type kubernetes struct {
	lock    sync.Mutex
	version int
	objects map[string]object
}

func (k *kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/version":
		answer(w, http.StatusOK, object{"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
	case r.Method == http.MethodGet && r.URL.Query().Has("watch"):
		watch(w, r)
	case r.Method == http.MethodGet && isOne(r.URL.Path):
		k.read(w, r.URL.Path)
	case r.Method == http.MethodGet:
		list(w, r)
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		review(w, r)
	case r.Method == http.MethodPost || r.Method == http.MethodPut:
		k.write(w, r)
	default:
		fail(w, http.StatusNotFound)
	}
}

// isOne tells the path of an object, /api/v1/namespaces/NS/KIND/NAME and the like, from that of a list.
func isOne(path string) bool {
	words := strings.Split(strings.Trim(path, "/"), "/")
	group := 3 // apis, group, version
	if words[0] == "api" {
		group = 2
	}
	if len(words) < group {
		return false
	}
	words = words[group:]
	if len(words) > 2 && words[0] == "namespaces" {
		words = words[2:]
	}
	return len(words) == 2
}

// watch says nothing for as long as it was asked to.
func watch(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		fail(w, http.StatusUnprocessableEntity) // the client then lists first
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	seconds, _ := strconv.Atoi(r.URL.Query().Get("timeoutSeconds"))
	select {
	case <-r.Context().Done():
	case <-time.After(time.Duration(max(seconds, 60)) * time.Second):
	}
}

func list(w http.ResponseWriter, r *http.Request) {
	empty := object{"metadata": object{"resourceVersion": "1"}, "items": []any{}}
	if strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadata") {
		empty["kind"], empty["apiVersion"] = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	answer(w, http.StatusOK, empty)
}

func (k *kubernetes) read(w http.ResponseWriter, path string) {
	k.lock.Lock()
	found, ok := k.objects[path]
	k.lock.Unlock()
	if !ok {
		fail(w, http.StatusNotFound)
		return
	}
	answer(w, http.StatusOK, found)
}

func (k *kubernetes) write(w http.ResponseWriter, r *http.Request) {
	var written object
	if json.NewDecoder(r.Body).Decode(&written) != nil {
		fail(w, http.StatusForbidden) // a protobuf, say
		return
	}
	metadata, ok := written["metadata"].(object)
	if !ok {
		fail(w, http.StatusUnprocessableEntity)
		return
	}
	path, status := r.URL.Path, http.StatusOK
	if r.Method == http.MethodPost {
		path, status = fmt.Sprintf("%s/%v", path, metadata["name"]), http.StatusCreated
	}
	k.lock.Lock()
	k.version++
	metadata["resourceVersion"] = strconv.Itoa(k.version)
	k.objects[path] = written
	k.lock.Unlock()
	answer(w, status, written)
}

func answer(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(what)
}

func fail(w http.ResponseWriter, status int) {
	reason := strings.ReplaceAll(http.StatusText(status), " ", "")
	answer(w, status, object{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": status,
	})
}

// kubeconfig writes the file that leads to the API at this address.
func kubeconfig(folder string, address net.Addr) string {
	config, _ := json.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": "here",
		"clusters": []object{{"name": "here", "cluster": object{"server": fmt.Sprintf("http://%s", address)}}},
		"contexts": []object{{"name": "here", "context": object{"cluster": "here", "user": "nobody"}}},
		"users":    []object{{"name": "nobody", "user": object{}}},
	})
	path := filepath.Join(folder, "kubeconfig")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		log.Fatal(err)
	}
	return path
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(http.Serve(listener, &kubernetes{version: 100, objects: map[string]object{}})) }()
	folder, err := os.MkdirTemp("", "istiod")
	if err != nil {
		log.Fatal(err)
	}
	command := app.NewRootCommand()
	command.SetArgs(append(os.Args[1:], "--registries=Kubernetes", "--kubeconfig="+kubeconfig(folder, listener.Addr())))
	err = command.Execute()
	os.RemoveAll(folder)
	if err != nil {
		os.Exit(1)
	}
}
