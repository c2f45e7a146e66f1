package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// step leads from a struct value into one of its fields, through pointers and into a list's only element.
type position struct {
	root schema.GroupVersionKind
	path []int
	text string
	typ  reflect.Type
}

// recordDefaults runs upstream's defaulting on probe objects. For every struct that a root reaches, one probe
// has only the way to that struct allocated; what appears in its zero fields are defaults. A default that every
// position shows, and that no value of a sibling takes away, is written to the table; the others are listed with
// what they depend on, for the strategy files.
func recordDefaults(t *types, roots []schema.GroupVersionKind) []byte {
	var positions []position
	for _, k := range roots {
		if strings.HasSuffix(k.Kind, "List") {
			continue
		}
		rt, _ := lookup(k)
		collect(&positions, position{root: k, typ: rt}, map[reflect.Type]bool{})
	}
	seen := appearances(t, positions)
	conditions := map[string]bool{}
	first := map[string]position{}
	for _, p := range positions {
		key := t.key(p.typ)
		if _, ok := first[key]; !ok {
			first[key] = p
		}
	}
	unsteady := map[string]bool{}
	enums := t.enums()
	for key, p := range first {
		bare := observe(p, nil)
		for i := range p.typ.NumField() {
			for _, change := range changes(p.typ.Field(i), enums[t.enumKey(p.typ.Field(i).Type)]) {
				now := observe(p, &change)
				for field, value := range now {
					if field != change.name && bare[field] != value {
						unsteady[key+" "+field] = unsteady[key+" "+field] || bare[field] != ""
						conditions[fmt.Sprintf("%s %s %s when %s=%s", key, field, value, change.name, change.text)] = true
					}
				}
				for field := range bare {
					if _, ok := now[field]; !ok && field != change.name {
						unsteady[key+" "+field] = true
						conditions[fmt.Sprintf("%s %s %s unless %s=%s", key, field, bare[field], change.name, change.text)] = true
					}
				}
			}
		}
	}
	for key, fields := range seen {
		for field, values := range fields {
			if len(values) == 1 && !unsteady[key+" "+field] {
				for value := range values {
					if t.defaults[key] == nil {
						t.defaults[key] = map[string]string{}
					}
					t.defaults[key][field] = value
				}
			}
		}
	}
	for _, p := range positions {
		key := t.key(p.typ)
		for field, value := range observe(p, nil) {
			if t.defaults[key][field] == "" {
				conditions[fmt.Sprintf("%s %s %s at %s%s", key, field, value, p.root.Kind, p.text)] = true
			}
		}
	}
	var lines []string
	for c := range conditions {
		lines = append(lines, c)
	}
	sort.Strings(lines)
	return []byte(strings.Join(lines, "\n") + "\n")
}

// appearances collects, for every field of every type, the values that positions show; "" stands for none.
func appearances(t *types, positions []position) map[string]map[string]map[string]bool {
	seen := map[string]map[string]map[string]bool{}
	for _, p := range positions {
		key := t.key(p.typ)
		if seen[key] == nil {
			seen[key] = map[string]map[string]bool{}
		}
		for field, value := range observe(p, nil) {
			if seen[key][field] == nil {
				seen[key][field] = map[string]bool{}
			}
			seen[key][field][value] = true
		}
	}
	for _, p := range positions {
		found := observe(p, nil)
		for field, values := range seen[t.key(p.typ)] {
			if _, ok := found[field]; !ok {
				values[""] = true
			}
		}
	}
	return seen
}

func (t *types) enumKey(rt reflect.Type) string {
	for rt.Kind() == reflect.Pointer {
		rt = rt.Elem()
	}
	if rt.PkgPath() == "" || rt.Kind() != reflect.String {
		return ""
	}
	return t.key(rt)
}

func collect(out *[]position, at position, inside map[reflect.Type]bool) {
	if inside[at.typ] || special[at.typ.PkgPath()+"."+at.typ.Name()] != "" {
		return
	}
	inside[at.typ] = true
	defer delete(inside, at.typ)
	*out = append(*out, at)
	for i := range at.typ.NumField() {
		f := at.typ.Field(i)
		j := jsonTag(f)
		if j.skip || f.Type.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1" && f.Name != "Selector" {
			continue
		}
		ft := f.Type
		for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if ft.Kind() != reflect.Struct {
			continue
		}
		next := position{root: at.root, typ: ft, path: append(append([]int{}, at.path...), i), text: at.text}
		if !j.inline {
			next.text += "." + j.name
		}
		collect(out, next, inside)
	}
}

