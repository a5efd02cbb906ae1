// Command kubelet-fields prints the fields of KubeletConfiguration, of which type each is, and which minor versions of
// the kubelet have it. In: the sources that upstream publishes. Out: crds/kubelet-fields.txt.
//
// The sources are read, not compiled: that needs few modules, and takes seconds.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// One version of each minor, oldest first. Upstream's modules have a 0 where the kubelet has a 1.
var versions = []string{"v0.34.4", "v0.35.4", "v0.36.3", "v0.37.2"}

// The modules that have the configuration's types.
var modules = []string{"k8s.io/kubelet", "k8s.io/component-base", "k8s.io/apimachinery", "k8s.io/api"}

// Types that are written otherwise than they are declared.
var written = map[string]string{
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":        "duration",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":            "time",
	"k8s.io/apimachinery/pkg/api/resource.Quantity":        "quantity",
	"k8s.io/apimachinery/pkg/api/resource.QuantityValue":   "quantity",
	"k8s.io/component-base/logs/api/v1.TimeOrMetaDuration": "duration",
}

type field struct{ path, kind string }

func main() {
	log.SetFlags(0)
	minors := map[field][]int{}
	for number, version := range versions {
		fields, err := fieldsOf(version)
		if err != nil {
			log.Fatalf("KubeletConfiguration of %s: %v", version, err)
		}
		for _, one := range fields {
			minors[one] = append(minors[one], number)
		}
	}
	fields := make([]field, 0, len(minors))
	for one := range minors {
		fields = append(fields, one)
	}
	slices.SortFunc(fields, func(a, b field) int {
		return strings.Compare(a.path+" "+a.kind, b.path+" "+b.kind)
	})
	fmt.Printf("# KubeletConfiguration, by tests/kubelet-fields from k8s.io/kubelet %s. Written by: make generate\n",
		strings.Join(versions, ", "))
	for _, one := range fields {
		for _, span := range spans(minors[one]) {
			fmt.Println(span, one.path, one.kind)
		}
	}
}

// spans tells which minors these versions are: 1.34-1.36 where they follow each other.
func spans(numbers []int) []string {
	minor := func(number int) string {
		_, rest, _ := strings.Cut(versions[number], ".")
		minor, _, _ := strings.Cut(rest, ".")
		return "1." + minor
	}
	var found []string
	for begin := 0; begin < len(numbers); {
		end := begin
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		found = append(found, minor(numbers[begin])+"-"+minor(numbers[end]))
		begin = end + 1
	}
	return found
}

func fieldsOf(version string) ([]field, error) {
	folders, err := download(version)
	if err != nil {
		return nil, err
	}
	sources := &sources{folders: folders, files: token.NewFileSet(), read: map[string]*types.Package{}}
	config, err := sources.Import("k8s.io/kubelet/config/v1beta1")
	if err != nil {
		return nil, err
	}
	root := config.Scope().Lookup("KubeletConfiguration")
	if root == nil {
		return nil, fmt.Errorf("%s has no such type", config.Path())
	}
	table := table{}
	if err := table.add("", root.Type()); err != nil {
		return nil, err
	}
	return table.fields, nil
}

// download gives the folder of each module.
func download(version string) (map[string]string, error) {
	words := []string{"mod", "download", "-json"}
	for _, module := range modules {
		words = append(words, module+"@"+version)
	}
	command := exec.Command("go", words...)
	command.Stderr = os.Stderr
	output, err := command.Output()
	folders := map[string]string{}
	decoder := json.NewDecoder(bytes.NewReader(output))
	for decoder.More() {
		var module struct{ Path, Dir, Error string }
		if err := decoder.Decode(&module); err != nil {
			return nil, err
		}
		if module.Error != "" {
			return nil, fmt.Errorf("%s cannot be had: %s", module.Path, module.Error)
		}
		folders[module.Path] = module.Dir
	}
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	return folders, nil
}

