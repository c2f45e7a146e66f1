package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// server is a default upstream API server with its etcd, in a scratch folder, on loopback.
type server struct {
	dir    string
	base   string
	client *http.Client
	cmds   []*exec.Cmd
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func startServer(bin string) (*server, error) {
	dir, err := os.MkdirTemp("", "kinds-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 8}}}
	var ports [3]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	keyFile, tokenFile := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(tokenFile, []byte("probe,admin,admin,system:masters\n"), 0o600); err != nil {
		return nil, err
	}
	etcd := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	s.base = fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	if err := s.start(filepath.Join(bin, "etcd"), "--data-dir="+filepath.Join(dir, "etcd"),
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer); err != nil {
		return nil, err
	}
	if err := s.start(filepath.Join(bin, "kube-apiserver"), "--etcd-servers="+etcd,
		fmt.Sprintf("--secure-port=%d", ports[2]), "--bind-address=127.0.0.1", "--cert-dir="+filepath.Join(dir, "certs"),
		"--token-auth-file="+tokenFile, "--service-account-key-file="+keyFile,
		"--service-account-signing-key-file="+keyFile, "--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=Node,RBAC", "--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.96.0.0/16"); err != nil {
		s.stop()
		return nil, err
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if code, _, err := s.get("/readyz", ""); err == nil && code == 200 {
			return s, nil
		}
		if time.Now().After(end) {
			s.stop()
			return nil, fmt.Errorf("kube-apiserver did not become ready in 60 s")
		}
	}
}

func (s *server) start(name string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, filepath.Base(name)+".log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	s.cmds = append(s.cmds, cmd)
	return nil
}

// stop ends the processes that start began, last first, and removes their folder.
func (s *server) stop() {
	for i := len(s.cmds) - 1; i >= 0; i-- {
		_ = s.cmds[i].Process.Kill()
		_ = s.cmds[i].Wait()
	}
	_ = os.RemoveAll(s.dir)
}

func (s *server) get(path, accept string) (int, []byte, error) {
	req, err := http.NewRequest("GET", s.base+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer probe")
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

type gvk struct{ Group, Version, Kind string }

func (g gvk) schema() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: g.Group, Version: g.Version, Kind: g.Kind}
}

type subresource struct {
	Subresource  string
	ResponseKind *gvk
	Verbs        []string
}

type column struct {
	Name, Type, Format, Description string
	Priority                        int
	// field is the one whose description is the column's; empty if there is none.
	field string
}

// resource is one served resource in one version.
type resource struct {
	gv           schema.GroupVersion
	Resource     string
	ResponseKind *gvk
	Scope        string
	Singular     string `json:"singularResource"`
	Verbs        []string
	ShortNames   []string
	Categories   []string
	Subresources []subresource
	hash         string
	storage      schema.GroupVersion
	columns      []column
	selectors    []string
}

type groupVersions struct {
	name     string
	versions []string
}

// served is what the default server offers, in its own order.
type served struct {
	groups    []groupVersions
	resources []*resource
}

func (s *server) discover() (*served, error) {
	out := &served{}
	for _, root := range []string{"/api", "/apis"} {
		_, body, err := s.get(root, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		if err != nil {
			return nil, err
		}
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Versions []struct {
					Version   string
					Resources []*resource
				}
			}
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("discovery of %s: %w", root, err)
		}
		for _, g := range list.Items {
			group := groupVersions{name: g.Metadata.Name}
			for _, v := range g.Versions {
				group.versions = append(group.versions, v.Version)
				gv := schema.GroupVersion{Group: g.Metadata.Name, Version: v.Version}
				if err := s.addHashes(gv, v.Resources); err != nil {
					return nil, err
				}
				out.resources = append(out.resources, v.Resources...)
			}
			out.groups = append(out.groups, group)
		}
	}
	return out, nil
}

func gvPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}

