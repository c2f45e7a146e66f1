package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"sort"
	"strings"
)

// cause is one entry of a Status of reason Invalid.
type cause struct{ Reason, Message, Field string }

// check is what the server was seen to enforce on a field of a type.
type check struct {
	// needed is the sentence behind "Required value", with seen set.
	seen   bool
	needed string
	// values are the supported values of the answer, in its order.
	values []string
	// each is the same for the elements of a list.
	each []string
	// unique is the path below a repeated element that is called a duplicate.
	unique    string
	hasUnique bool
	// textsSeen tells that the probe with unknown texts came as far as validation.
	textsSeen bool
}

// recordChecks asks the server, by dry runs of almost empty objects, what it requires, which values of texts it
// supports, and which lists it wants free of duplicates. A rule counts for a type when every place of that type that
// the server validates at all shows it; a rule of some places only is listed for the strategy files.
func (s *server) recordChecks(all *served, t *types) ([]string, error) {
	t.partial = map[string]bool{}
	found := map[string]map[string][]check{}
	places, texts := map[string][]string{}, map[string]int{}
	for _, r := range all.resources {
		if !has(r.Verbs, "create") || r.hash == "" {
			continue
		}
		k := r.ResponseKind.schema()
		rt, _ := lookup(k)
		var positions []position
		collect(&positions, position{root: k, typ: rt}, map[reflect.Type]bool{})
		for _, p := range positions {
			if strings.HasPrefix(p.text, ".status") || strings.HasPrefix(p.text, ".metadata") {
				continue
			}
			got, ok, textsOk, err := s.checksAt(r, t, p)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			key := t.key(p.typ)
			if textsOk {
				texts[key]++
			}
			places[key] = append(places[key], p.root.Kind+p.text)
			if found[key] == nil {
				found[key] = map[string][]check{}
			}
			for field, c := range got {
				found[key][field] = append(found[key][field], c)
			}
		}
	}
	return t.settleChecks(found, places, texts), nil
}

// settleChecks writes to the table what all places of a type agree on, and gives back the rest.
func (t *types) settleChecks(found map[string]map[string][]check, places map[string][]string, texts map[string]int) []string {
	var partial []string
	t.checks = map[string]map[string][]string{}
	for key, fields := range found {
		t.checks[key] = map[string][]string{}
		for field, list := range fields {
			add := func(word string, all int, of func(check) (string, bool)) {
				first, count := "", 0
				for _, c := range list {
					text, ok := of(c)
					if ok && (count == 0 || text == first) {
						first = text
						count++
					}
				}
				switch {
				case count == 0:
				case count == all:
					t.checks[key][field] = append(t.checks[key][field], word+first)
				default:
					partial = append(partial, fmt.Sprintf("%s %s %s%s at %d of %d places", key, field, word, first,
						count, len(places[key])))
				}
			}
			everywhere := len(places[key])
			add("needed", everywhere, func(c check) (string, bool) {
				if c.needed == "" {
					return "", c.seen
				}
				return "=<" + c.needed + ">", c.seen
			})
			values := t.valuesOf(key, field)
			add("oneof", texts[key], func(c check) (string, bool) { return listed(c.values, values), len(c.values) > 0 })
			add("eachof", texts[key], func(c check) (string, bool) { return listed(c.each, values), len(c.each) > 0 })
			add("unique=", everywhere, func(c check) (string, bool) { return c.unique, c.hasUnique })
		}
	}
	for line := range t.partial {
		partial = append(partial, line)
	}
	sort.Strings(partial)
	return partial
}

// listed writes values, unless they are those of the named type anyway.
func listed(values, named []string) string {
	if reflect.DeepEqual(values, named) {
		return ""
	}
	text := strings.Join(values, "|")
	if strings.Contains(text, " ") {
		panic("a value with a blank has no form in the table: " + text)
	}
	return "=" + text
}

// valuesOf are the values of the named type of a field, or of a list's elements.
func (t *types) valuesOf(key, field string) []string {
	rt := t.structs[key]
	for i := range rt.NumField() {
		if f := rt.Field(i); jsonTag(f).name == field {
			ft := f.Type
			for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
				ft = ft.Elem()
			}
			return t.enums()[t.enumKey(ft)]
		}
	}
	return nil
}

