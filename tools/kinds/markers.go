package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	_ "k8s.io/kubernetes/pkg/features"
)

// markers are the comment tags of struct fields ("+featureGate=", "+k8s:maximum="), by package, type and field.
type markers struct {
	dirs   map[string]string
	parsed map[string]map[string][]string
}

// modules are where the types live; every package path below begins with one of them.
var modules = []string{"k8s.io/api", "k8s.io/apimachinery", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator"}

func readMarkers() (*markers, error) {
	m := &markers{dirs: map[string]string{}, parsed: map[string]map[string][]string{}}
	for _, module := range modules {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			return nil, err
		}
		m.dirs[module] = strings.TrimSpace(string(out))
	}
	return m, nil
}

// field gives the facts of one field's markers in the words of the table.
func (m *markers) field(rt reflect.Type, field string) []string {
	all, ok := m.parsed[rt.PkgPath()]
	if !ok {
		all = m.parse(rt.PkgPath())
		m.parsed[rt.PkgPath()] = all
	}
	return all[rt.Name()+"."+field]
}

func (m *markers) parse(pkg string) map[string][]string {
	out := map[string][]string{}
	for module, dir := range m.dirs {
		if pkg != module && !strings.HasPrefix(pkg, module+"/") {
			continue
		}
		files, err := filepath.Glob(filepath.Join(dir, strings.TrimPrefix(pkg, module), "*.go"))
		if err != nil {
			panic(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "generated") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
			if err != nil {
				panic(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				spec, ok := n.(*ast.TypeSpec)
				if !ok {
					return true
				}
				st, ok := spec.Type.(*ast.StructType)
				if !ok {
					return true
				}
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						out[spec.Name.Name+"."+name.Name] = facts(f.Doc)
					}
				}
				return true
			})
		}
	}
	return out
}

var marker = regexp.MustCompile(`^//\s*\+(?:k8s:(?:alpha|beta)\([^)]*\)=\+)?([A-Za-z0-9:]+)(?:=(\S+))?\s*$`)

// facts keeps the markers that the table uses: gates that are off by default, and simple bounds.
func facts(doc *ast.CommentGroup) []string {
	if doc == nil {
		return nil
	}
	var out []string
	for _, line := range doc.List {
		match := marker.FindStringSubmatch(line.Text)
		if match == nil {
			continue
		}
		value := strings.Trim(match[2], `"`)
		switch match[1] {
		case "featureGate":
			if gate := offGate(value); gate != "" {
				out = append(out, "off="+gate)
			}
		case "k8s:minimum":
			out = append(out, "min="+value)
		case "k8s:maximum":
			out = append(out, "max="+value)
		case "k8s:maxItems":
			out = append(out, "maxitems="+value)
		case "k8s:maxLength":
			out = append(out, "maxlength="+value)
		case "k8s:maxBytes":
			out = append(out, "maxbytes="+value)
		case "k8s:format":
			out = append(out, "format="+value)
		case "k8s:immutable":
			out = append(out, "immutable")
		}
	}
	return out
}

// offGate gives the first of the named gates that is off in a default server.
func offGate(names string) string {
	all := utilfeature.DefaultMutableFeatureGate.GetAll()
	for _, name := range strings.Split(names, ",") {
		if spec, ok := all[featuregate.Feature(name)]; ok && !spec.Default {
			return name
		}
	}
	return ""
}