// sources gives packages with their declarations, without what is in functions. What belongs to no module of ours is an
// empty package: the configuration has none of its types, or the table would say so.
type sources struct {
	folders map[string]string
	files   *token.FileSet
	read    map[string]*types.Package
}

func (s *sources) Import(path string) (*types.Package, error) {
	if known := s.read[path]; known != nil {
		return known, nil
	}
	names, err := s.names(path)
	if err != nil {
		return nil, err
	}
	if names == nil {
		empty := types.NewPackage(path, filepath.Base(path))
		empty.MarkComplete()
		s.read[path] = empty
		return empty, nil
	}
	var files []*ast.File
	for _, name := range names {
		file, err := parser.ParseFile(s.files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	// What the empty packages lack is an error each.
	config := types.Config{Importer: s, IgnoreFuncBodies: true, Error: func(error) {}}
	found, _ := config.Check(path, s.files, files, nil)
	s.read[path] = found
	return found, nil
}

func (s *sources) names(path string) ([]string, error) {
	for module, folder := range s.folders {
		rest, ok := strings.CutPrefix(path+"/", module+"/")
		if !ok {
			continue
		}
		inside := filepath.Join(folder, rest)
		found, err := build.ImportDir(inside, 0)
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, name := range found.GoFiles {
			// Generated are only methods, and many.
			if !strings.Contains(name, "generated") {
				names = append(names, filepath.Join(inside, name))
			}
		}
		return names, nil
	}
	return nil, nil
}

type table struct{ fields []field }

// add adds what is at a path: itself, and all that is in it. What is in a list has [] behind its path, what is in a map {}.
func (t *table) add(path string, kind types.Type) error {
	kind = types.Unalias(kind)
	say := func(name string) {
		if path != "" {
			t.fields = append(t.fields, field{path, name})
		}
	}
	if named, ok := kind.(*types.Named); ok {
		full := named.Obj().Pkg().Path() + "." + named.Obj().Name()
		if name, ok := written[full]; ok {
			say(name)
			return nil
		}
		reads, _, _ := types.LookupFieldOrMethod(types.NewPointer(named), true, named.Obj().Pkg(), "UnmarshalJSON")
		if _, ok := reads.(*types.Func); ok {
			return fmt.Errorf("%s: %s reads JSON in a way of its own: say in `written` how", path, full)
		}
	}
	switch kind := kind.Underlying().(type) {
	case *types.Pointer:
		return t.add(path, kind.Elem())
	case *types.Slice:
		say("list")
		return t.add(path+"[]", kind.Elem())
	case *types.Map:
		say("map")
		return t.add(path+"{}", kind.Elem())
	case *types.Struct:
		say("object")
		return t.addFields(path, kind)
	case *types.Basic:
		switch kind.Kind() {
		case types.String, types.Int32, types.Int64, types.Uint32:
			say(kind.Name())
			return nil
		case types.Bool:
			say("boolean")
			return nil
		case types.Float64:
			say("number")
			return nil
		}
	}
	return fmt.Errorf("%s: no word for %s", path, kind)
}

func (t *table) addFields(path string, kind *types.Struct) error {
	for number := range kind.NumFields() {
		name, _, _ := strings.Cut(reflect.StructTag(kind.Tag(number)).Get("json"), ",")
		below := path
		switch member := kind.Field(number); {
		case name == "-" || !member.Exported():
			continue
		case member.Name() == "TypeMeta":
			// apiVersion and kind are no setting.
			continue
		case name == "" && member.Embedded():
			embedded, ok := member.Type().Underlying().(*types.Struct)
			if !ok {
				return fmt.Errorf("%s.%s: embedded, and no struct", path, member.Name())
			}
			if err := t.addFields(path, embedded); err != nil {
				return err
			}
			continue
		case name == "":
			return fmt.Errorf("%s.%s has no name in JSON", path, member.Name())
		case path == "":
			below = name
		default:
			below = path + "." + name
		}
		if err := t.add(below, kind.Field(number).Type()); err != nil {
			return err
		}
	}
	return nil
}
