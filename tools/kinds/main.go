// Command kinds writes the facts table of every built-in kind that Kubernetes 1.37 serves by default.
//
// It records facts only: names, numbers, tags and observed behaviour, never prose. Types come from reflection
// over the published Go types, their tags and markers from the same modules, defaults from upstream's own
// scheme run on probe objects, and everything about serving from a kube-apiserver that it starts on loopback.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	log.SetFlags(0)
	bin := flag.String("bin", "", "folder with the etcd and kube-apiserver (1.37.2) binaries")
	out := flag.String("out", "../../crates/api/src/table/data", "folder that receives the data files")
	flag.Parse()
	if *bin == "" {
		log.Fatal("kinds: name the folder of etcd and kube-apiserver with -bin (README.md says how to build them)")
	}
	if err := run(*bin, *out); err != nil {
		log.Fatalf("kinds: %v", err)
	}
}

func run(bin, out string) error {
	server, err := startServer(bin)
	if err != nil {
		return err
	}
	defer server.stop()
	served, err := server.discover()
	if err != nil {
		return err
	}
	types, err := newTypes(served.roots())
	if err != nil {
		return err
	}
	if err := server.recordColumns(served); err != nil {
		return err
	}
	if err := server.describe(served, types); err != nil {
		return err
	}
	if err := server.recordSelectors(served, types); err != nil {
		return err
	}
	conditional := recordDefaults(types, served.roots())
	partial, err := server.recordChecks(served, types)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	files := map[string][]byte{
		"kinds.txt":       served.write(types),
		"types.txt":       types.write(),
		"conditional.txt": append(conditional, []byte(strings.Join(partial, "\n")+"\n")...),
	}
	for name, body := range files {
		path := filepath.Join(out, name)
		if err := os.WriteFile(path, body, 0o644); err != nil {
			return err
		}
		fmt.Printf("%s: %d lines, %d bytes\n", path, bytes.Count(body, []byte("\n")), len(body))
	}
	return nil
}
