package modeltier_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestVerify_FileCannotBeRead_LoadFailsAndSaysWhy(t *testing.T) {
	for what, spoil := range map[string]func(path string) error{
		"a pipe":       func(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)) },
		"a folder":     func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"no such file": os.Remove,
	} {
		m := holding(t, weights(t, "m.gguf", tier.MiB))
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, verifying(m))
			if err := spoil(m.Path); err != nil {
				t.Fatal(err)
			}
			_, err := r.Acquire(t.Context(), modeltier.Request{Model: "m.gguf"})
			if !errors.Is(err, modeltier.ErrMove) || errors.Is(err, modeltier.ErrDamaged) || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
			r.wantMoves("load m.gguf", "unload m.gguf")
			r.wantUsed(0)
			if q := r.model("m.gguf").Quarantine; q != nil {
				t.Errorf("%s: in quarantine for %v", what, q)
			}
		})
	}
}
