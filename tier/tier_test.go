package tier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBytes_String_OneDecimalInTheLargestUnit(t *testing.T) {
	for b, want := range map[Bytes]string{
		0: "0 B", 17: "17 B", 1023: "1023 B", KiB: "1.0 KiB", 3 * GiB: "3.0 GiB", 3*GiB/2 + 1: "1.5 GiB",
		-2 * MiB: "-2.0 MiB", Unlimited: "unlimited", math.MinInt64: "-8589934592.0 GiB", None: "-1 B",
	} {
		if got := b.String(); got != want {
			t.Errorf("Bytes(%d).String() = %q, want %q", int64(b), got, want)
		}
	}
}

func TestFromGB_AnyNumber_FitsOrIsInvalid(t *testing.T) {
	for _, gb := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e300, -1e300, 1 << 33} {
		if b, err := FromGB(gb); !errors.Is(err, ErrInvalid) {
			t.Errorf("FromGB(%v) = %v, %v; want ErrInvalid", gb, b, err)
		}
	}
	if b, err := FromGB(1.3); err != nil || b != 1395864371 {
		t.Errorf("FromGB(1.3) = %d, %v", b, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Int64Range(0, 1<<50).Draw(t, "bytes"))
		if got, err := FromGB(b.GB()); err != nil || got != b {
			t.Fatalf("FromGB(%d.GB()) = %d, %v", b, got, err)
		}
	})
}

func TestApart_WhatDiffers_LooksDifferent(t *testing.T) {
	for _, c := range []struct {
		a, b Bytes
		x, y string
	}{
		{8 * GiB, 7 * GiB, "8.0", "7.0"}, {GiB, GiB, "1.0", "1.0"},
		{468640000, 429496729, "0.44", "0.40"}, {2, 1, "0.000000002", "0.000000001"},
	} {
		if x, y := c.a.Apart(c.b); x != c.x || y != c.y {
			t.Errorf("Apart(%d, %d) = %s, %s; want %s, %s", c.a, c.b, x, y, c.x, c.y)
		}
	}
}

func TestBytes_Add_SaturatesInsteadOfWrapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := Bytes(rapid.Int64().Draw(t, "a")), Bytes(rapid.Int64().Draw(t, "b"))
		sum, ok := a.Add(b)
		exact := float64(a) + float64(b)
		if ok != (sum == a+b && math.Abs(exact-float64(sum)) < 1e4) {
			t.Fatalf("%d + %d = %d, %v", a, b, sum, ok)
		}
		if !ok && sum != math.MaxInt64 && sum != math.MinInt64 {
			t.Fatalf("%d + %d = %d, not saturated", a, b, sum)
		}
	})
}

func TestTier_NamesOnTheWire_RoundTrip(t *testing.T) {
	for _, want := range []Tier{Storage, Swap, RAM} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Tier
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Errorf("%s is read as %v, %v", text, got, err)
		}
	}
	for _, name := range []string{"", "RAM", "vram", "tier(3)"} {
		if _, err := ParseTier(name); !errors.Is(err, ErrInvalid) || len(Suggestions(err)) == 0 {
			t.Errorf("ParseTier(%q): %v", name, err)
		}
	}
}

func TestModel_Footprint_KeptBytesAreInRAMAndTheRestInSwap(t *testing.T) {
	m := Model{Size: 10, Runtime: 3}
	for _, c := range []struct {
		tier    Tier
		keep    Bytes
		serving bool
		want    Footprint
	}{
		{Storage, 4, true, Footprint{}},
		{RAM, 4, false, Footprint{RAM: 13}},
		{Swap, 0, false, Footprint{Swap: 10}},
		{Swap, 4, false, Footprint{RAM: 4, Swap: 6}},
		{Swap, 4, true, Footprint{RAM: 7, Swap: 6}},
		{Swap, 99, false, Footprint{RAM: 10}},
		{Swap, -5, false, Footprint{Swap: 10}},
	} {
		if got := m.Footprint(c.tier, c.keep, c.serving); got != c.want {
			t.Errorf("in %v, keep %d, serving %v: %v, want %v", c.tier, c.keep, c.serving, got, c.want)
		}
	}
}