func (s *server) checksAt(r *resource, t *types, p position) (map[string]check, bool, bool, error) {
	out := map[string]check{}
	empty, ok, err := s.probe(r, p, nil)
	if err != nil || !ok {
		return nil, ok, false, err
	}
	for _, c := range empty {
		// Where the struct may not be at all, nobody looks into it.
		if c.Reason == "FieldValueForbidden" && c.Field != "spec" && strings.HasPrefix(probePath(p), c.Field+".") {
			return nil, false, false, nil
		}
	}
	at, enums := probePath(p), t.enums()
	for _, c := range empty {
		name, under := strings.CutPrefix(c.Field, at)
		if !under || c.Reason != "FieldValueRequired" || !fieldOf(p.typ, name) {
			continue
		}
		// What another field can stand in for is no rule of this field.
		rest, ok, err := s.probe(r, p, func(v reflect.Value) { fillSiblings(v, name, enums) })
		if err != nil {
			return nil, false, false, err
		}
		if isStructField(p.typ, name) {
			ok, rest = true, nil
		}
		if !ok || hasCause(rest, "FieldValueRequired", c.Field) {
			out[name] = check{seen: true, needed: strings.TrimPrefix(strings.TrimPrefix(c.Message, "Required value"), ": ")}
		} else {
			t.partial[fmt.Sprintf("%s %s needed unless others are set: %s", t.key(p.typ), name, c.Message)] = true
		}
	}
	texts, textsOk, err := s.probe(r, p, func(v reflect.Value) { fillTexts(v, "bogus") })
	if err != nil {
		return nil, false, false, err
	}
	for _, c := range texts {
		name, under := strings.CutPrefix(c.Field, at)
		each := strings.HasSuffix(name, "[0]")
		name = strings.TrimSuffix(name, "[0]")
		if textsOk && under && c.Reason == "FieldValueNotSupported" && fieldOf(p.typ, name) && !strings.Contains(c.Message, "{") {
			one := out[name]
			if each {
				one.each = supported(c.Message)
			} else if isListField(p.typ, name) {
				t.partial[fmt.Sprintf("%s %s elements: %s", t.key(p.typ), name, c.Message)] = true
			} else {
				one.values = supported(c.Message)
			}
			out[name] = one
		}
	}
	for i := range p.typ.NumField() {
		f := p.typ.Field(i)
		j := jsonTag(f)
		if j.skip || j.inline || f.Type.Kind() != reflect.Slice || f.Type.Elem().Kind() == reflect.Uint8 {
			continue
		}
		twice, ok, err := s.probe(r, p, func(v reflect.Value) {
			list := reflect.MakeSlice(f.Type, 2, 2)
			for n := range 2 {
				fillTexts(list.Index(n), "a")
			}
			v.Field(i).Set(list)
		})
		if err != nil {
			return nil, false, false, err
		}
		for _, c := range twice {
			below, under := strings.CutPrefix(c.Field, at+j.name+"[1]")
			if ok && under && c.Reason == "FieldValueDuplicate" && below == "" && f.Type.Elem().Kind() == reflect.Struct {
				t.partial[fmt.Sprintf("%s %s has unique elements", t.key(p.typ), j.name)] = true
				break
			}
			if ok && under && c.Reason == "FieldValueDuplicate" {
				one := out[j.name]
				one.unique, one.hasUnique = strings.TrimPrefix(below, "."), true
				out[j.name] = one
				break
			}
		}
	}
	return out, true, textsOk, nil
}

func isStructField(rt reflect.Type, name string) bool {
	f, ok := byName(rt, name)
	return ok && f.Type.Kind() == reflect.Struct && special[f.Type.PkgPath()+"."+f.Type.Name()] == ""
}

func isListField(rt reflect.Type, name string) bool {
	f, ok := byName(rt, name)
	return ok && f.Type.Kind() == reflect.Slice
}

func byName(rt reflect.Type, name string) (reflect.StructField, bool) {
	for i := range rt.NumField() {
		if j := jsonTag(rt.Field(i)); !j.skip && !j.inline && j.name == name {
			return rt.Field(i), true
		}
	}
	return reflect.StructField{}, false
}

func hasCause(causes []cause, reason, field string) bool {
	for _, c := range causes {
		if c.Reason == reason && c.Field == field {
			return true
		}
	}
	return false
}