// change sets one sibling before defaulting.
type change struct {
	index int
	name  string
	text  string
	set   func(reflect.Value)
}

func changes(f reflect.StructField, enum []string) []change {
	j := jsonTag(f)
	if j.skip || j.inline {
		return nil
	}
	make_ := func(text string, set func(reflect.Value)) change {
		return change{index: f.Index[0], name: j.name, text: text, set: set}
	}
	ft, pointer := f.Type, false
	if ft.Kind() == reflect.Pointer {
		ft, pointer = ft.Elem(), true
	}
	into := func(v reflect.Value) reflect.Value {
		if pointer {
			v.Set(reflect.New(ft))
			return v.Elem()
		}
		return v
	}
	switch ft.Kind() {
	case reflect.String:
		values := enum
		if len(values) == 0 {
			values = []string{"x", "x:1", "None"}
		}
		var out []change
		for _, s := range values {
			out = append(out, make_(s, func(v reflect.Value) { into(v).SetString(s) }))
		}
		return out
	case reflect.Bool:
		out := []change{make_("true", func(v reflect.Value) { into(v).SetBool(true) })}
		if pointer {
			out = append(out, make_("false", func(v reflect.Value) { into(v).SetBool(false) }))
		}
		return out
	case reflect.Int32, reflect.Int64, reflect.Int:
		return []change{make_("7", func(v reflect.Value) { into(v).SetInt(7) })}
	case reflect.Struct:
		if pointer {
			return []change{make_("{}", func(v reflect.Value) { into(v) })}
		}
	case reflect.Slice:
		return []change{make_("[0]", func(v reflect.Value) { v.Set(reflect.MakeSlice(ft, 1, 1)) })}
	case reflect.Map:
		return []change{make_("{k}", func(v reflect.Value) {
			v.Set(reflect.MakeMap(ft))
			key := reflect.New(ft.Key()).Elem()
			key.SetString("k")
			v.SetMapIndex(key, reflect.New(ft.Elem()).Elem())
		})}
	}
	return nil
}

// reach walks to the position's struct, allocating the way when make is set.
func reach(v reflect.Value, path []int, make bool) (reflect.Value, bool) {
	open := func(v reflect.Value) (reflect.Value, bool) {
		for {
			switch v.Kind() {
			case reflect.Pointer:
				if v.IsNil() {
					if !make {
						return v, false
					}
					v.Set(reflect.New(v.Type().Elem()))
				}
				v = v.Elem()
			case reflect.Slice:
				if v.Len() == 0 {
					if !make {
						return v, false
					}
					v.Set(reflect.MakeSlice(v.Type(), 1, 1))
				}
				v = v.Index(0)
			default:
				return v, true
			}
		}
	}
	for _, i := range path {
		var ok bool
		if v, ok = open(v.Field(i)); !ok {
			return v, false
		}
	}
	return v, true
}

// observe gives the fields that defaulting fills in at the position, as JSON.
func observe(p position, c *change) (found map[string]string) {
	found = map[string]string{}
	root, _ := lookup(p.root)
	object := reflect.New(root)
	before, _ := reach(object.Elem(), p.path, true)
	if c != nil {
		c.set(before.Field(c.index))
	}
	zero := make([]bool, p.typ.NumField())
	for i := range zero {
		zero[i] = p.typ.Field(i).IsExported() && before.Field(i).IsZero()
	}
	defer func() {
		// Some defaulting functions count on a conversion that a bare probe has not been through.
		if recover() != nil {
			found = map[string]string{}
		}
	}()
	for _, sc := range schemes {
		if _, ok := sc.AllKnownTypes()[p.root]; ok {
			sc.Default(object.Interface().(runtime.Object))
			break
		}
	}
	after, ok := reach(object.Elem(), p.path, false)
	if !ok {
		return found
	}
	for i := range zero {
		j := jsonTag(p.typ.Field(i))
		if !zero[i] || j.skip || j.inline || after.Field(i).IsZero() {
			continue
		}
		if f := after.Field(i); f.Kind() == reflect.Struct && f.NumField() > 0 && special[f.Type().PkgPath()+"."+f.Type().Name()] == "" {
			continue // its own position records what appeared inside
		}
		if _, ok := after.Field(i).Interface().(*metav1.Time); ok {
			continue // the hour of the probe is no fact
		}
		text, err := json.Marshal(after.Field(i).Interface())
		if err != nil {
			panic(err)
		}
		found[j.name] = string(text)
	}
	return found
}