func TestModel_Validate_NamesEveryFaultAtOnce(t *testing.T) {
	m := Model{Name: "a\x00b", Size: -1, Runtime: -1, Home: 9, Quality: math.NaN(), Capabilities: []string{"", "ok"}}
	err := m.Validate()
	for _, field := range []string{"name", "size", "runtime", "home", "quality", "capability"} {
		if !strings.Contains(fmt.Sprint(err), field+" ") {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("%v is not ErrInvalid", err)
	}
	if err := (&Model{Name: "org/model:8b ü", Size: 1}).Validate(); err != nil {
		t.Error(err)
	}
	long := (&Model{Name: strings.Repeat("x", 1<<20), Size: 1}).Validate()
	if n := len(long.Error()); n > 300 {
		t.Errorf("the error of a long name has %d bytes", n)
	}
}

func TestModel_Validate_DigestsAreOfItsFilesAndSHA256(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	for path, want := range map[string]bool{"/m/a.gguf": true, "/m/b.gguf": true, "/m/c.gguf": false, "": false, "/m": false, "/m/a.gguf/x": true, "/m/a.gguf2": false} {
		m := Model{Name: "m", Path: "/m/a.gguf", Parts: []string{"/m/b.gguf"}, Digests: map[string]Digest{path: {SHA256: sum}}}
		if err := m.Validate(); (err == nil) != want {
			t.Errorf("%q: %v", path, err)
		}
	}
	for digest, want := range map[string]bool{sum: true, sum + "00": false, sum[2:]: false, strings.ToUpper(sum): false, "g" + sum[1:]: false, "": false} {
		m := Model{Name: "m", Path: "a", Digests: map[string]Digest{"a": {SHA256: digest}}}
		if err := m.Validate(); (err == nil) != want {
			t.Errorf("%q: %v", digest, err)
		}
	}
	if err := (&Model{Name: "m", Size: 1, Digests: map[string]Digest{"": {SHA256: sum}}}).Validate(); err == nil {
		t.Error("a digest of no file is valid")
	}
}

func TestLimits_ZeroIsTheDefaultAndNoneIsNothing(t *testing.T) {
	if got := (Limits{}).OrElse(DefaultLimits()); got != DefaultLimits() {
		t.Errorf("%+v", got)
	}
	l := Limits{RAM: GiB, Swap: None, Reserved: None, MaxModel: Unlimited}
	if err := l.Validate(); err != nil {
		t.Error(err)
	}
	if s := l.Settled(); s.Swap != 0 || s.Reserved != 0 || s.RAM != GiB {
		t.Errorf("%+v", s)
	}
	err := Limits{RAM: None, Swap: -7, Reserved: -7}.Validate()
	if !errors.Is(err, ErrLimits) || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("want four faults, got %v", err)
	}
}

func TestLimits_CheckFloors_BindsOnlyLimitsThatKeptThem(t *testing.T) {
	low := Limits{RAM: floorRAM - 1, Swap: floorSwap, Reserved: floorReserved}
	if err := low.CheckFloors(DefaultLimits()); err == nil || err.Error() != "RAM limit must be >= 1.0GB" {
		t.Errorf("err = %v", err)
	}
	if err := low.CheckFloors(Limits{RAM: MiB, Swap: GiB, Reserved: MiB}); err != nil {
		t.Errorf("a scaled-down machine is bound: %v", err)
	}
}

