package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestWatch_File_ToldOnceItIsDoneWith(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	size := 2
	write := func(at string) { // each time another size, so that the clock of the file system does not matter
		t.Helper()
		size++
		if err := os.WriteFile(at, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	write(path) // before anything looks
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.Watch(ctx, time.Second, func() { told.Add(1) })
		}()
		after := func(what string, looks int, want int64) {
			t.Helper()
			time.Sleep(time.Duration(looks) * time.Second)
			synctest.Wait()
			if got := told.Load(); got != want {
				t.Errorf("%s: told %d times, want %d", what, got, want)
			}
		}
		after("changed since it was read", 3, 1)
		write(path)
		after("changed just now", 1, 1)
		write(path)
		after("still being written", 1, 1)
		after("done with", 1, 2)
		after("the same", 5, 2)
		os.Remove(path)
		after("gone", 5, 2)
		write(path + ".new")
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		after("replaced", 5, 3)
		os.Remove(path)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		after("a folder", 5, 4)
		cancel()
		<-ended
	})
	if _, _, err := Read(path); err == nil {
		t.Error("a folder is read")
	}
}

func TestMachineLimits_FitTheMachine(t *testing.T) {
	for _, total := range []tier.Bytes{1, tier.MiB, 300 * tier.MiB, tier.GiB, 8*tier.GiB - 300*tier.MiB, 64 * tier.GiB, tier.Unlimited} {
		mem := tier.Memory{Total: total}
		l := MachineLimits(mem)
		if total > 1 {
			if err := l.Validate(); err != nil {
				t.Errorf("%v: %v", total, err)
			}
		}
		if told := Beyond(l, mem); len(told) > 0 {
			t.Errorf("%v: %q", total, told)
		}
	}
	if l := MachineLimits(tier.Memory{Total: 8 * tier.GiB}); l != (tier.Limits{RAM: 7 * tier.GiB, Swap: 14 * tier.GiB, Reserved: tier.GiB, MaxModel: 14 * tier.GiB}) {
		t.Errorf("%+v", l)
	}
	if l := MachineLimits(tier.Memory{}); l != tier.DefaultLimits() {
		t.Errorf("%+v", l)
	}
}

func TestBeyond_LimitsThatTheMachineCannotHave_AreTold(t *testing.T) {
	mem := tier.Memory{Total: 4 * tier.GiB, Source: "/sys/fs/cgroup/x"}
	for want, l := range map[string]tier.Limits{
		"limits.ram is 5.0 GiB, and the container has 4.0 GiB, of which limits.reserve keeps 1.0 GiB free: models will get 3.0 GiB at most": tier.DefaultLimits(),
		"the container has 4.0 GiB, and limits.reserve keeps 4.0 GiB free of it: no model will be loaded; lower it":                         {RAM: tier.GiB, Reserved: 4 * tier.GiB},
		"no bound":  {RAM: tier.Unlimited, Reserved: tier.GiB},
		"all of it": {RAM: 3 * tier.GiB, Swap: 100 * tier.GiB, Reserved: tier.GiB},
	} {
		got := Beyond(l, mem)
		if strings.Contains(want, ": ") && (len(got) != 1 || got[0] != want) || !strings.Contains(want, ": ") && len(got) > 0 {
			t.Errorf("%+v: %q", l, got)
		}
	}
}