// addHashes fills what only plain discovery says (storage version hashes, true kinds of subresources' groups).
func (s *server) addHashes(gv schema.GroupVersion, resources []*resource) error {
	_, body, err := s.get(gvPath(gv), "application/json")
	if err != nil {
		return err
	}
	var list struct {
		Resources []struct{ Name, Group, Version, Kind, StorageVersionHash string }
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	fix := func(k *gvk, group, version string) {
		if version != "" {
			k.Group, k.Version = group, version
		} else if k.Version == "" {
			k.Group, k.Version = gv.Group, gv.Version
		}
	}
	for _, r := range resources {
		r.gv = gv
		for _, p := range list.Resources {
			if p.Name == r.Resource {
				r.hash = p.StorageVersionHash
				fix(r.ResponseKind, p.Group, p.Version)
				r.storage = storageVersion(r)
			}
			for i := range r.Subresources {
				sub := &r.Subresources[i]
				if p.Name == r.Resource+"/"+sub.Subresource {
					if sub.ResponseKind == nil {
						sub.ResponseKind = &gvk{Kind: p.Kind}
					}
					fix(sub.ResponseKind, p.Group, p.Version)
				}
			}
		}
	}
	return nil
}

// storageVersion finds the group and version whose hash discovery shows: the hash is the first 8 bytes of the
// SHA-256 of "group/version/kind", so trying every registered version tells which one it is.
func storageVersion(r *resource) schema.GroupVersion {
	if r.hash == "" {
		return schema.GroupVersion{}
	}
	for _, sc := range schemes {
		for k := range sc.AllKnownTypes() {
			if k.Kind != r.ResponseKind.Kind {
				continue
			}
			sum := sha256.Sum256([]byte(k.Group + "/" + k.Version + "/" + k.Kind))
			if base64.StdEncoding.EncodeToString(sum[:8]) == r.hash {
				return k.GroupVersion()
			}
		}
	}
	panic("no version of " + r.ResponseKind.Kind + " has the hash that discovery shows")
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (s *server) recordColumns(all *served) error {
	for _, r := range all.resources {
		if !has(r.Verbs, "list") {
			continue
		}
		code, body, err := s.get(gvPath(r.gv)+"/"+r.Resource, "application/json;as=Table;g=meta.k8s.io;v=v1")
		if err != nil || code != 200 {
			return fmt.Errorf("table of %s: %d %v", r.Resource, code, err)
		}
		var table struct{ ColumnDefinitions []column }
		if err := json.Unmarshal(body, &table); err != nil {
			return err
		}
		r.columns = table.ColumnDefinitions
	}
	return nil
}

// describe finds out which columns are described as a field is. Most of upstream's printers take the words of the
// field that they show; which one is a fact, the words are not recorded.
func (s *server) describe(all *served, t *types) error {
	_, body, err := s.get("/openapi/v2", "application/json")
	if err != nil {
		return err
	}
	var document struct {
		Definitions map[string]struct {
			Properties map[string]struct{ Description string }
		}
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return err
	}
	fields := map[string][]string{}
	for _, short := range sortedKeys(t.structs) {
		pkg, name, _ := strings.Cut(short, ".")
		properties := document.Definitions[openAPIPackage(t.packages[pkg])+"."+name].Properties
		for _, field := range sortedKeys(properties) {
			// A running server adds the values of enumerations, which the words in Go's sources do not name.
			if words, _, _ := strings.Cut(properties[field].Description, "\n\nPossible enum values:"); words != "" {
				fields[words] = append(fields[words], short+"."+field)
			}
		}
	}
	for _, r := range all.resources {
		pkg, _, _ := strings.Cut(t.nameOf(r.ResponseKind.schema()), ".")
		for i := range r.columns {
			for _, field := range fields[r.columns[i].Description] {
				if r.columns[i].field == "" || strings.HasPrefix(field, pkg+".") && !strings.HasPrefix(r.columns[i].field, pkg+".") {
					r.columns[i].field = field
				}
			}
		}
	}
	return nil
}

// aliases are selector labels that are not paths of fields.
var aliases = []string{"source", "status.podIPs", "status.successful"}

func (s *server) recordSelectors(all *served, t *types) error {
	for _, r := range all.resources {
		if !has(r.Verbs, "list") {
			continue
		}
		candidates := append([]string{}, aliases...)
		candidates = append(candidates, t.leafPaths(r.ResponseKind.schema(), 3)...)
		for _, c := range candidates {
			code := 0
			for _, value := range []string{"x", "1", "true", "Cluster"} {
				c, _, err := s.get(gvPath(r.gv)+"/"+r.Resource+"?limit=1&fieldSelector="+url.QueryEscape(c+"="+value), "")
				if err != nil {
					return err
				}
				if code = c; code == 200 {
					break
				}
			}
			if code == 200 {
				r.selectors = append(r.selectors, c)
			}
		}
		sort.Strings(r.selectors)
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// write prints the table of kinds; README.md describes the format.
func (all *served) write(t *types) []byte {
	var b strings.Builder
	for _, g := range all.groups {
		fmt.Fprintf(&b, "group %s %s\n", dash(g.name), strings.Join(g.versions, " "))
	}
	for _, r := range all.resources {
		fmt.Fprintf(&b, "kind %s %s %s %s %s %s\n", dash(r.gv.Group), r.gv.Version, r.ResponseKind.Kind, r.Resource,
			r.Singular, t.nameOf(r.ResponseKind.schema()))
		fmt.Fprintf(&b, " scope %s\n", strings.ToLower(r.Scope))
		fmt.Fprintf(&b, " verbs %s\n", strings.Join(r.Verbs, " "))
		if len(r.ShortNames) > 0 {
			fmt.Fprintf(&b, " short %s\n", strings.Join(r.ShortNames, " "))
		}
		if len(r.Categories) > 0 {
			fmt.Fprintf(&b, " category %s\n", strings.Join(r.Categories, " "))
		}
		if r.hash != "" {
			fmt.Fprintf(&b, " storage %s %s %s\n", dash(r.storage.Group), r.storage.Version, r.hash)
		}
		for _, sub := range r.Subresources {
			k := sub.ResponseKind
			fmt.Fprintf(&b, " sub %s %s %s %s %s\n", sub.Subresource, dash(k.Group), k.Version, k.Kind,
				strings.Join(sub.Verbs, " "))
		}
		for _, c := range r.columns {
			fmt.Fprintf(&b, " column %d %s %s %s %s\n", c.Priority, c.Type, dash(c.Format), dash(c.field), c.Name)
		}
		if len(r.selectors) > 0 {
			fmt.Fprintf(&b, " select %s\n", strings.Join(r.selectors, " "))
		}
	}
	return []byte(b.String())
}

// roots are all kinds that appear in requests or answers of the served resources.
func (all *served) roots() []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	seen := map[schema.GroupVersionKind]bool{}
	add := func(k schema.GroupVersionKind) {
		if !seen[k] && known(k) {
			seen[k] = true
			out = append(out, k)
		}
	}
	for _, r := range all.resources {
		k := r.ResponseKind.schema()
		add(k)
		k.Kind += "List"
		add(k)
		for _, sub := range r.Subresources {
			add(sub.ResponseKind.schema())
		}
	}
	for _, kind := range []string{"Status", "DeleteOptions", "ListOptions", "GetOptions", "CreateOptions",
		"UpdateOptions", "PatchOptions", "WatchEvent", "APIVersions", "APIGroup", "APIGroupList", "APIResourceList"} {
		add(schema.GroupVersionKind{Version: "v1", Kind: kind})
	}
	for _, kind := range []string{"PodLogOptions", "List"} {
		add(schema.GroupVersionKind{Version: "v1", Kind: kind})
	}
	return out
}
