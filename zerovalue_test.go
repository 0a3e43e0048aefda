package modeltier_test

import (
	"context"
	"fmt"
	"go/ast"
	"reflect"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
	"github.com/modeltier/modeltier/tier/process"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// zeros are pointers to the zero values of the exported types that have methods, by
// folder. Of those that are made by a function alone, madeBy says by which.
var zeros = map[string][]any{
	".":             {new(modeltier.Lease), new(modeltier.Manager), new(modeltier.MoveStats), new(modeltier.Reservation)},
	"tier":          {new(tier.BusyError), new(tier.Bytes), new(tier.CapacityError), new(tier.Choice), new(tier.Constraint), new(tier.DeadlineError), new(tier.ExistsError), new(tier.DigestError), new(tier.Footprint), new(tier.Holder), new(tier.InUseError), new(tier.InvalidError), new(tier.Library), new(tier.Limits), new(tier.LimitsError), new(tier.Memory), new(tier.MemoryProbeFunc), new(tier.Mode), new(tier.Model), new(tier.Move), new(tier.MoveError), new(tier.MoverFunc), new(tier.NoCapableModelError), new(tier.NotFoundError), new(tier.Notes), new(tier.PanicError), new(tier.Phase), new(tier.PlacementFunc), new(tier.PressureLevel), new(tier.Priority), new(tier.Protection), new(tier.Request), new(tier.SelectorFunc), new(tier.StuckError), new(tier.Tier), new(tier.View)},
	"selector":      {new(selector.Policies)},
	"safety":        {new(safety.Governor), new(safety.Probe)},
	"hotload":       {new(hotload.EstimateOptions), new(hotload.Estimation), new(hotload.Estimator), new(hotload.FileError), new(hotload.Format), new(hotload.Info), new(hotload.Job), new(hotload.JobState), new(hotload.Jobs), new(hotload.Kind), new(hotload.Role), new(hotload.Skipped), new(hotload.Watcher), new(hotload.Work)},
	"optimizer":     {new(optimizer.Hours), new(optimizer.LRU), new(optimizer.Learned), new(optimizer.Schedule), new(optimizer.WholeModels)},
	"jetson":        {new(jetson.Board), new(jetson.CPU), new(jetson.Family), new(jetson.Probe), new(jetson.Reader), new(jetson.Reading), new(jetson.Release), new(jetson.Sample), new(jetson.StorageKind), new(jetson.Tegrastats), new(jetson.Temperature)},
	"tier/mapped":   {new(mapped.ChangedError), new(mapped.Mover), new(mapped.Weights)},
	"tier/process":  {new(process.Engine), new(process.EngineError), new(process.HTTPSleeper), new(process.Instance), new(process.Mover), new(process.Standby), new(process.Use)},
	"tier/tiertest": {new(tiertest.Machine), new(tiertest.Mover), new(tiertest.Probe), new(tiertest.Sticky)},
}

// madeBy are types whose zero value is of no use, and what makes one that is: they hold
// goroutines, files or what they were told to begin with.
var madeBy = map[string]string{
	"Manager":  "New",
	"Policies": "selector.New", "Work": "Jobs.Start", "Watcher": "hotload.Watch",
	"mapped.Mover": "mapped.New", "process.Mover": "process.New", "safety.Probe": "safety.NewProbe", "jetson.Probe": "jetson.NewProbe",
	"Jobs": "hotload.NewJobs", "Reader": "Tegrastats.Open", "Weights": "mapped.Mover", "Instance": "process.Mover", "Use": "process.Instance",
	"Sticky": "a Mover in it", "Scale": "a Mover in it", "Machine": "tiertest.NewMachine", "Recorder": "modeltiertest.NewManager",
}

// unasked are methods that are not called: what they do with zero arguments is the
// caller's fault, as an index out of range is.
var unasked = map[string]string{
	"Library.At": "an index", "Library.Versions": "an index", "View.Drainable": "an index", "View.Evictable": "an index", "View.Footprint": "an index",
}

func TestZeroValue_AnyExportedType_NoMethodPanics(t *testing.T) {
	for folder, listed := range zeros {
		var names []string
		for _, v := range listed {
			names = append(names, reflect.TypeOf(v).Elem().Name())
			if isMade(v) || reflect.TypeOf(v).Elem().Kind() == reflect.Func {
				continue // a nil function cannot be called
			}
			for fault := range faultsOf(v) {
				t.Errorf("%s", fault)
			}
		}
		for _, name := range withMethods(t, folder) {
			if !slices.Contains(names, name) && madeBy[name] == "" {
				t.Errorf("%s: the zero %s is not looked at", folder, name)
			}
		}
	}
}

func isMade(v any) bool {
	of := reflect.TypeOf(v).Elem()
	return madeBy[of.Name()] != "" || madeBy[of.String()] != ""
}

// faultsOf yields what goes wrong with the methods of a zero value, each called with zero
// values and a context that has ended.
func faultsOf(v any) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		for i := range reflect.TypeOf(v).NumMethod() {
			of := reflect.New(reflect.TypeOf(v).Elem()) // a panic may leave the one before locked
			m, what := of.Method(i), of.Type().Method(i).Name
			if unasked[of.Type().Elem().Name()+"."+what] != "" {
				continue
			}
			args, ok := make([]reflect.Value, m.Type().NumIn()), true
			for k := range args {
				switch in := m.Type().In(k); {
				case in == reflect.TypeFor[context.Context]():
					args[k] = reflect.ValueOf(ended)
				case in.Kind() == reflect.Interface && in != reflect.TypeFor[error]() && in != reflect.TypeFor[any]():
					ok = false // nil is the caller's fault
				case in == reflect.TypeFor[*tier.View]():
					args[k] = reflect.ValueOf(&tier.View{Library: new(tier.Library)})
				case in.Kind() == reflect.Pointer:
					args[k] = reflect.New(in.Elem())
				default:
					args[k] = reflect.Zero(in)
				}
			}
			if !ok {
				continue
			}
			name := fmt.Sprintf("%T.%s", v, what)
			fault := make(chan string, 1)
			go func() {
				defer func() {
					if r := recover(); r != nil {
						fault <- fmt.Sprintf("%s: %v\n%s", name, r, debug.Stack())
					}
					close(fault)
				}()
				if m.Type().IsVariadic() {
					m.CallSlice(args)
				} else {
					m.Call(args)
				}
			}()
			select {
			case text, panicked := <-fault:
				if panicked && !yield(text) {
					return
				}
			case <-time.After(2 * time.Second):
				if !yield(name + " does not return") {
					return
				}
			}
		}
	}
}

// withMethods returns the names of the exported types of a folder that have methods.
func withMethods(t *testing.T, folder string) (names []string) {
	for _, parsed := range parsedFiles(t, folder) {
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil || !f.Name.IsExported() {
				continue
			}
			of := f.Recv.List[0].Type
			if p, ok := of.(*ast.StarExpr); ok {
				of = p.X
			}
			if id, ok := of.(*ast.Ident); ok && id.IsExported() && !slices.Contains(names, id.Name) {
				names = append(names, id.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}
