package main

import (
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/controlplane"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// schemes hold every registered type of the three servers that upstream runs as one.
var schemes = []*runtime.Scheme{legacyscheme.Scheme, apiextensions.Scheme, aggregator.Scheme}

func known(k schema.GroupVersionKind) bool { _, ok := lookup(k); return ok }

func lookup(k schema.GroupVersionKind) (reflect.Type, bool) {
	for _, sc := range schemes {
		if t, ok := sc.AllKnownTypes()[k]; ok {
			return t, true
		}
	}
	return nil, false
}

// special types have a JSON form of their own, which the reader knows by these words.
var special = map[string]string{
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                                         "quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                                       "intorstring",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                                             "time",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":                                        "microtime",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                                         "duration",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":                                         "fieldsv1",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":                                          "raw",
	"k8s.io/apimachinery/pkg/runtime.Object":                                                "raw",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":                         "json",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray":       "schemaorarray",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool":        "schemaorbool",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "schemaorstrings",
}

// types is the closure of all Go types that the roots reach.
type types struct {
	structs  map[string]reflect.Type
	named    map[string]reflect.Type
	packages map[string]string
	defs     map[string]common.OpenAPIDefinition
	markers  *markers
	defaults map[string]map[string]string
	checks   map[string]map[string][]string
	partial  map[string]bool
}

func newTypes(roots []schema.GroupVersionKind) (*types, error) {
	t := &types{structs: map[string]reflect.Type{}, named: map[string]reflect.Type{}, packages: map[string]string{},
		defaults: map[string]map[string]string{}}
	t.defs = openapi.GetOpenAPIDefinitions(func(path string) spec.Ref { return spec.MustCreateRef(path) })
	m, err := readMarkers()
	if err != nil {
		return nil, err
	}
	t.markers = m
	for _, k := range roots {
		rt, _ := lookup(k)
		t.visit(rt)
	}
	for _, extra := range []any{apidiscovery.APIGroupDiscoveryList{}, metav1.Table{}, metav1.PartialObjectMetadata{},
		metav1.PartialObjectMetadataList{}} {
		t.visit(reflect.TypeOf(extra))
	}
	return t, nil
}

// shortPackage is the name of a Go package in the table.
func shortPackage(path string) string {
	parts := strings.Split(path, "/")
	if len(parts) < 2 {
		return path
	}
	if last := parts[len(parts)-1]; !strings.HasPrefix(last, "v") {
		return last
	}
	return strings.Join(parts[len(parts)-2:], "/")
}

func (t *types) key(rt reflect.Type) string {
	short := shortPackage(rt.PkgPath())
	if short == "types" || short == "version" {
		return short + "." + rt.Name()
	}
	if prior, ok := t.packages[short]; ok && prior != rt.PkgPath() {
		panic("two packages are called " + short + ": " + prior + ", " + rt.PkgPath())
	}
	t.packages[short] = rt.PkgPath()
	return short + "." + rt.Name()
}

func (t *types) nameOf(k schema.GroupVersionKind) string {
	rt, ok := lookup(k)
	if !ok {
		panic("unknown kind " + k.String())
	}
	return t.key(rt)
}

func (t *types) visit(rt reflect.Type) {
	if special[rt.PkgPath()+"."+rt.Name()] != "" {
		return
	}
	switch rt.Kind() {
	case reflect.Pointer, reflect.Slice:
		if rt.PkgPath() != "" {
			t.named[t.key(rt)] = rt
		}
		t.visit(rt.Elem())
	case reflect.Map:
		if rt.PkgPath() != "" {
			t.named[t.key(rt)] = rt
		}
		t.visit(rt.Key())
		t.visit(rt.Elem())
	case reflect.Struct:
		key := t.key(rt)
		if t.structs[key] != nil {
			return
		}
		t.structs[key] = rt
		for i := range rt.NumField() {
			if jsonTag(rt.Field(i)).skip {
				continue
			}
			t.visit(rt.Field(i).Type)
		}
	default:
		if rt.PkgPath() != "" {
			t.named[t.key(rt)] = rt
		}
	}
}

// expr writes a type; pointers are marked with a star because null and absent differ from zero there.
func (t *types) expr(rt reflect.Type) string {
	if s := special[rt.PkgPath()+"."+rt.Name()]; s != "" {
		return s
	}
	if rt.PkgPath() != "" {
		return t.key(rt)
	}
	return t.shape(rt)
}

func (t *types) shape(rt reflect.Type) string {
	switch rt.Kind() {
	case reflect.Pointer:
		return "*" + t.expr(rt.Elem())
	case reflect.Slice:
		if rt.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + t.expr(rt.Elem())
	case reflect.Map:
		return "{" + t.expr(rt.Key()) + "}" + t.expr(rt.Elem())
	case reflect.Interface:
		return "json"
	case reflect.Struct:
		return t.key(rt)
	default:
		return rt.Kind().String()
	}
}

type tag struct {
	name                      string
	skip, inline, empty, zero bool
}

func jsonTag(f reflect.StructField) tag {
	parts := strings.Split(f.Tag.Get("json"), ",")
	out := tag{name: parts[0]}
	out.skip = parts[0] == "-" || !f.IsExported()
	for _, p := range parts[1:] {
		out.inline = out.inline || p == "inline"
		out.empty = out.empty || p == "omitempty"
		out.zero = out.zero || p == "omitzero"
	}
	if f.Anonymous && out.name == "" {
		out.inline = true
	}
	if out.name == "" && !out.inline {
		out.skip = true
	}
	return out
}

func protoNumber(f reflect.StructField) string {
	parts := strings.Split(f.Tag.Get("protobuf"), ",")
	if len(parts) < 2 {
		return "-"
	}
	return parts[1]
}

// emitted tells whether upstream writes the field although it is zero.
func emitted(f reflect.StructField, j tag) bool {
	if j.zero {
		return false
	}
	isStruct := f.Type.Kind() == reflect.Struct
	return !j.empty || isStruct
}

func (t *types) write() []byte {
	var b strings.Builder
	for _, short := range sortedKeys(t.packages) {
		fmt.Fprintf(&b, "package %s %s\n", short, openAPIPackage(t.packages[short]))
	}
	enums := t.enums()
	for _, key := range sortedKeys(t.named) {
		rt := t.named[key]
		fmt.Fprintf(&b, "named %s %s", key, t.shape(rt))
		if _, ok := reflect.PointerTo(rt).MethodByName("Marshal"); ok && rt.Kind() == reflect.Slice {
			b.WriteString(" message")
		}
		for _, v := range enums[key] {
			fmt.Fprintf(&b, " %s", strconv.Quote(v))
		}
		b.WriteString("\n")
	}
	for _, key := range sortedKeys(t.structs) {
		rt := t.structs[key]
		fmt.Fprintf(&b, "type %s", key)
		if def, ok := t.defs[openAPIPackage(rt.PkgPath())+"."+rt.Name()]; ok {
			if v, ok := def.Schema.Extensions.GetString("x-kubernetes-map-type"); ok {
				fmt.Fprintf(&b, " %s", v)
			}
		}
		b.WriteString("\n")
		for i := range rt.NumField() {
			t.writeField(&b, key, rt, rt.Field(i))
		}
	}
	return []byte(b.String())
}

func openAPIPackage(path string) string {
	host, rest, _ := strings.Cut(path, "/")
	parts := strings.Split(host, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(rest, "/", ".")
}

func (t *types) writeField(b *strings.Builder, key string, rt reflect.Type, f reflect.StructField) {
	j := jsonTag(f)
	if j.skip {
		return
	}
	if j.inline {
		fmt.Fprintf(b, " + %s %s\n", protoNumber(f), t.expr(f.Type))
		return
	}
	fmt.Fprintf(b, " %s %s %s", j.name, protoNumber(f), t.expr(f.Type))
	def, hasDef := t.defs[openAPIPackage(rt.PkgPath())+"."+rt.Name()]
	if emitted(f, j) {
		b.WriteString(" emit")
	}
	if hasDef && has(def.Schema.Required, j.name) {
		b.WriteString(" required")
	}
	if hasDef {
		writeExtensions(b, def.Schema.Properties[j.name])
	}
	if p := f.Tag.Get("patchStrategy"); p != "" {
		fmt.Fprintf(b, " patch=%s", p)
	}
	if p := f.Tag.Get("patchMergeKey"); p != "" {
		fmt.Fprintf(b, " patchkey=%s", p)
	}
	for _, m := range t.markers.field(rt, f.Name) {
		fmt.Fprintf(b, " %s", m)
	}
	for _, c := range t.checks[key][j.name] {
		fmt.Fprintf(b, " %s", c)
	}
	if d := t.defaults[key][j.name]; d != "" {
		fmt.Fprintf(b, " default=%s", d)
	}
	b.WriteString("\n")
}

func writeExtensions(b *strings.Builder, s spec.Schema) {
	if v, ok := s.Extensions.GetString("x-kubernetes-list-type"); ok {
		fmt.Fprintf(b, " list=%s", v)
		if keys, ok := s.Extensions.GetStringSlice("x-kubernetes-list-map-keys"); ok {
			fmt.Fprintf(b, ":%s", strings.Join(keys, ","))
		}
	}
	if v, ok := s.Extensions.GetString("x-kubernetes-map-type"); ok {
		fmt.Fprintf(b, " map=%s", v)
	}
}

// enums finds the values of each named string type: openapi-gen writes them where a field has such a type.
func (t *types) enums() map[string][]string {
	out := map[string][]string{}
	for _, rt := range t.structs {
		def, ok := t.defs[openAPIPackage(rt.PkgPath())+"."+rt.Name()]
		if !ok {
			continue
		}
		for i := range rt.NumField() {
			f := rt.Field(i)
			j := jsonTag(f)
			if j.skip || j.inline {
				continue
			}
			s, ft := def.Schema.Properties[j.name], f.Type
			for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
				if ft.Kind() == reflect.Slice && s.Items != nil && s.Items.Schema != nil {
					s = *s.Items.Schema
				}
				ft = ft.Elem()
			}
			if len(s.Enum) == 0 || ft.PkgPath() == "" {
				continue
			}
			var values []string
			for _, v := range s.Enum {
				values = append(values, fmt.Sprint(v))
			}
			sort.Strings(values)
			out[t.key(ft)] = values
		}
	}
	return out
}

// leafPaths lists the scalar fields that a selector could name, not deeper than depth.
func (t *types) leafPaths(k schema.GroupVersionKind, depth int) []string {
	rt, _ := lookup(k)
	var out []string
	var walk func(rt reflect.Type, prefix string, depth int)
	walk = func(rt reflect.Type, prefix string, depth int) {
		for rt.Kind() == reflect.Pointer {
			rt = rt.Elem()
		}
		if rt.Kind() != reflect.Struct || special[rt.PkgPath()+"."+rt.Name()] != "" {
			if prefix != "" && rt.Kind() != reflect.Slice && rt.Kind() != reflect.Map {
				out = append(out, prefix[1:])
			}
			return
		}
		if depth == 0 {
			return
		}
		for i := range rt.NumField() {
			j := jsonTag(rt.Field(i))
			switch {
			case j.skip:
			case j.inline:
				walk(rt.Field(i).Type, prefix, depth)
			default:
				walk(rt.Field(i).Type, prefix+"."+j.name, depth-1)
			}
		}
	}
	walk(rt, "", depth)
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