func TestLibrary_WithAndWithout_LeaveTheOriginalAlone(t *testing.T) {
	l, err := NewLibrary([]Model{{Name: "a", Size: 1}, {Name: "b", Size: 2}, {Name: "c", Size: 3}})
	if err != nil {
		t.Fatal(err)
	}
	same := l.With(Model{Name: "b", Size: 20})
	more := same.With(Model{Name: "d", Size: 4})
	less := more.Without("a")
	names := func(l *Library) []string {
		var out []string
		for i, m := range l.All() {
			if j, ok := l.Find(m.Name); !ok || j != i || l.At(i) != m {
				t.Errorf("%s is at %d and found at %d", m.Name, i, j)
			}
			out = append(out, m.Name)
		}
		return out
	}
	for want, got := range map[string]*Library{"a b c": l, "a b c ": same, "a b c d": more, "b c d": less} {
		if s := strings.Join(names(got), " "); s != strings.TrimSpace(want) {
			t.Errorf("%q, want %q", s, want)
		}
	}
	if l.At(1).Size != 2 || same.At(1).Size != 20 || less.Without("unknown") != less {
		t.Error("a library was changed in place")
	}
	if got := more.Names(2); !slices.Equal(got, []string{"a", "b", "… and 2 more"}) {
		t.Errorf("Names(2) = %v", got)
	}
}

func TestAssembleLibrary_ManyModels_FoundByNameWithoutACopy(t *testing.T) {
	models := make([]Model, 10_000)
	for i := range models {
		models[i].Name = fmt.Sprint("m", i)
	}
	l := AssembleLibrary(models)
	if i, ok := l.Find("m9999"); !ok || i != 9999 || l.Len() != len(models) || l.At(0) != &models[0] {
		t.Errorf("m9999 is found at %d (%v) of %d", i, ok, l.Len())
	}
	if _, ok := l.Find("m10000"); ok || AssembleLibrary(nil).Len() != 0 {
		t.Error("a model that was not given is found")
	}
}

func TestNewLibrary_RepeatedNameAndBadModel_AreBothReported(t *testing.T) {
	_, err := NewLibrary([]Model{{Name: "a", Size: 1}, {Name: "a", Size: 2}, {Name: "b", Size: -1}})
	if !errors.Is(err, ErrExists) || !errors.Is(err, ErrInvalid) {
		t.Errorf("err = %v", err)
	}
}

func TestNearest_FindsWhatAPersonMeant(t *testing.T) {
	names := []string{"gpt2-small", "gpt2-large", "llama-7b", "bert-large"}
	for typed, want := range map[string]string{"llama-13b": "llama-7b", "gpt2-smal": "gpt2-small", "LLAMA-7B": "llama-7b", "gpt2": "gpt2-small", "zebra": ""} {
		got := append(Nearest(typed, names), "")
		if got[0] != want {
			t.Errorf("Nearest(%q) = %q, want %q first", typed, got, want)
		}
	}
	long := "org/Some_Model.With-A Long Name" // more separators than edits are forgiven
	for _, typed := range []string{"ORG SOME MODEL WITH A LONG NAME", "orgsomemodelwithalongname", "\uff2frg/Some_Model.With-A Long Name", "o\u0308rg/Some_Model.With-A Long Name"} {
		if got := Nearest(typed, []string{"other", long}); !slices.Equal(got, []string{long}) {
			t.Errorf("Nearest(%q) = %q, want %q", typed, got, long)
		}
	}
}