// fillSiblings gives every field of a struct but one a value, inline structs included.
func fillSiblings(v reflect.Value, but string, enums map[string][]string) {
	for i := range v.NumField() {
		f := v.Field(i)
		j := jsonTag(v.Type().Field(i))
		switch {
		case j.skip || admitted[j.name] || j.name == but || j.name == "apiVersion" || j.name == "kind" || j.name == "metadata":
		case j.inline:
			if f.Kind() == reflect.Struct {
				fillSiblings(f, but, enums)
			}
		case f.Kind() == reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
			fillTexts(f.Elem(), "a")
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() != reflect.Uint8:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			fillTexts(f.Index(0), "a")
		case f.Kind() == reflect.String && f.Type().PkgPath() != "" &&
			len(enums[shortPackage(f.Type().PkgPath())+"."+f.Type().Name()]) > 0:
			f.SetString(enums[shortPackage(f.Type().PkgPath())+"."+f.Type().Name()][0])
		default:
			fillTexts(f, "a")
		}
	}
}

func fieldOf(rt reflect.Type, name string) bool {
	for i := range rt.NumField() {
		j := jsonTag(rt.Field(i))
		if j.inline && rt.Field(i).Type.Kind() == reflect.Struct && fieldOf(rt.Field(i).Type, name) {
			return true
		}
		if !j.skip && !j.inline && j.name == name {
			return true
		}
	}
	return false
}

// probePath is how the server names the place of a position, with the dot or nothing at its end.
func probePath(p position) string {
	rt, _ := lookup(p.root)
	path := ""
	for _, i := range p.path {
		f := rt.Field(i)
		if j := jsonTag(f); !j.inline {
			path += j.name
			if f.Type.Kind() == reflect.Slice {
				path += "[0]"
			}
			path += "."
		}
		rt = f.Type
		for rt.Kind() == reflect.Pointer || rt.Kind() == reflect.Slice {
			rt = rt.Elem()
		}
	}
	return path
}

var quotedValue = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)

func supported(message string) []string {
	_, list, ok := strings.Cut(message, "supported values: ")
	if !ok {
		return nil
	}
	var out []string
	for _, match := range quotedValue.FindAllStringSubmatch(list, -1) {
		out = append(out, match[1])
	}
	return out
}

// admitted are fields that admission looks up before anything is validated.
var admitted = map[string]bool{"priorityClassName": true, "runtimeClassName": true, "priority": true}

// fillTexts sets every text of a struct, or the text itself.
func fillTexts(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Pointer:
		if v.Type().Elem().Kind() == reflect.String {
			v.Set(reflect.New(v.Type().Elem()))
			v.Elem().SetString(text)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.String {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			v.Index(0).SetString(text)
		}
	case reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Struct:
		if special[v.Type().PkgPath()+"."+v.Type().Name()] != "" {
			return
		}
		for i := range v.NumField() {
			j := jsonTag(v.Type().Field(i))
			if !j.skip && !admitted[j.name] && j.name != "apiVersion" && j.name != "kind" {
				fillTexts(v.Field(i), text)
			}
		}
	}
}

// probe sends a dry run of an object with only the way to the position allocated. It tells whether the object came
// as far as validation.
func (s *server) probe(r *resource, p position, change func(reflect.Value)) ([]cause, bool, error) {
	rt, _ := lookup(p.root)
	object := reflect.New(rt)
	at, _ := reach(object.Elem(), p.path, true)
	if change != nil && len(p.path) > 0 {
		change(at)
	}
	raw, err := json.Marshal(object.Interface())
	if err != nil {
		return nil, false, nil // a bare probe of some types has no JSON form
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return nil, false, err
	}
	tree["apiVersion"], tree["kind"] = r.gv.String(), r.ResponseKind.Kind
	metadata, _ := tree["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
		tree["metadata"] = metadata
	}
	metadata["name"] = "probe"
	path := gvPath(r.gv)
	if r.Scope == "Namespaced" {
		path += "/namespaces/default"
		metadata["namespace"] = "default"
	}
	body, err := json.Marshal(tree)
	if err != nil {
		return nil, false, err
	}
	req, err := http.NewRequest("POST", s.base+path+"/"+r.Resource+"?dryRun=All", bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Authorization", "Bearer probe")
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer res.Body.Close()
	var status struct{ Details struct{ Causes []cause } }
	if err := json.NewDecoder(res.Body).Decode(&status); err != nil {
		return nil, false, err
	}
	return status.Details.Causes, res.StatusCode == 422 || res.StatusCode == 201, nil
}