func TestLibrary_Aliases_StandForTheirModelsAsLongAsThereAreSome(t *testing.T) {
	l := AssembleLibrary([]Model{{Name: "a"}, {Name: "b"}}).WithAliases(map[string]string{"x": "b", "a": "b", "y": "c", "z": "x", "w": "b"})
	check := func(l *Library, name, want string) {
		t.Helper()
		got := ""
		if i, ok := l.Find(name); ok {
			got = l.At(i).Name
		}
		if got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	check(l, "x", "b")
	check(l, "a", "a") // no alias hides a model
	check(l, "y", "")
	check(l, "z", "") // nor is one of another
	check(l.With(Model{Name: "c"}), "y", "c")
	check(l.With(Model{Name: "x"}), "x", "x")
	check(l.With(Model{Name: "a", Size: 1}), "w", "b")
	check(l.Without("a"), "x", "b")
	check(l.Without("x"), "x", "b") // it is no model's name
	check(l.Without("b"), "x", "")
	check(l.WithAliases(nil), "x", "")
	if got := l.AliasesOf(1); !slices.Equal(got, []string{"w", "x"}) || l.AliasesOf(0) != nil {
		t.Errorf("b is called %q, a %q", got, l.AliasesOf(0))
	}
	if err := l.Unknown("y"); err.Of != "c" || !errors.Is(err, ErrNotFound) {
		t.Errorf("an alias whose model is not there: %v", err)
	}
}

func TestCode_EveryErrorHasAStableWordAndAWayOut(t *testing.T) {
	for _, c := range []struct {
		err  error
		is   error
		code string
	}{
		{&NotFoundError{What: "model", Name: "x"}, ErrNotFound, "not_found"},
		{&ExistsError{Model: "x"}, ErrExists, "exists"},
		{&NoCapableModelError{Capabilities: []string{"x"}, Unsafe: &CapacityError{}}, ErrNoCapableModel, "no_capable_model"},
		{&NoCapableModelError{Unsafe: &CapacityError{}}, ErrNoCapacity, "no_capable_model"},
		{&CapacityError{Never: true}, ErrTooLarge, "too_large"},
		{&CapacityError{}, ErrNoCapacity, "no_capacity"},
		{&BusyError{}, ErrBusy, "busy"},
		{&InUseError{}, ErrInUse, "in_use"},
		{&LimitsError{Reason: "no"}, ErrLimits, "limits"},
		{&StuckError{}, ErrStuck, "stuck"},
		{&DigestError{}, ErrDamaged, "damaged"},
		{&MoveError{Err: &DigestError{Source: "/m/SHA256SUMS"}}, ErrDamaged, "damaged"},
		{&InvalidError{Field: "x", Rule: "must be y"}, ErrInvalid, "invalid_request"},
		{&PanicError{Part: "mover", Value: context.Canceled}, ErrPanic, "internal"},
		{&MoveError{Err: context.Canceled}, ErrMove, "move_failed"},
		{fmt.Errorf("wrapped: %w", ErrClosed), ErrClosed, "closed"},
		{context.Canceled, context.Canceled, "canceled"},
		{context.DeadlineExceeded, context.DeadlineExceeded, "deadline_exceeded"},
	} {
		if !errors.Is(c.err, c.is) || Code(c.err) != c.code || len(Suggestions(c.err)) == 0 || c.err.Error() == "" {
			t.Errorf("%T %q: is %v: %v, code %q, suggestions %q", c.err, c.err, c.is, errors.Is(c.err, c.is), Code(c.err), Suggestions(c.err))
		}
	}
	if Code(nil) != "" || Code(errors.New("?")) != "internal" {
		t.Error("nil and foreign errors")
	}
}

func TestErrors_CountsAndGaps_ReadAsSentences(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&InUseError{Model: "a", Leases: 1}, "Model 'a' is in use by 1 lease"},
		{&InUseError{Model: "a", Leases: 2}, "Model 'a' is in use by 2 leases"},
		{&StuckError{Model: "a", What: "The load", After: time.Minute, Bytes: GiB}, "The load of 'a' did not end within 1m0s; 1.0 GiB stay charged"},
		{&StuckError{What: "A move", Model: "a", Bytes: GiB}, "A move of 'a' did not end in time; 1.0 GiB stay charged"},
		{&StuckError{What: "The placement", After: 10 * time.Second}, "The placement did not end within 10s"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got, want := (Holder{Model: "a", Bytes: GiB, Leases: 1}).String(), "a (1.0 GiB, 1 lease)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestChoice_Reason_HasTheRecordedWording(t *testing.T) {
	for want, c := range map[string]Choice{
		"Explicit model 'gpt2-large' selected":                               {Model: "gpt2-large", Score: math.NaN()},
		"Intelligent selection: llama-7b (score: 2.5)":                       {Model: "llama-7b", Mode: Auto, Score: 2.5},
		"Intelligent selection: a (score: 0.0)":                              {Model: "a", Mode: Auto, Score: -0.04},
		"Intelligent selection: a (score: -0.1)":                             {Model: "a", Mode: Auto, Score: -0.06},
		"Preferred model 'a' selected":                                       {Model: "a", Mode: Hybrid},
		"Intelligent selection: b (score: 0.9); fell back: 'a' is too large": {Model: "b", Mode: Hybrid, FellBack: true, Why: "'a' is too large", Score: 0.9},
	} {
		if got := c.Reason(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMemory_Validate_NamesWhatCannotBe(t *testing.T) {
	for _, m := range []Memory{{Available: -1}, {Total: 1, Available: 2}, {SwapTotal: 1, SwapFree: 2}, {CompressedSwapFree: -3}} {
		if err := m.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if err := (&Memory{Available: 5, SwapFree: 3}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestDoc_OptionalInterfaces_AllInTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "contract.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	optional := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		name := spec.Name.Name
		if _, ok := spec.Type.(*ast.InterfaceType); !ok || slices.Contains([]string{"Selector", "Placement", "MemoryProbe", "Mover"}, name) {
			return true
		}
		optional++
		if row := regexp.MustCompile(`(?m)^//\t.*\b` + name + ` {2,}\S`); !row.Match(doc) {
			t.Errorf("the table in doc.go lacks %s", name)
		}
		return true
	})
	if optional < 15 {
		t.Errorf("only %d optional interfaces were found", optional)
	}
}

func FuzzParseRequestWords(f *testing.F) {
	f.Add("ram")
	f.Add("speed")
	f.Fuzz(func(t *testing.T, s string) {
		if tr, err := ParseTier(s); err == nil && tr.String() != s {
			t.Errorf("ParseTier(%q) = %v", s, tr)
		}
		if p, err := ParsePriority(s); err == nil && p.String() != s {
			t.Errorf("ParsePriority(%q) = %v", s, p)
		}
		if err := CheckName("name", s); err == nil && (s == "" || len(s) > MaxNameLength) {
			t.Errorf("CheckName(%q) = nil", s)
		}
		Nearest(s, []string{"gpt2-small", s})
	})
}

func TestLimitsAndMemory_Compare(t *testing.T) {
	for _, of := range []reflect.Type{reflect.TypeFor[Limits](), reflect.TypeFor[Memory]()} {
		if !of.Comparable() {
			t.Errorf("%v does not compare with ==", of)
		}
	}
	a, b := Memory{Total: 2, Notes: "one"}, Memory{Total: 2, Notes: "one"}
	if a != b || a == (Memory{Total: 2, Notes: "two"}) {
		t.Error("memory does not compare by its figures and notes")
	}
}

func TestNotes_AreLinesAndAnArrayInJSON(t *testing.T) {
	for _, c := range []struct {
		notes Notes
		all   []string
		json  string
	}{
		{"", nil, `{}`},
		{Notes("").With("one"), []string{"one"}, `{"notes":["one"]}`},
		{Notes("one").With("two", "a\nbreak"), []string{"one", "two", "a break"}, `{"notes":["one","two","a break"]}`},
		{Notes("one").With(), []string{"one"}, `{"notes":["one"]}`},
	} {
		if got := c.notes.All(); !slices.Equal(got, c.all) {
			t.Errorf("%q: %q, want %q", c.notes, got, c.all)
		}
		type holder struct {
			Notes Notes `json:"notes,omitempty"`
		}
		text, err := json.Marshal(holder{c.notes})
		if err != nil || string(text) != c.json {
			t.Errorf("%q: %s, %v, want %s", c.notes, text, err, c.json)
		}
		var back holder
		if err := json.Unmarshal(text, &back); err != nil || back.Notes != c.notes {
			t.Errorf("%s came back as %q, %v", text, back.Notes, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"notes":"one"}`), new(Memory)); err == nil {
		t.Error("a string is taken for notes")
	}
}

// A progress that comes after the move's end gives no thread another priority: it may be
// another goroutine's by then.
func TestLoading_ProgressAfterTheEnd_RestoresNothing(t *testing.T) {
	ctx, urge := Background(t.Context())
	passed, restored := 0, 0
	l := beginLoading(ctx, 1, func(Bytes) { passed++ })
	restore := l.restore
	l.restore = func() bool { restored++; return restore == nil || restore() }
	l.end()
	urge()
	l.reached(1)
	if restored != 1 || passed != 0 {
		t.Errorf("restored %d times, and %d reports passed on", restored, passed)
	}
}
